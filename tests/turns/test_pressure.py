"""Hundreds at once, and a server that hangs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import make_url

from opencode_async import OpencodeConnectionError
from opencode_async.testing import ScriptedServer
from opencode_async.turns.message import message_json
from tests.support.hosts import host, nowhere
from tests.support.proxy import Proxy
from tests.support.replay import replay
from tests.turns.ended import PATIENT, run

# SQLite, whose writers wait for each other, is for fewer.
TURNS = {"postgresql": 200, "sqlite": 50}
# The server may take its time with so many POSTs at once: each has two thirds of the lease.
TIMINGS = replace(PATIENT, lease=180.0, accept=60.0, reconnect=120.0)
# SQLAlchemy's pool lets newcomers in first: on a quiet machine some of 200 wait 10 s, most 0.3.
POOL_TIMEOUT = 120.0


@pytest.mark.slow("load, which a busy machine decides about")
@pytest.mark.timeout(300)
async def test_hundreds_of_turns_with_a_follower_each_over_one_connection_upstream(
    database_url: str, opencode: ScriptedServer
) -> None:
    count = TURNS[make_url(database_url).get_backend_name()]
    proxy = Proxy(opencode)
    async with (
        proxy.running() as server,
        host(
            database_url, server, timings=TIMINGS, dispatch=nowhere, pool_timeout=POOL_TIMEOUT
        ) as app,
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
            turns = [tasks.create_task(one(number)) for number in range(count)]
        grew = sum(turn.result() > 2 for turn in turns)
        print(
            f"{count} turns, {grew} of them heard as they grew, {proxy.streams} stream upstream,"
            f" {len(app.reports.errors)} errors that were passing"
        )
        assert grew > count / 4
        assert proxy.streams == 1
        # A server that others keep from the processors lets some wait too long: those ask again.
        late = [error for error in app.reports.errors if isinstance(error, OpencodeConnectionError)]
        assert app.reports.errors == late
        await app.holds_no_connection()
