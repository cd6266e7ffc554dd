"""A session's own list of rules, to which OpenCode only ever adds: what to add so that a set holds.

The list that is there is compared, not a note of what was sent: it is what OpenCode goes by, and
no crash between two writes can make the two differ (a ``PATCH`` of ``metadata`` and ``permission``
is two of them: OpenCode 1.18.33, its source).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opencode_async.protocol.permissions import Rule
from opencode_async.protocol.wire import Malformed, mapping, objects, text


def rules_from_wire(source: Mapping[str, Any]) -> list[Rule]:
    """The ``permission`` of a session or an agent; a session that was given none has none."""
    return [
        {key: text(rule, key) for key in ("permission", "pattern", "action")}
        for rule in objects(source.get("permission"))
    ]


def agent_rules_from_wire(value: object, agent: str | None) -> list[Rule]:
    """The rules that an agent has by itself, out of ``GET /agent``.

    Unless named, the first is the one that answers (OpenCode 1.18.33, its source), and for one that
    there is not the prompt is refused anyway.
    """
    agents = [mapping(raw) for raw in objects(value)]
    if not agents:
        raise Malformed("no agents")
    named = [found for found in agents if found.get("name") == agent]
    return rules_from_wire((named or agents)[0])


def has_leftovers(stored: Sequence[Rule], wanted: Sequence[Rule]) -> bool:
    """Whether rules of an earlier set would go on where the wanted ones are silent."""
    kept = {(rule["permission"], rule["pattern"]) for rule in wanted}
    return any((rule["permission"], rule["pattern"]) not in kept for rule in stored)


def handed_down(rules: Sequence[Rule]) -> list[Rule]:
    """Those that OpenCode starts a subagent with, of its caller's (1.18.33, measured)."""
    return [r for r in rules if r["action"] == "deny" or r["permission"] == "external_directory"]


def missing(stored: Sequence[Rule], tail: Sequence[Rule]) -> list[Rule]:
    """What to add so that the list ends with ``tail``: nothing where it does already."""
    ends = list(stored[len(stored) - len(tail) :]) if len(tail) <= len(stored) else None
    return [] if ends == list(tail) else list(tail)
