"""``show``: what end users may see is the same in every answer and in every stream."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response

from opencode_async import Part, ReasoningPart, TextPart, ToolPart
from opencode_async.brokers.broker import Frame
from opencode_async.protocol.changes import (
    Change,
    Finished,
    PartAdded,
    PartDelta,
    PartUpdated,
    Snapshot,
    TodosChanged,
)
from opencode_async.protocol.todos import Todo
from opencode_async.protocol.tool_display import with_display
from opencode_async.testing import ScriptedServer
from opencode_async.turns.frames import Cursor, frame_of
from opencode_async.web.shown import Show, Shown
from tests.support.hosts import Reports, host
from tests.support.replay import replay_events
from tests.support.serving import Sse, listening, serving
from tests.web.test_routes import chat, heard, post

THOUGHT, SECRET = "Then I think more.", "the output that nobody may see"
SCRIPTS = ("SCRIPT:reasoning", f'SCRIPT:bash {{"command": "echo {SECRET}"}}')
HIDDEN = {"id": "prt_1", "type": "hidden"}
EMPTY: dict[str, Any] = {
    "role": "assistant",
    "status": "pending",
    "content": "",
    "reasoning": "",
    "parts": [],
    "todos": [],
}


def for_users(part: Part) -> Part | None:
    """No reasoning, and of a tool its name and state: title and metadata repeat what it did."""
    match part:
        case ReasoningPart():
            return None
        case ToolPart():
            return ToolPart(part.id, part.tool, part.call_id, part.status, input={})
    return part


@pytest.mark.parametrize("script", SCRIPTS)
async def test_what_is_hidden_is_in_no_answer_and_in_no_stream(
    script: str, database_url: str, opencode: ScriptedServer
) -> None:
    seen: list[str] = []
    async with chat(database_url, opencode, router={"show": for_users}) as (app, client):
        first = await post(client, "SCRIPT:text Hello.")
        cid = first["conversation_id"]
        await heard(client, first["id"])
        path = f"/agent/conversations/{cid}/events"
        async with listening(client, path) as events:
            posted = await client.post(
                f"/agent/conversations/{cid}/messages", json={"text": script}
            )
            mid = posted.json()["id"]
            turn = await heard(client, mid)
            conversation = [await anext(events)]
            while conversation[-1].event != "finished":
                conversation.append(await anext(events))
        stored = (await client.get(f"/agent/messages/{mid}")).json()
        listed = (await client.get(f"/agent/conversations/{cid}")).json()["messages"][-1]
        cancelled = (await client.post(f"/agent/messages/{mid}/cancel")).json()
        again = await client.get(f"/agent/messages/{mid}/events?after={turn[-1].id}")
        row = await app.row(app.agent.tables.message.id.type.python_type(mid))
    assert again.status_code == 204
    assert stored == listed == cancelled
    for events_ in (turn, [e for e in conversation if e.data["message_id"] == mid]):
        state, finished = replay_events(events_)
        assert finished == stored
        assert state["parts"] == stored["parts"]
        seen += [json.dumps(event.data) for event in events_]
    for text in (THOUGHT, SECRET):
        assert text not in "".join(seen)
        assert text not in json.dumps(stored)
    # The row has everything; only what leaves the app is less.
    assert (THOUGHT if "reasoning" in script else SECRET) in json.dumps(row.parts)
    kinds = [part["type"] for part in stored["parts"]]
    assert kinds == (["hidden", "text"] if "reasoning" in script else ["text", "tool", "text"])
    assert stored["content"] == row.content
    assert stored["reasoning"] == ""


async def test_a_resumed_stream_begins_with_a_snapshot_and_hides_as_much(
    database_url: str, opencode: ScriptedServer
) -> None:
    script = f'SCRIPT:tools [{{"name": "bash", "args": {{"command": "echo {SECRET}; sleep 2"}}}}]'
    async with chat(database_url, opencode, router={"show": for_users}) as (_, client):
        message = await post(client, script)
        path = f"/agent/messages/{message['id']}/events"
        last, got = None, list[Sse]()
        while not (got and got[-1].event == "finished"):
            async with listening(client, path, last_event_id=last) as events:
                first = await anext(events)
                assert first.event in ("snapshot", "finished")
                got += [first]
                for _ in range(2):
                    if got[-1].event != "finished":
                        got.append(await anext(events))
                last = got[-1].id
        stored = (await client.get(f"/agent/messages/{message['id']}")).json()
    assert replay_events(got)[1] == stored
    assert SECRET not in json.dumps([event.data for event in got])


async def test_a_hosts_own_stream_hides_too(database_url: str, opencode: ScriptedServer) -> None:
    async with host(database_url, opencode) as app, AsyncExitStack() as stack:
        web = FastAPI()

        @web.get("/own/{mid}")
        async def own(mid: str, request: Request) -> Response:
            return await app.agent.sse(mid, request, show=for_users)

        client = await stack.enter_async_context(serving(web))
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:reasoning")
        async with listening(client, f"/own/{message.id}") as events:
            got = [event async for event in events]
    assert got[-1].data["message"]["reasoning"] == ""
    assert THOUGHT not in json.dumps([event.data for event in got])


# -- without a server ---------------------------------------------------------------------------


async def shown(show: Show, *changes: Change, reports: Reports | None = None) -> list[Frame]:
    """What a follower gets of these changes."""

    async def batches() -> AsyncGenerator[Sequence[Frame], None]:
        yield [frame_of(change, Cursor("m", 1, seq)) for seq, change in enumerate(changes)]

    view = Shown(show, reports or Reports())
    return [frame async for frames in view.batches(batches()) for frame in frames]


def told(frames: list[Frame]) -> list[tuple[str, dict[str, Any]]]:
    """The events behind the snapshot."""
    data = [(frame.event, json.loads(frame.data)) for frame in frames[1:]]
    return [(event, {k: v for k, v in d.items() if k != "message_id"}) for event, d in data]


def text(content: str) -> TextPart:
    return TextPart("prt_1", content)


async def test_what_is_shown_as_it_is_keeps_its_frames() -> None:
    changes = (PartAdded(0, text("")), PartDelta(0, "Hi"), PartUpdated(0, text("Hi there")))
    frames = await shown(lambda part: part, Snapshot(EMPTY), *changes)
    assert told(frames) == [
        ("part.added", {"index": 0, "part": text("").to_json()}),
        ("part.delta", {"index": 0, "delta": "Hi"}),
        ("part.delta", {"index": 0, "delta": " there"}),
    ]
    assert [frame.id for frame in frames] == [f"m.1.{seq}" for seq in range(4)]


async def test_words_may_be_replaced_while_they_stream() -> None:
    def redact(part: Part) -> Part:
        assert isinstance(part, TextPart)
        return replace(part, content=part.content.replace("tell nobody", "•••"))

    changes = (PartDelta(0, "I tell "), PartDelta(0, "nobody"), PartDelta(0, "."))
    frames = await shown(redact, Snapshot(EMPTY), PartAdded(0, text("")), *changes)
    assert told(frames)[1:] == [
        ("part.delta", {"index": 0, "delta": "I tell "}),
        ("part.updated", {"index": 0, "part": text("I •••").to_json()}),
        ("part.delta", {"index": 0, "delta": "."}),
    ]


async def test_a_part_may_appear_and_vanish_with_what_it_holds() -> None:
    changes = (PartAdded(0, text("")), PartDelta(0, "ok"), PartUpdated(0, text("")))
    frames = await shown(lambda p: p if p.to_json()["content"] else None, Snapshot(EMPTY), *changes)
    assert told(frames) == [
        ("part.added", {"index": 0, "part": HIDDEN}),
        ("part.updated", {"index": 0, "part": text("ok").to_json()}),
        ("part.updated", {"index": 0, "part": HIDDEN}),
    ]


async def test_deltas_of_a_hidden_part_are_not_even_counted() -> None:
    deltas = [PartDelta(0, "x")] * 3
    frames = await shown(lambda part: None, Snapshot(EMPTY), PartAdded(0, text("")), *deltas)
    assert told(frames) == [("part.added", {"index": 0, "part": HIDDEN})]


async def test_a_show_that_fails_hides_and_is_reported() -> None:
    def broken(part: Part) -> Part:
        raise LookupError

    reports = Reports()
    whole = {**EMPTY, "parts": [text("Hi").to_json()], "content": "Hi"}
    (frame,) = await shown(broken, Snapshot(whole), reports=reports)
    message = json.loads(frame.data)["message"]
    assert (message["parts"], message["content"]) == ([HIDDEN], "")
    assert [type(error) for error in reports.errors] == [LookupError]


@pytest.mark.parametrize("wrong", [True, {"id": "prt_1"}, "text"])
async def test_a_show_that_returns_something_else_hides(wrong: Any) -> None:
    reports = Reports()
    (_, frame) = await shown(
        lambda part: wrong, Snapshot(EMPTY), PartAdded(0, text("Hi")), reports=reports
    )
    assert json.loads(frame.data)["part"] == HIDDEN
    assert len(reports.errors) == 1


async def test_how_a_call_is_displayed_says_no_more_than_what_is_shown_of_it() -> None:
    call = ToolPart("prt_1", "bash", "call_1", "running", {"command": SECRET}, title=SECRET)
    failed = replace(call, status="error", error=SECRET)
    whole = {**EMPTY, "parts": [call.to_json()]}
    frames = await shown(for_users, Snapshot(whole), PartUpdated(0, failed), Finished(whole))
    parts = [
        *(json.loads(frame.data)["message"]["parts"][0] for frame in (frames[0], frames[-1])),
        json.loads(frames[1].data)["part"],
    ]
    titles = [(part["display"]["status"], part["display"]["title"]) for part in parts]
    assert titles == [("running", "Running"), ("running", "Running"), ("error", "Running")]
    assert SECRET not in json.dumps(parts)
    assert SECRET in json.dumps(Shown(lambda part: part, Reports()).message(whole)["parts"][0])


async def test_a_hidden_plan_is_hidden_as_a_list_too() -> None:
    call = ToolPart("prt_1", "todowrite", "call_1", "running", {})
    todos = TodosChanged((Todo("secret", "pending", "high"),))
    whole = {**EMPTY, "parts": [call.to_json()], "todos": todos.to_json()["todos"]}
    frames = await shown(lambda part: None, Snapshot(EMPTY), PartAdded(0, call), todos)
    assert [event for event, _ in told(frames)] == ["part.added"]
    (frame,) = await shown(lambda part: None, Snapshot(whole))
    assert json.loads(frame.data)["message"]["todos"] == []
    frames = await shown(lambda part: part, Snapshot(EMPTY), PartAdded(0, call), todos)
    assert told(frames)[-1] == ("todos", todos.to_json())


def test_the_text_of_an_answer_without_parts_may_be_of_a_hidden_one() -> None:
    view = Shown(lambda part: part, Reports())
    assert view.message({**EMPTY, "content": "Secret."})["content"] == ""
    said = {**EMPTY, "role": "user", "content": "Hello."}
    assert view.message(said) == said


def without_task(part: Part) -> Part | None:
    """A call of ``task`` may be seen when it is done."""
    running = isinstance(part, ToolPart) and part.tool == "task" and part.status != "completed"
    return None if running else part


CALL = ToolPart("prt_task", "task", "call_1", "running", {}, session_id="ses_a")
DEEP = ToolPart("prt_deep", "task", "call_2", "completed", {}, session_id="ses_b", subagent="ses_a")
WORDS, ITS, DEEPER = (
    TextPart("prt_1", "Mine."),
    TextPart("prt_2", "Its", "ses_a"),
    TextPart("prt_3", "Deep.", "ses_b"),
)


async def test_a_hidden_call_hides_what_its_subagents_say_until_it_may_be_seen() -> None:
    done = replace(CALL, status="completed", output="Done.")
    grown = replace(ITS, content="Its own.")
    frames = await shown(
        without_task,
        Snapshot({**EMPTY, "parts": [WORDS.to_json(), CALL.to_json()]}),
        PartAdded(2, ITS),
        PartAdded(3, DEEP),
        PartAdded(4, DEEPER),
        PartDelta(2, " own."),
        PartUpdated(1, done),
        PartUpdated(1, CALL),
    )
    hidden = {part.id: {"id": part.id, "type": "hidden"} for part in (ITS, DEEP, DEEPER, CALL)}
    assert told(frames) == [
        ("part.added", {"index": 2, "part": hidden["prt_2"]}),
        ("part.added", {"index": 3, "part": hidden["prt_deep"]}),
        ("part.added", {"index": 4, "part": hidden["prt_3"]}),
        ("part.updated", {"index": 1, "part": with_display(done.to_json())}),
        ("part.updated", {"index": 2, "part": grown.to_json()}),
        ("part.updated", {"index": 3, "part": with_display(DEEP.to_json())}),
        ("part.updated", {"index": 4, "part": DEEPER.to_json()}),
        ("part.updated", {"index": 1, "part": hidden["prt_task"]}),
        ("part.updated", {"index": 2, "part": hidden["prt_2"]}),
        ("part.updated", {"index": 3, "part": hidden["prt_deep"]}),
        ("part.updated", {"index": 4, "part": hidden["prt_3"]}),
    ]


def test_a_message_shows_no_words_of_a_subagent_as_the_answers_own() -> None:
    parts = [with_display(part.to_json()) for part in (WORDS, CALL, ITS)]
    message = {**EMPTY, "content": "Mine.", "parts": parts}
    everything = Shown(lambda part: part, Reports()).message(message)
    assert (everything["content"], everything["parts"]) == ("Mine.", parts)
    less = Shown(without_task, Reports()).message(message)
    assert [part["type"] for part in less["parts"]] == ["text", "hidden", "hidden"]
