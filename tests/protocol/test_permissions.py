"""Permission rules in the one shape that OpenCode takes."""

from __future__ import annotations

from typing import Any

import pytest

from opencode_async.protocol.permissions import Action, PermissionRule, Permissions
from tests.protocol.recording import NAMES, recording


def test_a_rule_has_all_three_fields_on_the_wire() -> None:
    assert PermissionRule("bash", "*", "ask").to_json() == {
        "permission": "bash",
        "pattern": "*",
        "action": "ask",
    }


def test_it_is_the_shape_that_the_real_server_took_and_echoed() -> None:
    created = [
        row
        for name in NAMES
        for row in recording(name).rows
        if row.get("req") == "POST /session" and (row.get("body") or {}).get("permission")
    ]
    taken = [row for row in created if row["status"] == 200]
    assert taken
    for row in taken:
        for raw in row["body"]["permission"]:
            assert PermissionRule(**raw).to_json() == raw
            assert raw in row["answer"]["permission"]
    # An object, or rules with other keys, were refused.
    assert [row["status"] for row in created if row not in taken] == [400, 400]


INSIDE = "srv/sandbox/one"
PRESETS = {
    "read_only": Permissions.read_only(),
    "sandboxed": Permissions.sandboxed().inside(INSIDE),
    "unattended": Permissions.unattended(),
}
# What each preset says: in its own order of read_only, sandboxed, unattended. None: OpenCode's own
# rules say it, by which all is allowed but what it asks for by itself.
ALLOW: Action = "allow"
DENY: Action = "deny"
SAID: list[tuple[str, str, tuple[Action | None, Action | None, Action | None]]] = [
    ("read", "srv/notes.txt", (ALLOW, DENY, None)),
    ("read", f"{INSIDE}", (ALLOW, ALLOW, None)),
    ("read", f"{INSIDE}/deep/notes.txt", (ALLOW, ALLOW, None)),
    ("read", "srv/sandbox/one-more/notes.txt", (ALLOW, DENY, None)),
    ("read", "srv/.env", (DENY, DENY, DENY)),
    ("read", "srv/.env.local", (DENY, DENY, DENY)),
    ("read", "srv/.env.example", (ALLOW, DENY, ALLOW)),
    ("edit", "srv/notes.txt", (DENY, DENY, None)),
    ("edit", f"{INSIDE}/notes.txt", (DENY, ALLOW, None)),
    ("glob", "*", (ALLOW, DENY, None)),
    ("grep", "secret", (ALLOW, DENY, None)),
    ("todowrite", "*", (ALLOW, ALLOW, None)),
    ("bash", "ls", (DENY, DENY, None)),
    ("task", "general", (DENY, DENY, None)),
    ("webfetch", "http://127.0.0.1/", (DENY, DENY, None)),
    ("question", "*", (DENY, DENY, DENY)),
    ("external_directory", "/etc/*", (DENY, DENY, DENY)),
    ("doom_loop", "bash", (DENY, DENY, DENY)),
    ("mcp_tool_of_the_host", "*", (DENY, DENY, None)),
]


@pytest.mark.parametrize(("permission", "pattern", "said"), SAID)
def test_what_the_presets_say(
    permission: str, pattern: str, said: tuple[Action | None, ...]
) -> None:
    found = [preset.action(permission, [pattern]) for preset in PRESETS.values()]
    assert dict(zip(PRESETS, found, strict=True)) == dict(zip(PRESETS, said, strict=True))


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_leaves_anything_to_ask_a_person(name: str) -> None:
    assert "ask" not in {rule.action for rule in PRESETS[name].rules}


