"""Stops in states where there is nothing to abort yet, or nobody who could."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from opencode_async import ConversationMixin, LeaseHeld, TurnSettings
from opencode_async.database_time import database_time
from opencode_async.testing import ScriptedServer
from opencode_async.turns.message import message_json
from tests.conftest import OwnServer
from tests.support.hosts import QUICK, host, nowhere
from tests.support.replay import assert_replay_is

UNWATCHED = replace(QUICK, lease=600.0)  # nobody looks for lost turns meanwhile


async def test_who_follows_a_queued_turn_hears_of_its_cancellation(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, dispatch=nowhere) as app:
        conversation = await app.conversation()
        await app.agent.turns.start(conversation, "SCRIPT:text One.")
        waiting = await app.agent.turns.start(conversation, "SCRIPT:text Two.", on_busy="enqueue")
        async with asyncio.timeout(10), app.agent.turns.follow(waiting.id) as changes:
            first = await anext(changes)
            await app.agent.turns.cancel(waiting.id)
            rest = [change async for change in changes]
        row = await app.row(waiting.id)
    assert first.event == "snapshot"
    assert [change.event for change in rest] == ["finished"]
    assert_replay_is([first, *rest], message_json(row))


async def test_a_turn_that_was_asked_to_run_twice_can_still_be_stopped_and_given_up(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, dispatch=nowhere, timings=UNWATCHED) as app:
        turns = app.agent.turns
        messages = [
            await turns.start(await app.conversation(), "SCRIPT:hang Half of it.") for _ in range(2)
        ]
        running = []
        for message in messages:
            async with turns.follow(message.id) as changes:
                running.append(asyncio.create_task(turns.run(message.id)))
                async for change in changes:
                    if change.event == "part.delta":
                        break
            async with app.sessions() as db:
                row = await db.get_one(type(message), message.id)
                with pytest.raises(LeaseHeld):
                    await app.agent.turn(db, row)
        await turns.cancel(messages[0].id)
        async with asyncio.timeout(5):
            assert (await running[0]).status == "cancelled"
        turns.close()
        async with asyncio.timeout(5):
            await asyncio.wait(running)
        assert running[1].cancelled()
        row = await app.row(messages[1].id)
    assert (row.status, row.lease_owner) == ("pending", None)


async def test_a_turn_stops_while_another_worker_creates_its_session(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, timings=UNWATCHED) as app:
        conversation = await app.conversation()
        kind = app.agent.tables.conversation
        claim = {"session_claimed_until": database_time(45)}
        async with app.sessions.begin() as db:
            await db.execute(update(kind).where(kind.id == conversation).values(claim))
        message = await app.agent.turns.start(conversation, "SCRIPT:text Never.")
        async with asyncio.timeout(10), app.agent.turns.follow(message.id) as changes:
            await anext(changes)
            await app.agent.turns.cancel(message.id)
            async for _ in changes:
                pass
        row = await app.row(message.id)
    assert (row.status, row.finish, row.content) == ("cancelled", "cancelled", "")
    assert not any("Never." in str(request.body) for request in opencode.model.requests)


async def test_a_turn_stops_while_its_host_does_not_say_how_it_is_to_be_asked(
    database_url: str, opencode: ScriptedServer
) -> None:
    asked = asyncio.Event()

    async def hanging(conversation: ConversationMixin) -> TurnSettings:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    options: dict[str, Any] = {"settings_for": hanging, "timings": UNWATCHED}
    async with asyncio.timeout(15), host(database_url, opencode, **options) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:text Never.")
        await asked.wait()
        await app.agent.turns.cancel(message.id)
        result = await app.agent.turns.run(message.id)
        following = await app.agent.turns.cancel(message.id)
    assert result.status == following.status == "cancelled"
    assert app.reports.errors == []


async def test_a_row_whose_worker_died_before_it_had_a_prompt_blocks_nobody(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, dispatch=nowhere) as app:
        conversation = await app.conversation()
        kind = app.agent.tables.message
        row = kind(conversation_id=conversation, role="assistant", status="pending")
        async with app.sessions.begin() as db:
            db.add(row)
        await app.lose_worker(row.id, -1)
        cancelled = await app.agent.turns.cancel(row.id)
        after = await app.agent.turns.start(conversation, "SCRIPT:text Next.")
        assert (await app.agent.turns.run(after.id)).content == "Next."
    assert cancelled.status == "cancelled"


async def test_a_tool_that_ran_when_its_server_was_lost_is_stored_as_interrupted(
    database_url: str, own_opencode: OwnServer, tmp_path: Path
) -> None:
    script = 'SCRIPT:bash {"command": "sleep 600"}'
    async with (
        own_opencode(tmp_path) as server,
        host(database_url, server) as app,
    ):
        message = await app.agent.turns.start(await app.conversation(), script)
        async with asyncio.timeout(30), app.agent.turns.follow(message.id) as changes:
            heard = []
            async for change in changes:
                heard.append(change)
                if '"running"' in str(change.to_json()).replace("'", '"'):
                    server.process.kill()
        row = await app.row(message.id)
    assert (row.status, row.error_code) == ("error", "unreachable")
    (tool,) = [part for part in row.parts or [] if part["type"] == "tool"]
    assert (tool["status"], tool["error"]) == ("error", "interrupted")
    assert_replay_is(heard, message_json(row))
