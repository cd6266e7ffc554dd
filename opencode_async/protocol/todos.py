"""The agent's todo list, as its ``todowrite`` tool keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from opencode_async.protocol.parts import Part, ToolPart
from opencode_async.protocol.wire import objects, optional_text


@dataclass(frozen=True, slots=True)
class Todo:
    """One entry.

    ``status`` is pending, in_progress, completed or cancelled; ``priority`` high, medium or low.
    """

    content: str
    status: str
    priority: str

    def to_json(self) -> dict[str, Any]:
        return {"content": self.content, "status": self.status, "priority": self.priority}


def todos_from_wire(value: object) -> tuple[Todo, ...]:
    """The list in a ``todo.updated`` event or a stored row; entries without text are left out."""
    return tuple(_todo(raw) for raw in objects(value) if optional_text(raw, "content"))


def _todo(raw: Mapping[str, Any]) -> Todo:
    return Todo(
        content=optional_text(raw, "content") or "",
        status=optional_text(raw, "status") or "pending",
        priority=optional_text(raw, "priority") or "medium",
    )


def todos_of(parts: Iterable[Part], *, final: bool) -> tuple[Todo, ...] | None:
    """The list as the last ``todowrite`` call left it; ``None`` if there was no such call.

    A subagent's list is its own. Unless ``final``, a call that is not done yet makes the list
    unknown: it may be told already.
    """
    own = [p for p in parts if isinstance(p, ToolPart) and p.subagent is None]
    calls = [p for p in own if p.tool == "todowrite"]
    done = [p for p in (calls if final else calls[-1:]) if p.status == "completed"]
    return todos_from_wire(done[-1].input.get("todos")) if done else None