def test_of_the_rules_that_match_the_last_wins_also_of_two_sets() -> None:
    rules = Permissions().deny("bash").allow("bash", "git *", "ls").deny("bash", "git push*")
    said = [rules.action("bash", [each]) for each in ("git status", "ls", "git push x", "rm")]
    assert said == ["allow", "allow", "deny", "deny"]
    assert (rules + Permissions().ask("bash", "ls")).action("bash", ["ls"]) == "ask"
    assert (Permissions().ask("bash", "ls") + rules).action("bash", ["ls"]) == "allow"
    assert [rule["pattern"] for rule in rules.sent] == ["*", "git *", "ls", "git push*"]


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (["a", "b"], "deny"),
        (["a", "?"], "deny"),
        (["b", "c"], "ask"),
        (["c"], "allow"),
        (["b", "?"], None),
        (["c", "?"], None),
        ([], None),
    ],
)
def test_an_ask_for_several_things_is_as_the_strictest_of_them(
    patterns: list[str], said: Action | None
) -> None:
    rules = Permissions().deny("bash", "a").ask("bash", "b").allow("bash", "c")
    assert rules.action("bash", patterns) == said


@pytest.mark.parametrize(
    ("pattern", "value", "matches"),
    [
        ("*", "any\nthing/at all", True),
        ("git *", "git", True),
        ("git *", "git status", True),
        ("git *", "gitk", False),
        ("git*", "gitk", True),
        ("?.txt", "a.txt", True),
        ("?.txt", "ab.txt", False),
        ("src/*.py", "src/deep/down.py", True),
        ("a.b", "axb", False),
        ("src/*", "src\\a.py", True),
    ],
)
def test_a_pattern_matches_as_opencode_matches(pattern: str, value: str, matches: bool) -> None:
    found = Permissions().allow("bash", pattern).action("bash", [value])
    assert (found == "allow") is matches


def test_a_set_that_asks_starts_no_subagents_who_would_not_be_asked() -> None:
    denied = {"permission": "task", "pattern": "*", "action": "deny"}
    assert Permissions().ask("bash").sent[-1] == denied
    assert Permissions().ask("bash").allow("task").sent[-1] != denied
    assert Permissions().allow("task").ask("bash").sent[-1]["permission"] == "bash"
    assert denied not in Permissions().deny("bash").sent
    assert denied not in Permissions.unattended().sent


def test_the_sandbox_is_the_folder_and_what_is_in_it_and_edits_in_it_are_looked_at() -> None:
    rules = [(r["permission"], r["pattern"], r["action"]) for r in PRESETS["sandboxed"].sent]
    assert rules[0] == ("*", "*", "deny")
    assert rules[1:3] == [("read", INSIDE, "allow"), ("read", f"{INSIDE}/*", "allow")]
    assert [rule for rule in rules if rule[0] == "edit"][-2:] == [
        ("edit", INSIDE, "ask"),
        ("edit", f"{INSIDE}/*", "ask"),
    ]


def test_a_set_with_a_sandbox_is_of_one_conversation() -> None:
    assert Permissions.sandboxed().fenced
    assert not Permissions.read_only().fenced
    with pytest.raises(ValueError, match=r"inside\(pattern\)"):
        _ = Permissions.sandboxed().sent
    with pytest.raises(ValueError, match=r"inside\(pattern\)"):
        Permissions.sandboxed().action("read", ["x"])


@pytest.mark.parametrize("name", PRESETS)
def test_a_set_is_the_same_when_it_was_stored(name: str) -> None:
    assert Permissions.from_json(PRESETS[name].to_json()) == PRESETS[name]


WRONG: list[tuple[Any, ...]] = [
    ("", "*", "allow"),
    ("bash", "", "allow"),
    ("ba\0sh", "*", "allow"),
    ("bash", "\ud800", "allow"),
    ("bash", "*", "permit"),
    ("write", "*", "deny"),
    ("apply_patch", "*", "deny"),
]


@pytest.mark.parametrize("rule", WRONG)
def test_a_rule_that_opencode_would_refuse_or_never_apply_is_refused(rule: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"rule's|permission of"):
        PermissionRule(*rule)
