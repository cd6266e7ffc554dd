"""What the agent may do: OpenCode's permission rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class PermissionRule:
    """One rule; of those that match, the last wins.

    ``permission`` names a tool (``bash``, ``edit``, ``webfetch``, …, ``*``), ``pattern`` what it is
    applied to. OpenCode knows no other shape: all three are required (1.18.33, measured). An
    ``ask`` of a session does not reach its subagents; ``deny`` does.
    """

    permission: str
    pattern: str
    action: Literal["allow", "deny", "ask"]

    def to_json(self) -> dict[str, str]:
        return {"permission": self.permission, "pattern": self.pattern, "action": self.action}
