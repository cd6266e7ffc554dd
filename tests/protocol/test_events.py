"""Every known wire type is parsed or refused; every other one is passed over."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from opencode_async.protocol.asks import Permission, Question
from opencode_async.protocol.events import (
    READERS,
    AskAnswered,
    Event,
    MessagePartDelta,
    MessagePartUpdated,
    MessageUpdated,
    ServerConnected,
    ServerHeartbeat,
    SessionCreated,
    SessionDeleted,
    SessionError,
    SessionIdle,
    SessionStatus,
    TodoUpdated,
    event_from_wire,
)
from opencode_async.protocol.messages import LONGEST_REASON, MessageInfo, UpstreamError, Usage
from opencode_async.protocol.parts import ReasoningPart, TextPart, ToolPart
from opencode_async.protocol.subagents import Subagent
from opencode_async.protocol.todos import Todo
from opencode_async.protocol.wire import Malformed
from tests.protocol.wire_events import answer_info, raw_part, raw_text, raw_tool, user_info

Json = dict[str, Any]
S = "ses_1"
USER = user_info("msg_1", session=S)
TOOL = raw_tool("prt_1", "completed", message="msg_1", session=S, output="Done.")
TODO = {"content": "Do it", "status": "in_progress", "priority": "high"}
OVERFLOW = {"name": "ContextOverflowError", "data": {"message": "Too long."}}
CHILD = {
    "id": S,
    "parentID": "ses_0",
    "title": "Look (@general subagent)",
    "time": {"created": 7},
}

# Type, properties, the event, and the paths of what it cannot do without.
KNOWN: list[tuple[str, Json, Event, list[str]]] = [
    ("server.connected", {}, ServerConnected(), []),
    ("server.heartbeat", {}, ServerHeartbeat(), []),
    (
        "session.created",
        {"sessionID": S, "info": {"id": S, "title": "Its own"}},
        SessionCreated(S, None),
        ["sessionID", "info"],
    ),
    (
        "session.created",
        {"sessionID": S, "info": CHILD},
        SessionCreated(S, Subagent(S, "ses_0", "Look (@general subagent)", 7)),
        ["sessionID", "info", "info.id"],
    ),
    (
        "session.status",
        {"sessionID": S, "status": {"type": "retry", "attempt": 2, "message": "No", "next": 17.5}},
        SessionStatus(S, "retry", 2, "No", 17.5),
        ["sessionID", "status", "status.type"],
    ),
    ("session.idle", {"sessionID": S}, SessionIdle(S), ["sessionID"]),
    (
        "session.error",
        {"sessionID": S, "error": OVERFLOW},
        SessionError(S, UpstreamError("ContextOverflowError", "Too long.")),
        ["error", "error.name"],
    ),
    (
        "message.updated",
        {"sessionID": S, "info": USER},
        MessageUpdated(S, MessageInfo("msg_1", S, "user", created=1000)),
        ["sessionID", "info", "info.id", "info.sessionID", "info.role"],
    ),
    (
        "message.part.updated",
        {"sessionID": S, "part": raw_text("prt_1", "Hi", ended=True, message="msg_1", session=S)},
        MessagePartUpdated(S, "msg_1", "text", TextPart("prt_1", "Hi"), ended=True),
        ["part", "part.messageID", "part.type", "part.id", "part.text"],
    ),
    (
        "message.part.updated",
        {"sessionID": S, "part": raw_text("p", kind="reasoning", message="msg_1", session=S)},
        MessagePartUpdated(S, "msg_1", "reasoning", ReasoningPart("p", ""), ended=False),
        ["part.id", "part.text"],
    ),
    (
        "message.part.updated",
        {"sessionID": S, "part": TOOL},
        MessagePartUpdated(
            session_id=S,
            message_id="msg_1",
            kind="tool",
            part=ToolPart(
                "prt_1", "bash", "call_1", "completed", {"command": "date"}, output="Done."
            ),
            ended=False,
        ),
        ["part.id", "part.tool", "part.state", "part.state.status"],
    ),
    (
        "message.part.updated",
        {"sessionID": S, "part": raw_part("step-start", "prt_1", message="msg_1", session=S)},
        MessagePartUpdated(S, "msg_1", "step-start", None, ended=False),
        ["part", "part.messageID", "part.type"],
    ),
    (
        "message.part.delta",
        {"sessionID": S, "messageID": "m", "partID": "p", "field": "text", "delta": "Hi"},
        MessagePartDelta(S, "m", "p", "Hi"),
        ["sessionID", "messageID", "partID", "delta"],
    ),
    (
        "todo.updated",
        {"sessionID": S, "todos": [TODO]},
        TodoUpdated(S, (Todo("Do it", "in_progress", "high"),)),
        ["sessionID", "todos"],
    ),
    (
        "permission.asked",
        {"sessionID": S, "id": "per_1", "permission": "bash", "patterns": ["*"], "metadata": {}},
        Permission(S, "per_1", "bash", ("*",), {}),
        ["sessionID", "id", "permission"],
    ),
    (
        "question.asked",
        {"sessionID": S, "id": "que_1", "questions": []},
        Question(S, "que_1"),
        ["sessionID", "id"],
    ),
    ("session.deleted", {"sessionID": S, "info": {}}, SessionDeleted(S), ["sessionID"]),
    *(
        (
            type_,
            {"sessionID": S, "requestID": "ask_1", **told},
            AskAnswered(S, "ask_1", reply),
            ["sessionID", "requestID"],
        )
        for type_, told, reply in (
            ("permission.replied", {"reply": "once"}, {"reply": "once"}),
            ("question.replied", {"answers": [["Red"]]}, {"answers": [["Red"]]}),
            ("question.rejected", {}, {"reject": True}),
        )
    ),
]
REQUIRED = [(type_, properties, path) for type_, properties, _, paths in KNOWN for path in paths]


def frame(type_: object, properties: object) -> Json:
    return {"id": "evt_1", "type": type_, "properties": properties}


def changed(source: Json, path: str, *value: object) -> Json:
    """A copy with the value at that path replaced, or removed where none is given."""
    copy = deepcopy(source)
    *way, last = path.split(".")
    place = copy
    for key in way:
        place = place[key]
    if value:
        place[last] = value[0]
    else:
        del place[last]
    return copy


@pytest.mark.parametrize(
    ("type_", "properties", "event"), [(type_, p, event) for type_, p, event, _ in KNOWN]
)
def test_a_known_type_is_parsed(type_: str, properties: Json, event: Event) -> None:
    assert event_from_wire(frame(type_, properties)) == event


def test_every_known_type_is_tested() -> None:
    assert {type_ for type_, *_ in KNOWN} == set(READERS)


@pytest.mark.parametrize(("type_", "properties", "path"), REQUIRED)
def test_a_known_type_that_lacks_a_field_is_malformed(
    type_: str, properties: Json, path: str
) -> None:
    with pytest.raises(Malformed):
        event_from_wire(frame(type_, changed(properties, path)))


@pytest.mark.parametrize("wrong", [None, 7, True])
@pytest.mark.parametrize(("type_", "properties", "path"), REQUIRED)
def test_a_known_type_with_a_field_of_another_type_is_malformed(
    type_: str, properties: Json, path: str, wrong: object
) -> None:
    with pytest.raises(Malformed):
        event_from_wire(frame(type_, changed(properties, path, wrong)))


@pytest.mark.parametrize("properties", [None, [], "x", 1])
def test_properties_that_are_no_object_are_malformed(properties: object) -> None:
    for type_ in READERS:
        with pytest.raises(Malformed, match="properties"):
            event_from_wire(frame(type_, properties))
        with pytest.raises(Malformed, match="properties"):
            event_from_wire({"type": type_})


@pytest.mark.parametrize("value", [None, 1, "text", [], [{}], {}, {"type": None}, {"type": 3}])
def test_a_frame_that_is_no_event_is_malformed(value: object) -> None:
    with pytest.raises(Malformed):
        event_from_wire(value)


@pytest.mark.parametrize("type_", ["plugin.added", "session.updated", "session.idle.2", "", "sync"])
def test_an_unknown_type_is_no_event_whatever_it_holds(type_: str) -> None:
    assert event_from_wire(frame(type_, {"anything": 1})) is None
    assert event_from_wire({"type": type_}) is None


def test_an_error_outside_any_session_is_no_event() -> None:
    assert event_from_wire(frame("session.error", {"error": OVERFLOW})) is None


def test_a_delta_of_another_field_than_text_is_no_event() -> None:
    assert event_from_wire(frame("message.part.delta", {"field": "input"})) is None


def test_a_status_other_than_retry_has_no_details() -> None:
    read = event_from_wire(frame("session.status", {"sessionID": S, "status": {"type": "busy"}}))
    assert read == SessionStatus(S, "busy", 0, "", 0)


def test_the_session_of_a_part_may_stand_beside_it_or_in_it() -> None:
    part = raw_text("prt_1", "Hi", message="msg_1", session="ses_2")
    expected = MessagePartUpdated("ses_2", "msg_1", "text", TextPart("prt_1", "Hi"), False)
    assert event_from_wire(frame("message.part.updated", {"part": part})) == expected
    del part["sessionID"]
    beside = {"sessionID": "ses_2", "part": part}
    assert event_from_wire(frame("message.part.updated", beside)) == expected
    with pytest.raises(Malformed, match="sessionID"):
        event_from_wire(frame("message.part.updated", {"part": part}))


def test_a_tool_status_that_is_not_known_is_malformed() -> None:
    with pytest.raises(Malformed, match="status"):
        event_from_wire(frame("message.part.updated", {"sessionID": S, "part": raw_tool("p", "?")}))


def test_todos_without_text_are_left_out_and_the_rest_gets_defaults() -> None:
    todos = [{"content": "A"}, {"status": "pending"}, "B", {"content": ""}, {"content": 1}]
    read = event_from_wire(frame("todo.updated", {"sessionID": S, "todos": todos}))
    assert read == TodoUpdated(S, (Todo("A", "pending", "medium"),))
    none = event_from_wire(frame("todo.updated", {"sessionID": S, "todos": []}))
    assert none == TodoUpdated(S, ())


def test_the_info_of_an_answer_is_read_whole() -> None:
    info = answer_info(
        completed=True,
        finish="stop",
        cost=0.25,
        tokens={"input": 80, "output": 2, "reasoning": 3, "cache": {"read": 20, "write": 1}},
        error={"name": "APIError", "data": {"message": "No."}},
        structured={"answer": 42},
        summary=True,
    )
    assert MessageInfo.from_wire(info) == MessageInfo(
        id="msg_answer",
        session_id="ses_ours",
        role="assistant",
        parent_id="msg_prompt",
        created=1100,
        completed=True,
        error=UpstreamError("APIError", "No."),
        finish="stop",
        summary=True,
        structured=True,
        usage=Usage(cost=0.25, input=80, output=2, cache_read=20, cache_write=1),
    )


def test_what_an_info_may_lack_has_defaults() -> None:
    for extra in ({}, {"time": None, "tokens": 3, "cost": "x", "error": None, "structured": None}):
        info = {"id": "m", "sessionID": S, "role": "assistant"} | extra
        assert MessageInfo.from_wire(info) == MessageInfo("m", S, "assistant")
    odd = {"tokens": {"input": None, "output": True, "cache": []}, "finish": 1, "parentID": None}
    assert MessageInfo.from_wire(info | odd) == MessageInfo("m", S, "assistant")


def test_costs_that_are_none_count_as_nothing() -> None:
    odd = {"input": -1, "output": 10**400, "cache": {"read": -0.5, "write": 2**63}}
    info = {"id": "m", "sessionID": S, "role": "assistant", "cost": -0.5, "tokens": odd}
    assert MessageInfo.from_wire(info).usage == Usage()
    assert MessageInfo.from_wire(info | {"cost": 10**400}).usage == Usage()


def test_the_diffs_of_a_user_message_make_it_no_summary() -> None:
    assert not MessageInfo.from_wire(USER | {"summary": {"diffs": []}}).summary


def test_the_reason_of_an_error_is_safe_to_show() -> None:
    def reason(message: object) -> str:
        return UpstreamError.from_wire({"name": "APIError", "data": {"message": message}}).message

    assert reason("Bad key.\n    at file:///x.js:1\n") == "Bad key."
    assert reason("  see https://a.example/?key=s3cret for more") == "see [url] for more"
    assert reason("POST HTTP://10.0.0.1:99/v1 failed") == "POST [url] failed"
    assert len(reason("x" * 5000)) == LONGEST_REASON
    assert [reason(None), reason(5), reason("\n")] == ["", "", ""]
    assert UpstreamError.from_wire({"name": "UnknownError"}) == UpstreamError("UnknownError", "")


def test_the_sum_of_usages_does_not_depend_on_their_order() -> None:
    usages = [Usage(cost, 1, 2, 3, 4) for cost in (0.1, 0.2, 0.3, 1e9, 1e-9)]
    total = Usage.total(usages)
    assert total == Usage.total(reversed(usages))
    assert Usage.total([Usage(0.1)] * 10).cost == 1.0
    assert (total.input, total.output, total.cache_read, total.cache_write) == (5, 10, 15, 20)
    assert Usage.total([]) == Usage()
