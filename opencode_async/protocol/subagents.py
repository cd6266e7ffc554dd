"""Which subagent a call of the ``task`` tool started: its session is a child of the caller's.

OpenCode names the child in the call's metadata, but not reliably: the tool writes it into the call
while the server may be writing that it runs, and on a busy machine one write is lost, with a call
that fails or is stopped for ever (OpenCode 1.18.33, read from its code and seen). Then the child's
title tells, which is the call's description and the agent's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from opencode_async.protocol.parts import Part, ToolPart
from opencode_async.protocol.wire import mapping, number, optional_text, text

TASK = "task"


@dataclass(frozen=True, slots=True)
class Subagent:
    """A child session: ``created`` in ms since 1970, OpenCode's clock."""

    session_id: str
    parent_id: str
    title: str
    created: float

    @classmethod
    def from_wire(cls, raw: object) -> Self:
        """The child in a session object of a REST answer or of ``session.created``."""
        info = mapping(raw, "info")
        time = info.get("time")
        return cls(
            session_id=text(info, "id"),
            parent_id=text(info, "parentID"),
            title=optional_text(info, "title") or "",
            created=number(time if isinstance(time, Mapping) else {}, "created"),
        )

    def is_of(self, arguments: Mapping[str, Any]) -> bool:
        """Whether a call with these arguments may have started it."""
        description, agent = arguments.get("description"), arguments.get("subagent_type")
        return self.title == f"{description} (@{agent} subagent)"


def is_task(part: Part) -> bool:
    """Whether the part is a call that has a subagent work."""
    return isinstance(part, ToolPart) and part.tool == TASK


def child_of(part: Part) -> str | None:
    """The session that a call started, as far as it is known."""
    return part.session_id if isinstance(part, ToolPart) else None


def linked(parts: Iterable[Part], children: Iterable[Subagent]) -> tuple[Part, ...]:
    """One session's parts, each ``task`` call with its child if there is one left for it.

    ``children`` are those that may be the calls', in the order in which they were created.
    """
    found = tuple(parts)
    named = {child_of(part) for part in found}
    left = [child for child in children if child.session_id not in named]
    return tuple(_linked(part, left) for part in found)


def _linked(part: Part, left: list[Subagent]) -> Part:
    if not isinstance(part, ToolPart) or part.tool != TASK or part.session_id is not None:
        return part
    child = next((child for child in left if child.is_of(part.input)), None)
    if child is None:
        return part
    left.remove(child)
    return replace(part, session_id=child.session_id)
