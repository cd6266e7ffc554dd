"""What each call of the model cost that a turn made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from opencode_async.protocol.messages import MessageInfo, Usage


@dataclass(frozen=True, slots=True)
class Charge:
    """What one step cost: one call of the model, which is one assistant message in OpenCode.

    ``message_id`` and ``session_id`` are OpenCode's; the session is the turn's or a subagent's, and
    a step may be the summary of an automatic compaction. ``model`` is ``provider/model``, ``None``
    if OpenCode did not name it. A step that was stopped costs what OpenCode says of it, 0 for one
    whose model had not told (1.18.33, measured).
    """

    message_id: str
    session_id: str
    model: str | None
    usage: Usage

    @classmethod
    def of(cls, info: MessageInfo) -> Self:
        return cls(info.id, info.session_id, info.model, info.usage)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The charge as ``to_json`` wrote it."""
        usage = Usage.from_json(stored)
        return cls(stored["message_id"], stored["session_id"], stored["model"], usage)

    def to_json(self) -> dict[str, Any]:
        return {
            "message_id": self.message_id,
            "session_id": self.session_id,
            "model": self.model,
            **self.usage.to_json(),
        }
