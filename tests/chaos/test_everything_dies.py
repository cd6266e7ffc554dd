"""Workers, the broker and the database are killed in turn, under many turns that are followed.

Each is killed while all the others bear the load, and started again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import httpx
import pytest
from sqlalchemy import func, select

from opencode_async.testing import ScriptedServer
from tests.chaos.roaming import Deployment, Roamer, assert_gap_free, deployment
from tests.chaos.scale import EVERYTHING
from tests.chaos.verdict import assert_said_once_and_completed, settled
from tests.support.postgres import new_database, private_server
from tests.support.replay import replay_events
from tests.support.valkey import valkey_server
from tests.turns.ended import PATIENT

# Turns, and followers of each beside one of its conversation.
TURNS, EACH = 100 if EVERYTHING else 40, 2
WORKERS = 4  # turns are posted to the first two, and followed on all of them
TIMINGS = replace(PATIENT, lease=10.0, reconnect=60.0, accept=30.0)
SCRIPT = 'SCRIPT:slow {"n": 60, "delay": 0.75}'
MOVES_AFTER = 40  # events


async def live(here: Deployment) -> int:
    """How many turns are not over."""
    kind = here.app.agent.tables.message
    counted = select(func.count()).where(kind.status == "pending")
    async with here.app.sessions() as db:
        return await db.scalar(counted) or 0


@pytest.mark.slow("processes")
@pytest.mark.timeout(300)
async def test_nothing_is_lost_and_nothing_comes_twice_whatever_dies(
    opencode: ScriptedServer,
) -> None:
    with private_server() as (postgres, server_url), valkey_server() as valkey:
        async with (
            new_database(server_url) as database,
            deployment(database, opencode, ("redis", valkey.url), TIMINGS, WORKERS) as here,
            asyncio.TaskGroup() as tasks,
        ):
            posting = [tasks.create_task(here.post(SCRIPT, n % 2)) for n in range(TURNS)]
            posted = [await each for each in posting]
            crowd = [
                [
                    Roamer(path, here.clients, MOVES_AFTER, bears=httpx.HTTPError)
                    for path in (
                        *[f"/agent/messages/{mid}/events"] * EACH,
                        f"/agent/conversations/{cid}/events",
                    )
                ]
                for cid, mid in posted
            ]
            following = [tasks.create_task(one.follow()) for ones in crowd for one in ones]
            for ones in crowd:
                for one in ones:
                    await one.hears("tick1 ")
            at_work: dict[str, int] = {}

            async def under_load(what: str) -> None:
                at_work[what] = await live(here)

            await under_load("a worker that runs turns")
            await here.replaced(0)
            await under_load("a worker that serves followers")
            await here.replaced(2)
            await under_load("the broker")
            await asyncio.to_thread(valkey.kill)
            await asyncio.to_thread(valkey.start)
            await under_load("the database")
            await asyncio.to_thread(postgres.crash)
            await asyncio.to_thread(postgres.start)
            await here.app.engine.dispose()
            _, waiting = await asyncio.wait(following, timeout=120)
            assert not waiting
            epochs: Counter[int] = Counter()
            for (_, mid), ones in zip(posted, crowd, strict=True):
                row = await settled(here.app, mid)
                await assert_said_once_and_completed(here.app, row)
                epochs[row.epoch] += 1
                message = (await here.clients[1].get(f"/agent/messages/{mid}")).json()
                for one in ones:
                    assert_gap_free(one.events)
                    assert replay_events(one.events)[1] == message
        connections = sum(one.connections for ones in crowd for one in ones)
        print(
            f"{TURNS} turns with {len(following)} followers, {connections} connections;"
            f" live when it died: {at_work}; claimed so often: {dict(sorted(epochs.items()))}"
        )
        assert all(at_work.values()), at_work
        assert any(epoch > 1 for epoch in epochs)
