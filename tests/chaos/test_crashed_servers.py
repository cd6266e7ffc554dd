"""The OpenCode server is killed and restarted at every stage of a turn, which is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opencode_async import Change, SessionNotFoundError, StaleSessionError
from opencode_async.testing import ScriptedServer, scripted_server
from opencode_async.testing.scripted_model.request import Script
from opencode_async.testing.scripted_model.server import Asked, ModelHTTPServer
from opencode_async.turns.message import message_json
from tests.chaos.scale import some
from tests.support.hosts import QUICK, Host, host, nowhere
from tests.support.relay import Forward, Relay, passed_on
from tests.support.replay import assert_replay_is
from tests.turns.ended import answers_in, assert_all_said_is_stored, messages_of, run

pytestmark = pytest.mark.timeout(180)  # a server starts up to four times

# A server takes three to four seconds to come back on two busy cores.
TIMINGS = replace(QUICK, lease=9.0, reconnect=40.0, settle=0.5, look=2.0)
SCRIPTS = (
    'SCRIPT:slow {"n": 40, "delay": 0.1}',
    'SCRIPT:slow {"n": 15, "delay": 0.1}',
    'SCRIPT:bash {"command": "sleep 2"}',
    "SCRIPT:loop 5",
    "SCRIPT:loop 25",
    "SCRIPT:reasoning",
    "SCRIPT:multi",
    'SCRIPT:task {"prompt": "SCRIPT:loop 5"}',
)
due = ModelHTTPServer.due
MOMENTS = [n / 4 for n in range(12)]  # s after the turns began


@pytest.fixture
async def server(opencode_binary: Path, tmp_path: Path) -> AsyncIterator[ScriptedServer]:
    """A server of the test's own, for it to kill."""
    async with scripted_server(tmp_path, binary=opencode_binary) as server:
        yield server


async def crash(server: ScriptedServer) -> None:
    server.process.kill()
    await server.process.restart()


def hanging_behind_the_compaction(model: ModelHTTPServer, asked: Asked) -> Script:
    """The script asked for; after a context that overflowed, the model says a word and hangs."""
    script = due(model, asked)
    return replace(script, name="hang") if script != asked.script else script


async def assert_is_as_rest_says(app: Host[Any, Any], row: Any, changes: list[Change]) -> None:
    upstream = await messages_of(app, await app.session_id(row))
    assert [m["info"]["id"] for m in upstream if m["info"]["role"] == "user"] == [row.prompt_id]
    assert (row.status, row.finish) == ("completed", "stop")
    await assert_all_said_is_stored(app.agent.client, row, answers_in(upstream))
    assert not [p for p in row.parts if p.get("status") in ("pending", "running")]
    assert_replay_is(changes, message_json(row))


@pytest.mark.timeout(60 + 40 * len(MOMENTS))
async def test_turns_of_every_kind_are_answered_although_their_server_crashes(
    database_url: str, server: ScriptedServer
) -> None:
    async with host(database_url, server, timings=TIMINGS, dispatch=nowhere) as app:
        interrupted = 0
        for moment in some(MOMENTS, 2):
            async with asyncio.TaskGroup() as tasks:
                turns = [
                    tasks.create_task(run(app, await app.conversation(), script))
                    for script in SCRIPTS
                ]
                await asyncio.sleep(moment)  # what is broken at, not what is waited for
                tasks.create_task(crash(server))
            for turn in turns:
                row, changes = turn.result()
                await assert_is_as_rest_says(app, row, changes)
                errors = [part.get("error") for part in row.parts]
                emptied = [part for part in row.parts if part.get("content") == ""]
                interrupted += "interrupted" in errors or bool(emptied)
        count = len(SCRIPTS) * len(some(MOMENTS, 2))
        print(f"{count} turns, {interrupted} of them have a part of a dead attempt")


@pytest.mark.parametrize("taken", [False, True])
async def test_a_server_that_crashes_before_it_answers_the_post(
    taken: bool, database_url: str, server: ScriptedServer
) -> None:
    async def crashing(forward: Forward) -> bytes | None:
        if taken:
            await forward()
        await crash(server)
        return None

    between = Relay(server, crashing, passed_on)
    async with (
        between.running() as relayed,
        host(database_url, relayed, timings=TIMINGS, dispatch=nowhere) as app,
    ):
        row, changes = await run(app, await app.conversation(), SCRIPTS[0])
        await assert_is_as_rest_says(app, row, changes)


