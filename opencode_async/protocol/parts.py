"""The parts of a reply: one shape for the stream, the REST answer, the row and the browser.

Streaming and recovery meet here. A part read from an event, from a REST answer or from a stored row
is the same frozen value, so comparing two of them decides whether followers must be told anything.

What a subagent says and does are parts among the others: ``subagent`` is its session, the
``session_id`` of the ``task`` call that started it and that stands before them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from opencode_async.protocol.wire import Malformed, mapping, optional_text, text

ToolStatus = Literal["pending", "running", "completed", "error"]
INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class TextPart:
    """A stretch of the answer's text, or of a subagent's."""

    id: str
    content: str
    subagent: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "type": "text", "content": self.content} | _whose(self)


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    """A stretch of the model's reasoning."""

    id: str
    content: str
    subagent: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "type": "reasoning", "content": self.content} | _whose(self)


@dataclass(frozen=True, slots=True)
class ToolPart:
    """One call of a tool.

    ``output`` comes with ``completed``, ``error`` with ``error``; ``session_id`` is the child
    session that a ``task`` call started.
    """

    id: str
    tool: str
    call_id: str
    status: ToolStatus
    input: Mapping[str, Any]
    output: str | None = None
    title: str | None = None
    error: str | None = None
    metadata: Mapping[str, Any] | None = None
    session_id: str | None = None
    subagent: str | None = None

    def to_json(self) -> dict[str, Any]:
        required = {
            "id": self.id,
            "type": "tool",
            "tool": self.tool,
            "call_id": self.call_id,
            "status": self.status,
            "input": self.input,
        }
        optional = {
            "output": self.output,
            "title": self.title,
            "error": self.error,
            "metadata": self.metadata,
            "session_id": self.session_id,
        }
        given = {key: value for key, value in optional.items() if value is not None}
        return required | given | _whose(self)


Part = TextPart | ReasoningPart | ToolPart
KINDS: Mapping[str, type[Part]] = {"text": TextPart, "reasoning": ReasoningPart, "tool": ToolPart}


def part_from_wire(raw: Mapping[str, Any]) -> Part | None:
    """The part in an OpenCode part object; ``None`` for kinds not shown (steps, files, …)."""
    match raw.get("type"):
        case "text":
            return TextPart(text(raw, "id"), text(raw, "text"))
        case "reasoning":
            return ReasoningPart(text(raw, "id"), text(raw, "text"))
        case "tool":
            return _tool_from_wire(raw)
    return None


def _tool_from_wire(raw: Mapping[str, Any]) -> ToolPart:
    state = mapping(raw.get("state"), "state")
    status = text(state, "status")
    if status not in ("pending", "running", "completed", "error"):
        raise Malformed(f"unknown tool status {status}")
    tool = text(raw, "tool")
    arguments = state.get("input")
    metadata = state.get("metadata")
    child = metadata.get("sessionId") if isinstance(metadata, Mapping) else None
    return ToolPart(
        id=text(raw, "id"),
        tool=tool,
        call_id=optional_text(raw, "callID") or "",
        status=cast(ToolStatus, status),
        input=arguments if isinstance(arguments, Mapping) else {},
        output=optional_text(state, "output"),
        title=optional_text(state, "title"),
        error=optional_text(state, "error"),
        metadata=metadata if isinstance(metadata, Mapping) else None,
        session_id=child if tool == "task" and isinstance(child, str) else None,
    )


def part_from_json(stored: Mapping[str, Any]) -> Part:
    """The part that ``to_json`` wrote; fields that a later version added are left out."""
    kind = KINDS[stored["type"]]
    return kind(**{name: stored[name] for name in kind.__slots__ if name in stored})


def interrupted(part: Part) -> Part:
    """The part, a call that will never end stored as an error.

    A tool that was running when the OpenCode server died stays ``running`` in REST for ever
    (OpenCode 1.18.33, measured).
    """
    if isinstance(part, ToolPart) and part.status in ("pending", "running"):
        return replace(part, status="error", error=INTERRUPTED)
    return part


def joined(parts: Iterable[Part], kind: type[TextPart] | type[ReasoningPart]) -> str:
    """The contents of that kind of part, in order, joined by a blank line.

    Empty ones are left out, and what subagents said.
    """
    own = (p for p in parts if isinstance(p, kind) and p.subagent is None)
    return "\n\n".join(p.content for p in own if p.content)


def _whose(part: Part) -> dict[str, str]:
    return {} if part.subagent is None else {"subagent": part.subagent}
