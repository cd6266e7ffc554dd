"""What ``GET /event`` sends: each known wire type as one frozen dataclass, named after it.

The stream carries many more types than a turn needs (about 50 ``plugin.added`` on the first use of
a directory alone), and every release adds some: an unknown type is ``None``, never an error. A
known type with a field missing or mistyped raises ``Malformed``; the hub counts and reports it and
reads on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from opencode_async.protocol.asks import Permission, Question
from opencode_async.protocol.messages import MessageInfo, UpstreamError
from opencode_async.protocol.parts import Part, part_from_wire
from opencode_async.protocol.subagents import Subagent
from opencode_async.protocol.todos import Todo, todos_from_wire
from opencode_async.protocol.wire import Malformed, mapping, number, optional_text, text


@dataclass(frozen=True, slots=True)
class ServerConnected:
    """The server's listener is registered: nothing sent from now on is missed."""


@dataclass(frozen=True, slots=True)
class ServerHeartbeat:
    """Sent every 10 s on an otherwise silent stream."""


@dataclass(frozen=True, slots=True)
class SessionCreated:
    """``subagent`` if it is one's, a child of another session."""

    session_id: str
    subagent: Subagent | None


@dataclass(frozen=True, slots=True)
class SessionDeleted:
    """Its turn goes on, until it fails on the database (OpenCode 1.18.33, measured)."""

    session_id: str


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """``kind`` is busy, idle or retry; the rest comes with retry, ``next_at`` in ms since 1970."""

    session_id: str
    kind: str
    attempt: int = 0
    message: str = ""
    next_at: float = 0


@dataclass(frozen=True, slots=True)
class SessionIdle:
    session_id: str


@dataclass(frozen=True, slots=True)
class SessionError:
    """Not terminal by itself: automatic compaction sends one and goes on."""

    session_id: str
    error: UpstreamError


@dataclass(frozen=True, slots=True)
class MessageUpdated:
    session_id: str
    info: MessageInfo


@dataclass(frozen=True, slots=True)
class MessagePartUpdated:
    """A part as it now is. ``kind`` is its wire type, ``part`` is ``None`` for kinds not shown."""

    session_id: str
    message_id: str
    kind: str
    part: Part | None
    ended: bool


@dataclass(frozen=True, slots=True)
class MessagePartDelta:
    """Text to append to a text or reasoning part."""

    session_id: str
    message_id: str
    part_id: str
    delta: str


@dataclass(frozen=True, slots=True)
class TodoUpdated:
    session_id: str
    todos: tuple[Todo, ...]


@dataclass(frozen=True, slots=True)
class AskAnswered:
    """The ask of that id was granted or refused, answered or dismissed: ``reply`` says how."""

    session_id: str
    id: str
    reply: Mapping[str, Any]


SessionEvent = (
    SessionCreated
    | SessionDeleted
    | SessionStatus
    | SessionIdle
    | SessionError
    | MessageUpdated
    | MessagePartUpdated
    | MessagePartDelta
    | TodoUpdated
    | Permission
    | Question
    | AskAnswered
)
Event = ServerConnected | ServerHeartbeat | SessionEvent


def event_from_wire(frame: object) -> Event | None:
    """The event in a decoded frame ``{id, type, properties}``; ``None`` for types not used here.

    Raises ``Malformed`` for a known type whose fields are missing or of another type.
    """
    envelope = mapping(frame, "frame")
    read = READERS.get(text(envelope, "type"))
    return read(mapping(envelope.get("properties"), "properties")) if read else None


def _created(p: Mapping[str, Any]) -> SessionCreated:
    info = mapping(p.get("info"), "info")
    child = Subagent.from_wire(info) if info.get("parentID") is not None else None
    return SessionCreated(text(p, "sessionID"), child)


def _status(p: Mapping[str, Any]) -> SessionStatus:
    status = mapping(p.get("status"), "status")
    return SessionStatus(
        session_id=text(p, "sessionID"),
        kind=text(status, "type"),
        attempt=int(number(status, "attempt")),
        message=optional_text(status, "message") or "",
        next_at=number(status, "next"),
    )


def _part(p: Mapping[str, Any]) -> MessagePartUpdated:
    raw = mapping(p.get("part"), "part")
    time = raw.get("time")
    return MessagePartUpdated(
        session_id=optional_text(p, "sessionID") or text(raw, "sessionID"),
        message_id=text(raw, "messageID"),
        kind=text(raw, "type"),
        part=part_from_wire(raw),
        ended=isinstance(time, Mapping) and time.get("end") is not None,
    )


def _delta(p: Mapping[str, Any]) -> MessagePartDelta | None:
    # Only text grows by deltas so far; another field would be another kind of content.
    if p.get("field") != "text":
        return None
    return MessagePartDelta(
        text(p, "sessionID"), text(p, "messageID"), text(p, "partID"), text(p, "delta")
    )


def _answered(p: Mapping[str, Any]) -> AskAnswered:
    reply = {name: p[name] for name in ("reply", "answers") if name in p} or {"reject": True}
    return AskAnswered(text(p, "sessionID"), text(p, "requestID"), reply)


def _error(p: Mapping[str, Any]) -> SessionError | None:
    # Errors outside any session exist too; no turn can use them.
    session_id = optional_text(p, "sessionID")
    return SessionError(session_id, UpstreamError.from_wire(p.get("error"))) if session_id else None


def _todos(p: Mapping[str, Any]) -> TodoUpdated:
    todos = p.get("todos")
    if not isinstance(todos, list):
        raise Malformed(f"todos is {type(todos).__name__}, not an array")
    return TodoUpdated(text(p, "sessionID"), todos_from_wire(todos))


READERS: Mapping[str, Callable[[Mapping[str, Any]], Event | None]] = {
    "server.connected": lambda p: ServerConnected(),
    "server.heartbeat": lambda p: ServerHeartbeat(),
    "session.created": _created,
    "session.deleted": lambda p: SessionDeleted(text(p, "sessionID")),
    "session.status": _status,
    "session.idle": lambda p: SessionIdle(text(p, "sessionID")),
    "session.error": _error,
    "message.updated": lambda p: MessageUpdated(
        text(p, "sessionID"), MessageInfo.from_wire(p.get("info"))
    ),
    "message.part.updated": _part,
    "message.part.delta": _delta,
    "todo.updated": _todos,
    "permission.asked": Permission.from_wire,
    "question.asked": Question.from_wire,
    "permission.replied": _answered,
    "question.replied": _answered,
    "question.rejected": _answered,
}
