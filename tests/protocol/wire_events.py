"""Small builders: wire objects as OpenCode sends them, and what followers make of changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from opencode_async.protocol.changes import PartAdded, PartDelta, PartUpdated, ReplyChange
from opencode_async.protocol.events import Event, event_from_wire
from opencode_async.protocol.messages import WireMessage
from opencode_async.protocol.parts import Part, ReasoningPart, TextPart

SESSION = "ses_ours"
PROMPT = "msg_prompt"
ANSWER = "msg_answer"
Json = dict[str, Any]


def parsed(type_: str, /, **properties: Any) -> Event:
    """The event of that wire type, which must be a known one."""
    event = event_from_wire({"id": "evt_1", "type": type_, "properties": properties})
    assert event is not None
    return event


def status(kind: str = "busy", /, session: str = SESSION, **more: Any) -> Event:
    return parsed("session.status", sessionID=session, status={"type": kind, **more})


def idle(session: str = SESSION) -> Event:
    return parsed("session.idle", sessionID=session)


def error(name: str, message: str = "Went wrong.", session: str = SESSION) -> Event:
    return parsed(
        "session.error", sessionID=session, error={"name": name, "data": {"message": message}}
    )


def raw_child(
    id_: str, parent: str = SESSION, title: str = "Look (@general subagent)", created: float = 1200
) -> Json:
    return {"id": id_, "parentID": parent, "title": title, "time": {"created": created}}


def child(id_: str, parent: str = SESSION, **more: Any) -> Event:
    return parsed("session.created", sessionID=id_, info=raw_child(id_, parent, **more))


def user_info(id_: str = PROMPT, *, created: float = 1000, session: str = SESSION) -> Json:
    return {"id": id_, "sessionID": session, "role": "user", "time": {"created": created}}


def answer_info(
    id_: str = ANSWER,
    *,
    parent: str = PROMPT,
    completed: bool = False,
    created: float = 1100,
    session: str = SESSION,
    **more: Any,
) -> Json:
    time = {"created": created} | ({"completed": created + 50} if completed else {})
    info = {"id": id_, "sessionID": session, "role": "assistant", "parentID": parent, "time": time}
    return info | more


def message(info: Json) -> Event:
    return parsed("message.updated", sessionID=info["sessionID"], info=info)


def prompted(id_: str = PROMPT, *, created: float = 1000, session: str = SESSION) -> list[Event]:
    """A user message and its part, as they come after a prompt."""
    raw = raw_text(f"prt_of_{id_}", "Hello", message=id_, session=session)
    return [message(user_info(id_, created=created, session=session)), part(raw)]


def answered(id_: str = ANSWER, **more: Any) -> Event:
    return message(answer_info(id_, **more))


def raw_part(
    type_: str, id_: str, *, message: str = ANSWER, session: str = SESSION, **more: Any
) -> Json:
    return {"id": id_, "sessionID": session, "messageID": message, "type": type_, **more}


def raw_text(
    id_: str = "prt_text",
    content: str = "",
    *,
    ended: bool = False,
    kind: str = "text",
    message: str = ANSWER,
    session: str = SESSION,
) -> Json:
    time = {"start": 1} | ({"end": 2} if ended else {})
    return raw_part(kind, id_, text=content, time=time, message=message, session=session)


def raw_tool(
    id_: str = "prt_tool",
    status: str = "running",
    *,
    tool: str = "bash",
    message: str = ANSWER,
    session: str = SESSION,
    **state: Any,
) -> Json:
    state = {"status": status, "input": {"command": "date"}, **state}
    return raw_part(
        "tool", id_, tool=tool, callID="call_1", state=state, message=message, session=session
    )


def part(raw: Json) -> Event:
    return parsed("message.part.updated", sessionID=raw["sessionID"], part=raw, time=1)


def text(id_: str = "prt_text", content: str = "", *, ended: bool = False, **more: Any) -> Event:
    return part(raw_text(id_, content, ended=ended, **more))


def delta(
    text: str, id_: str = "prt_text", *, message: str = ANSWER, session: str = SESSION
) -> Event:
    return parsed(
        "message.part.delta",
        sessionID=session,
        messageID=message,
        partID=id_,
        field="text",
        delta=text,
    )


def step_start(*, message: str = ANSWER) -> Event:
    return part(raw_part("step-start", "prt_step", message=message))


def compaction(message: str) -> Event:
    return part(raw_part("compaction", f"prt_of_{message}", auto=True, message=message))


def stored(info: Json, *parts: Json) -> WireMessage:
    """A message of a REST answer."""
    return WireMessage.from_wire({"info": info, "parts": list(parts)})


def stored_prompt(id_: str = PROMPT, *, created: float = 1000) -> WireMessage:
    return stored(user_info(id_, created=created), raw_text("prt_prompt", "Hello", message=id_))


def stored_compaction(id_: str, *, created: float) -> WireMessage:
    return stored(user_info(id_, created=created), raw_part("compaction", "prt_c", message=id_))


def replayed(changes: Iterable[ReplyChange], parts: Iterable[Part] = ()) -> tuple[Part, ...]:
    """What a follower who had those parts has after those changes."""
    state = list(parts)
    for change in changes:
        match change:
            case PartAdded(index, part):
                assert index == len(state)
                state.append(part)
            case PartDelta(index, delta):
                current = state[index]
                assert isinstance(current, (TextPart, ReasoningPart))
                state[index] = replace(current, content=current.content + delta)
            case PartUpdated(index, part):
                state[index] = part
    return tuple(state)