async def test_a_prompt_that_brings_its_server_down_each_time_is_given_up(
    database_url: str, server: ScriptedServer
) -> None:
    async with host(database_url, server, timings=TIMINGS, dispatch=nowhere) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:hang Half of it.")
        crashes = 0
        async with app.agent.turns.follow(message.id) as changes, asyncio.TaskGroup() as tasks:
            tasks.create_task(app.agent.turns.run(message.id))
            heard = []
            async for change in changes:
                heard.append(change)
                if change.event.startswith("part.") and "Half" in str(change):
                    crashes += 1
                    await crash(server)
        row = await app.row(message.id)
    assert (row.status, row.error_code, crashes) == ("error", "interrupted", 3)
    assert row.content == "Half of it."
    assert_replay_is(heard, message_json(row))


async def test_worker_and_server_die_together(database_url: str, server: ScriptedServer) -> None:
    async with host(database_url, server, timings=TIMINGS, dispatch=nowhere) as app:
        message = await app.agent.turns.start(await app.conversation(), SCRIPTS[0])
        running = asyncio.create_task(app.agent.turns.run(message.id))
        async with app.agent.turns.follow(message.id) as changes:
            heard = [await anext(changes)]
            async for change in changes:
                heard.append(change)
                if change.event == "part.delta" and not running.done():
                    running.cancel()
                    await asyncio.wait([running])
                    await crash(server)
                    again = asyncio.create_task(app.agent.turns.run(message.id))
            await again
        row = await app.row(message.id)
        await assert_is_as_rest_says(app, row, heard)
    assert row.epoch == 2


async def test_an_answer_behind_a_compaction_is_not_taken_up_again(
    database_url: str, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCode's own copy of the prompt is the newest then: ours would be answered once more."""
    monkeypatch.setattr(ModelHTTPServer, "due", hanging_behind_the_compaction)
    async with host(database_url, server, timings=TIMINGS, dispatch=nowhere) as app:
        conversation = await app.conversation()
        await run(app, conversation, "SCRIPT:text Earlier.")
        message = await app.agent.turns.start(conversation, "SCRIPT:overflow Half of it.")
        async with app.agent.turns.follow(message.id) as changes, asyncio.TaskGroup() as tasks:
            tasks.create_task(app.agent.turns.run(message.id))
            heard = []
            async for change in changes:
                heard.append(change)
                if change.event == "part.delta":
                    await crash(server)
        row = await app.row(message.id)
        upstream = await messages_of(app, await app.session_id(row))
        after = await app.agent.turns.start(conversation, "SCRIPT:text Next.")
        following = await app.agent.turns.run(after.id)
    assert (row.status, row.error_code) == ("error", "orphaned")
    assert row.content == "Half of it."
    assert [m["info"]["role"] for m in upstream] == [
        *("user", "assistant"),
        *("user", "assistant"),  # ours, and what was refused
        *("user", "assistant"),  # the compaction and its summary
        *("user", "assistant"),  # OpenCode's copy, and the one answer that it had
    ]
    assert following.content == "Next."
    assert_replay_is(heard, message_json(row))


async def test_a_session_that_is_gone_is_replaced_and_the_host_is_told(
    database_url: str, opencode: ScriptedServer
) -> None:
    told: list[tuple[BaseException, str, str]] = []

    def report(error: BaseException, *, severity: str, context: dict[str, str]) -> None:
        told.append((error, severity, context["during"]))

    async with host(database_url, opencode, dispatch=nowhere, error_reporter=report) as app:
        conversation = await app.conversation()
        first, _ = await run(app, conversation, "SCRIPT:text One.")
        stale = await app.session_id(first)
        await app.agent.client.delete_session(stale)
        row, changes = await run(app, conversation, "SCRIPT:text Two.")
        await assert_is_as_rest_says(app, row, changes)
        ((error, severity, during),) = told
        assert (severity, during) == ("warning", "session.recreated")
        assert isinstance(error, StaleSessionError)
        assert (error.stale, error.session_id) == (stale, await app.session_id(row))


async def test_a_session_deleted_in_mid_turn_ends_it_with_the_text_so_far(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app:
        conversation = await app.conversation()
        text = 'SCRIPT:slow {"n": 100, "delay": 0.1}'
        message = await app.agent.turns.start(conversation, text)
        async with app.agent.turns.follow(message.id) as changes:
            heard = []
            async for change in changes:
                heard.append(change)
                if len(heard) == 5:
                    session_id = await app.session_id(message)
                    await app.agent.client.delete_session(session_id)
        row = await app.row(message.id)
        assert not await app.agent.client.busy(session_id)
        after = await app.agent.turns.start(conversation, "SCRIPT:text Next.")
        following = await app.agent.turns.run(after.id)
    assert (row.status, row.error_code) == ("error", "session_not_found")
    assert row.content.startswith("tick0 tick1 ")
    assert "tick99" not in row.content
    assert_replay_is(heard, message_json(row))
    assert following.content == "Next."
    kinds = [type(error) for error in app.reports.errors]
    assert kinds == [SessionNotFoundError, StaleSessionError]
