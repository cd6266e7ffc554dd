"""What the agent asks outlives its worker, and not its server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opencode_async import AskGone
from opencode_async.testing import ScriptedServer, scripted_server
from tests.support.hosts import nowhere
from tests.support.postgres import new_database
from tests.support.workers import worker
from tests.turns.asking import (
    BASH,
    ONCE,
    TIMINGS,
    Followed,
    a_turn,
    an_app,
    rows_of,
    tools,
)

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def server(opencode_binary: Path, tmp_path: Path) -> AsyncIterator[ScriptedServer]:
    """A server of the test's own, for it to kill."""
    async with scripted_server(tmp_path, binary=opencode_binary) as server:
        yield server


async def test_an_ask_outlives_its_worker_and_is_answered_meanwhile(
    database_url: str, opencode: ScriptedServer
) -> None:
    never = replace(TIMINGS, lease=600.0)
    options: dict[str, Any] = {"timings": never, "dispatch": nowhere}
    async with an_app(database_url, opencode, **options) as app:
        message = await app.agent.turns.start(await app.conversation(), BASH)
        turn = Followed(app, message)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(turn.follow())
            async with an_app(database_url, opencode, **options) as worker:
                running = asyncio.create_task(worker.agent.turns.run(message.id))
                (ask,) = await turn.asks()
                running.cancel()
                await asyncio.wait([running])
            await app.lose_worker(message.id, 0)  # as if it had been killed
            await app.agent.turns.answer(message.id, ask["id"], ONCE, by="ann")
            await app.agent.turns.run(message.id)
            row = await turn.row()
            (stored,) = await rows_of(app, message.id)
    assert (row.status, row.finish, row.epoch) == ("completed", "stop", 2)
    assert (stored.status, stored.answered_by) == ("answered", "ann")


async def test_an_ask_outlives_a_worker_that_is_killed_before_or_behind_its_answer(
    postgres_url: str, opencode: ScriptedServer
) -> None:
    """Answered by a process that runs no turn; whoever takes the turn over passes it on."""
    quick = replace(TIMINGS, lease=4.0)
    options: dict[str, Any] = {"timings": replace(TIMINGS, lease=600.0), "dispatch": nowhere}
    never, bash = 600.0, ["bash"]
    async with (
        new_database(postgres_url) as url,
        an_app(url, opencode, **options) as app,
        worker(url, opencode, quick, recovers_every=never, asking=bash) as victim,
    ):
        turns = [
            Followed(app, await app.agent.turns.start(await app.conversation(), BASH))
            for _ in range(2)
        ]
        async with asyncio.TaskGroup() as tasks:
            for turn in turns:
                tasks.create_task(turn.follow())
                victim.run(turn.id)
            before, behind = [(await turn.asks())[0] for turn in turns]
            victim.stop()  # so that it passes nothing on any more
            await app.agent.turns.answer(turns[1].id, behind["id"], ONCE, by="ann")
            victim.kill()
            assert await victim.ends(within=60)
            async with worker(url, opencode, quick, asking=bash) as living:
                await living.says("claimed", turns[0].id)
                await app.agent.turns.answer(turns[0].id, before["id"], ONCE, by="bob")
                rows = [await turn.row() for turn in turns]
                asked = [await rows_of(app, turn.id) for turn in turns]
                complaints = living.complaints
    assert [(row.status, row.finish, row.epoch) for row in rows] == [("completed", "stop", 2)] * 2
    assert [[(a.status, a.answered_by) for a in each] for each in asked] == [
        [("answered", "bob")],
        [("answered", "ann")],
    ]
    assert [tool["output"].split() for row in rows for tool in tools(row)] == [
        ["hello", "Linux"]
    ] * 2
    assert not complaints


async def test_an_ask_of_a_server_that_crashed_is_gone_and_the_turn_goes_on(
    database_url: str, server: ScriptedServer
) -> None:
    """Its model is told that the call was interrupted (OpenCode 1.18.33, measured)."""
    timings = replace(TIMINGS, lease=9.0, reconnect=40.0, look=2.0)
    async with an_app(database_url, server, timings=timings) as app, a_turn(app, BASH) as turn:
        (ask,) = await turn.asks()
        server.process.kill()
        await server.process.restart()
        await turn.until(lambda state: state["status"] == "completed", within=60)
        row = await turn.row()
        with pytest.raises(AskGone):
            await app.agent.turns.answer(turn.id, ask["id"], ONCE)
        (stored,) = await rows_of(app, turn.id)
    assert (row.finish, stored.status, stored.reply) == ("stop", "gone", None)
    assert [(tool["status"], tool["error"]) for tool in tools(row)] == [("error", "interrupted")]
    events = [change.event for change in turn.changes if change.event.startswith("permission")]
    assert events == ["permission.asked", "permission.resolved"]
