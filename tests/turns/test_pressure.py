"""Hundreds at once, and a server that hangs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from opencode_async.testing import ScriptedServer
from opencode_async.turns.message import message_json
from tests.support.hosts import host, nowhere
from tests.support.proxy import Proxy
from tests.support.replay import replay
from tests.turns.ended import PATIENT, run

TURNS = 200
# The server may take its time with so many POSTs at once: each has two thirds of the lease.
TIMINGS = replace(PATIENT, lease=180.0, accept=60.0, reconnect=120.0)


@pytest.mark.slow("load, which a busy machine decides about")
@pytest.mark.timeout(300)
async def test_two_hundred_turns_with_a_follower_each_over_one_connection_upstream(
    database_url: str, opencode: ScriptedServer
) -> None:
    proxy = Proxy(opencode)
    async with (
        proxy.running() as server,
        host(database_url, server, timings=TIMINGS, dispatch=nowhere) as app,
    ):

        async def one(number: int) -> int:
            said = " ".join(f"word{number}.{word}" for word in range(30))
            row, changes = await run(app, await app.conversation(), f"SCRIPT:text {said}")
            assert (row.status, row.content) == ("completed", said)
            state, finished = replay(changes)
            assert finished == message_json(row)
            # A follower may be told of nothing but the end where so many want the same database.
            assert all(said.startswith(part["content"]) for part in state.get("parts", []))
            return len(changes)

        async with asyncio.TaskGroup() as tasks:
            turns = [tasks.create_task(one(number)) for number in range(TURNS)]
        grew = sum(turn.result() > 2 for turn in turns)
        print(f"{TURNS} turns, {grew} of them heard as they grew, {proxy.streams} stream upstream")
        assert grew > TURNS / 4
        assert proxy.streams == 1
        assert app.reports.errors == []
        await app.holds_no_connection()
