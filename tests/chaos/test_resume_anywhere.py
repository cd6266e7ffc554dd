"""Followers that move from worker to worker, of turns that run on one of them, over each broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import httpx
import pytest

from opencode_async.testing import ScriptedServer
from opencode_async.turns.frames import Cursor
from tests.chaos.verdict import assert_said_once_and_completed, settled
from tests.support.brokers import Job, with_frames
from tests.support.hosts import Host, host, nowhere
from tests.support.replay import replay_events
from tests.support.serving import Sse, listening
from tests.support.valkey import ValkeyServer, valkey_server
from tests.support.workers import Worker, deployed
from tests.turns.ended import PATIENT

TIMINGS = replace(PATIENT, lease=5.0)
# One that runs no turns must not take up lost ones either, which is done ten times in a lease.
ELSEWHERE = replace(TIMINGS, lease=6000.0)
LONG = 'SCRIPT:slow {"n": 60, "delay": 0.1}'
LONGER = 'SCRIPT:slow {"n": 150, "delay": 0.1}'
SCRIPTS = (LONG, LONG, "SCRIPT:task", 'SCRIPT:bash {"command": "sleep 2"}', "SCRIPT:reasoning")


class Roamer:
    """A browser that connects to another worker behind every few events, and when one is gone."""

    def __init__(self, path: str, workers: Sequence[httpx.AsyncClient], moves_after: int) -> None:
        self.events: list[Sse] = []
        self.connections = 0
        self._path = path
        self._workers = workers
        self._moves_after = moves_after
        self._news = asyncio.Event()

    async def follow(self) -> None:
        for number in count():
            last = self.events[-1].id if self.events else None
            try:
                worker = self._workers[number % len(self._workers)]
                async with listening(worker, self._path, last_event_id=last) as events:
                    self.connections += 1
                    heard = 0
                    async for event in events:
                        self._hear(event)
                        heard += 1
                        if event.event == "finished":
                            return
                        if heard >= self._moves_after:
                            break
            except httpx.TransportError:
                await asyncio.sleep(0.05)

    async def hears(self, text: str) -> None:
        while not any(text in str(event.data) for event in self.events):
            await self._news.wait()

    def _hear(self, event: Sse) -> None:
        self.events.append(event)
        self._news.set()
        self._news = asyncio.Event()

    @property
    def snapshots(self) -> int:
        return sum(event.event == "snapshot" for event in self.events)


def assert_gap_free(events: Sequence[Sse]) -> None:
    """Behind a snapshot each event is the next one of its epoch: none lacks, none comes twice."""
    here: Cursor | None = None
    for event in events:
        there = Cursor.parse(event.id)
        assert there is not None
        if event.event not in ("snapshot", "message.added", "finished"):
            assert here is not None
            assert (there.epoch, there.seq) == (here.epoch, here.seq + 1), (here, there)
        here = there


@dataclass
class Deployment:
    """Three workers that share a broker."""

    app: Host[Any, Any]
    workers: list[Worker]
    clients: list[httpx.AsyncClient]

    async def post(self, text: str, on: int = 0) -> tuple[str, str]:
        cid = str(await self.app.conversation())
        path = f"/agent/conversations/{cid}/messages"
        posted = await self.clients[on].post(path, json={"text": text})
        return cid, posted.raise_for_status().json()["id"]


@asynccontextmanager
async def deployment(
    database: str, opencode: ScriptedServer, broker: Job
) -> AsyncIterator[Deployment]:
    async with AsyncExitStack() as stack:
        if broker is not None and broker[0] == "postgres":
            await stack.enter_async_context(with_frames(database))
        app = await stack.enter_async_context(
            host(database, opencode, timings=ELSEWHERE, dispatch=nowhere)
        )
        starting = [
            asyncio.ensure_future(
                stack.enter_async_context(deployed(database, opencode, TIMINGS, broker))
            )
            for _ in range(3)
        ]
        workers = [await each for each in starting]
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=url,
                    trust_env=False,
                    timeout=30,
                    limits=httpx.Limits(max_connections=None),
                )
            )
            for _, url in workers
        ]
        yield Deployment(app, [one for one, _ in workers], clients)


@pytest.fixture(params=["redis", "postgres"])
def broker(request: pytest.FixtureRequest, database_url: str) -> Job:
    """What the workers share."""
    if request.param == "redis":
        return "redis", request.getfixturevalue("valkey").url
    return "postgres", database_url


@pytest.mark.timeout(120)
async def test_followers_move_between_workers_and_hear_each_event_once(
    database_url: str, opencode: ScriptedServer, broker: Job
) -> None:
    async with deployment(database_url, opencode, broker) as here, asyncio.TaskGroup() as tasks:
        posted = [await here.post(text) for text in SCRIPTS]
        roamers = [
            Roamer(f"/agent/messages/{mid}/events", [*here.clients[n:], *here.clients[:n]], 3 + n)
            for _, mid in posted
            for n in range(3)
        ]
        following = [tasks.create_task(roamer.follow()) for roamer in roamers]
        tabs = [Roamer(f"/agent/conversations/{cid}/events", here.clients, 5) for cid, _ in posted]
        following += [tasks.create_task(tab.follow()) for tab in tabs]
        await asyncio.wait(following, timeout=60)
        for roamer in (*roamers, *tabs):
            assert_gap_free(roamer.events)
        for (_, mid), n in zip(posted, range(0, len(roamers), 3), strict=True):
            row = await settled(here.app, mid)
            await assert_said_once_and_completed(here.app, row)
            message = (await here.clients[1].get(f"/agent/messages/{mid}")).json()
            for roamer in roamers[n : n + 3]:
                assert replay_events(roamer.events)[1] == message
    connections = sum(roamer.connections for roamer in (*roamers, *tabs))
    snapshots = sum(roamer.snapshots for roamer in roamers)
    print(
        f"{len(roamers) + len(tabs)} followers, {connections} connections to 3 workers,"
        f" {snapshots} snapshots of {len(roamers)} followers of a turn"
    )
    assert connections > 5 * len(posted)
    # One to begin with; on a busy machine now and then one where a log is filled too slowly.
    assert snapshots <= 2 * len(roamers)


@pytest.mark.timeout(120)
async def test_followers_move_across_the_death_of_the_worker_that_runs_their_turns(
    database_url: str, opencode: ScriptedServer, broker: Job
) -> None:
    async with deployment(database_url, opencode, broker) as here, asyncio.TaskGroup() as tasks:
        posted = [await here.post(LONG) for _ in range(4)]
        roamers = [Roamer(f"/agent/messages/{mid}/events", here.clients, 4) for _, mid in posted]
        roamers += [
            Roamer(f"/agent/conversations/{cid}/events", here.clients[1:], 6) for cid, _ in posted
        ]
        following = [tasks.create_task(roamer.follow()) for roamer in roamers]
        for roamer in roamers:
            await roamer.hears("tick10")
        here.workers[0].kill()
        await asyncio.wait(following, timeout=60)
        for (_, mid), number in zip(posted, range(len(posted)), strict=True):
            row = await settled(here.app, mid)
            await assert_said_once_and_completed(here.app, row)
            assert row.epoch == 2
            message = (await here.clients[1].get(f"/agent/messages/{mid}")).json()
            for roamer in (roamers[number], roamers[number + len(posted)]):
                assert_gap_free(roamer.events)
                assert replay_events(roamer.events)[1] == message
                # The row as it was taken over, and what the new worker begins with.
                assert roamer.snapshots <= 3
        complaints = [line for worker in here.workers[1:] for line in worker.complaints]
        assert complaints == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("ends", [ValkeyServer.kill, ValkeyServer.pause], ids=["killed", "hangs"])
async def test_without_their_broker_followers_read_the_rows(
    database_url: str, opencode: ScriptedServer, ends: Callable[[ValkeyServer], None]
) -> None:
    with valkey_server() as valkey:
        broker: Job = ("redis", valkey.url)
        async with deployment(database_url, opencode, broker) as here, asyncio.TaskGroup() as tasks:
            posted = [await here.post(LONGER) for _ in range(4)]
            paths = [f"/agent/messages/{mid}/events" for _, mid in posted]
            roamers = [Roamer(path, here.clients[1:], 20) for path in paths]
            near = [Roamer(path, here.clients[:1], 1000) for path in paths]
            following = [tasks.create_task(each.follow()) for each in (*roamers, *near)]
            for roamer in (*roamers, *near):
                await roamer.hears("tick10")
            await asyncio.to_thread(ends, valkey)
            await asyncio.wait(following, timeout=60)
            for (_, mid), far, beside in zip(posted, roamers, near, strict=True):
                row = await settled(here.app, mid)
                await assert_said_once_and_completed(here.app, row)
                assert row.epoch == 1
                assert replay_events(far.events)[1] == replay_events(beside.events)[1]
                # Who is connected to the worker that runs the turn does not notice.
                assert beside.snapshots == 1
                assert_gap_free(beside.events)
                assert_gap_free(far.events)
                assert far.snapshots > 1
