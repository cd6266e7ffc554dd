"""The agents that OpenCode has by itself, and what each may do before any session's rules.

OpenCode 1.18.33, measured, but for folders of its own data, which an Impostor has not.
"""

from __future__ import annotations

from typing import Any

Rule = dict[str, str]


def rule(permission: str, pattern: str, action: str) -> Rule:
    """A rule, its keys in the order in which OpenCode tells an agent of it."""
    if permission in ("edit", "external_directory", "read", "task"):
        return {"permission": permission, "pattern": pattern, "action": action}
    return {"permission": permission, "action": action, "pattern": pattern}


ALL = [
    rule("*", "*", "allow"),
    rule("doom_loop", "*", "ask"),
    rule("external_directory", "*", "ask"),
    rule("question", "*", "deny"),
    rule("plan_enter", "*", "deny"),
    rule("plan_exit", "*", "deny"),
    rule("read", "*", "allow"),
    rule("read", "*.env", "ask"),
    rule("read", "*.env.*", "ask"),
    rule("read", "*.env.example", "allow"),
]
PLAN = [
    rule("question", "*", "allow"),
    rule("plan_exit", "*", "allow"),
    rule("task", "general", "deny"),
    rule("edit", "*", "deny"),
    rule("edit", ".opencode/plans/*.md", "allow"),
]
EXPLORE = [
    rule("*", "*", "deny"),
    *(
        rule(name, "*", "allow")
        for name in ("grep", "glob", "list", "bash", "webfetch", "websearch", "codesearch", "read")
    ),
]
AGENTS: dict[str, tuple[str, list[Rule]]] = {  # name -> mode, rules
    "build": ("primary", [*ALL, rule("question", "*", "allow"), rule("plan_enter", "*", "allow")]),
    "explore": ("subagent", [*ALL, *EXPLORE]),
    "general": ("subagent", [*ALL, rule("todowrite", "*", "deny")]),
    "plan": ("primary", [*ALL, *PLAN]),
}


def agents_json() -> list[dict[str, Any]]:
    """The answer of ``GET /agent``."""
    return [
        {"name": name, "mode": mode, "native": True, "permission": rules, "options": {}}
        for name, (mode, rules) in AGENTS.items()
    ]


def not_found(name: str) -> str:
    """What is said of an agent that there is not."""
    return f'Agent not found: "{name}". Available agents: {", ".join(sorted(AGENTS))}'
