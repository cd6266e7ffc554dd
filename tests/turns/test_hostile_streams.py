"""Event streams as they should not be: nothing breaks, nothing hangs, the row is what REST says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from opencode_async import Timings
from opencode_async.protocol.wire import Malformed
from opencode_async.testing import ScriptedServer
from opencode_async.turns.message import message_json
from tests.support.hosts import Host, host, nowhere
from tests.support.proxy import Proxy
from tests.support.replay import assert_replay_is
from tests.turns.ended import Ended, ended, said_by, texts

TIMINGS = Timings(lease=9.0, look=1.0, settle=0.3, snapshot=0.1)
# The model takes longer for a word than a turn that seems over is waited for.
SLOW = 'SCRIPT:slow {"n": 5, "delay": 0.7}'
SCRIPTS = ("SCRIPT:text", "SCRIPT:reasoning", "SCRIPT:bash", "SCRIPT:task", "SCRIPT:loop 3", SLOW)
Frames = Iterable[str]
Json = dict[str, Any]


def frame(kind: str, **properties: object) -> str:
    return json.dumps({"id": "evt_hostile", "type": kind, "properties": properties})


def idle(session_id: str) -> list[str]:
    status = frame("session.status", sessionID=session_id, status={"type": "idle"})
    return [status, frame("session.idle", sessionID=session_id)]


def session_of(event: Json) -> str | None:
    session_id: str | None = event["properties"].get("sessionID")
    return session_id


def malformed(event: Json, text: str) -> Frames:
    session_id = session_of(event) or "ses_x"
    yield from ("{", "null", "[1]", '"text"', '{"type": 7}', "NaN")
    yield frame("message.part.delta", sessionID=session_id)
    yield frame("message.updated", sessionID=session_id, info={"id": 1})
    yield frame("session.status", sessionID=session_id, status="idle")
    yield text


def enormous(event: Json, text: str) -> Frames:
    """Some frames of 5 MB: of no known kind, of another session, of a file in this one."""
    yield text
    if event["type"] == "session.status":
        yield frame("something.new", text="x" * 5_000_000)
        foreign = {"sessionID": "ses_foreign", "messageID": "msg_1", "partID": "prt_1"}
        yield frame("message.part.delta", **foreign, field="text", delta="x" * 5_000_000)
        own = {"sessionID": session_of(event), "messageID": "msg_1", "id": "prt_1"}
        part = {**own, "type": "file", "url": "x" * 5_000_000}
        yield frame("message.part.updated", sessionID=session_of(event), part=part)


def unknown(event: Json, text: str) -> Frames:
    yield frame("plugin.added", id="x")
    yield frame("session.next.thing", sessionID=session_of(event), when="2026-01-01T00:00:00Z")
    yield frame("message.part.delta", **{**event["properties"], "field": "thoughts"})
    yield text


def twice(event: Json, text: str) -> Frames:
    yield text
    yield text


def foreign(event: Json, text: str) -> Frames:
    """Each event once more, as if it had happened in a session of somebody else's."""
    if (session_id := session_of(event)) is not None:
        yield text.replace(session_id, "ses_foreign")
    yield text


def of_a_child(event: Json, text: str) -> Frames:
    """A subagent comes to rest whenever something happens."""
    if (session_id := session_of(event)) is not None:
        info = {"id": "ses_child", "parentID": session_id}
        yield frame("session.created", sessionID="ses_child", info=info)
        yield from idle("ses_child")
    yield text


def of_the_turn_before(event: Json, text: str) -> Frames:
    """The idle of an earlier turn comes late: behind our prompt, our busy, our words."""
    yield text
    late = ("message.updated", "message.part.updated", "message.part.delta", "session.status")
    if event["type"] in late:
        yield from idle(session_of(event) or "")


def on_connect() -> Callable[[Json, str], Frames]:
    """Each session is said to be idle before anything else is heard of it."""
    known: set[str] = set()

    def edit(event: Json, text: str) -> Frames:
        session_id = session_of(event)
        if session_id is not None and session_id not in known:
            known.add(session_id)
            yield from idle(session_id)
        yield text

    return edit


EDITS: dict[str, Callable[[], Callable[[Json, str], Frames]]] = {
    "malformed": lambda: malformed,
    "enormous": lambda: enormous,
    "unknown": lambda: unknown,
    "twice": lambda: twice,
    "foreign": lambda: foreign,
    "of a child": lambda: of_a_child,
    "of the turn before": lambda: of_the_turn_before,
    "on connect": on_connect,
}


def edited(edit: Callable[[Json, str], Frames]) -> Callable[[bytes], Iterable[bytes]]:
    def frames(raw: bytes) -> Iterable[bytes]:
        text = raw.decode().removeprefix("data: ")
        for changed in edit(json.loads(text), text):
            yield b"data: " + changed.encode()

    return frames


async def all_scripts(app: Host[Any, Any]) -> list[Ended]:
    async with asyncio.TaskGroup() as tasks:
        turns = [tasks.create_task(ended(app, {"text": script})) for script in SCRIPTS]
    return [turn.result() for turn in turns]


@pytest.mark.parametrize("hostility", EDITS)
async def test_turns_end_as_rest_says_whatever_the_stream_brings(
    hostility: str, database_url: str, opencode: ScriptedServer
) -> None:
    proxy = Proxy(opencode, edited(EDITS[hostility]()))
    async with (
        proxy.running() as server,
        host(database_url, server, timings=TIMINGS, dispatch=nowhere) as app,
    ):
        turns = await all_scripts(app)
        malformed_frames = app.agent.client.hub.malformed
    for turn in turns:
        assert (turn.row.status, turn.row.finish) == ("completed", "stop")
        assert said_by(None, turn.row) == texts(turn.answers)
        theirs = [p["content"] for p in turn.row.parts if p.get("subagent") and "content" in p]
        assert theirs == texts(turn.children)
        assert_replay_is(turn.changes, message_json(turn.row))
    assert proxy.streams == 1
    assert {type(error) for error in app.reports.errors} <= {Malformed}
    assert (malformed_frames > 0) == (hostility == "malformed")
