"""Followers that move from worker to worker, and the workers between which they do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import httpx

from opencode_async import Timings
from opencode_async.testing import ScriptedServer
from opencode_async.turns.frames import Cursor
from tests.support.brokers import Job, with_frames
from tests.support.hosts import Host, host, nowhere
from tests.support.serving import Sse, listening
from tests.support.workers import Worker, deployed


class Roamer:
    """A browser that connects to another worker behind every few events, and when one is gone.

    ``bears`` is what else it takes for a reason to go to another.
    """

    def __init__(
        self,
        path: str,
        workers: Sequence[httpx.AsyncClient],
        moves_after: int,
        *,
        bears: type[httpx.HTTPError] = httpx.TransportError,
    ) -> None:
        self.events: list[Sse] = []
        self.connections = 0
        self._path = path
        self._workers = workers
        self._moves_after = moves_after
        self._bears = bears
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
            except self._bears:
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
    """Workers that share a broker, each with a client; ``app`` is the test's own and runs nothing.

    What takes the place of a worker that was killed takes its place in the lists, too.
    """

    app: Host[Any, Any]
    workers: list[Worker]
    clients: list[httpx.AsyncClient]
    starting: Starting

    async def post(self, text: str, on: int = 0) -> tuple[str, str]:
        cid = str(await self.app.conversation())
        path = f"/agent/conversations/{cid}/messages"
        posted = await self.clients[on].post(path, json={"text": text})
        return cid, posted.raise_for_status().json()["id"]

    async def replaced(self, number: int) -> None:
        """Kill a worker, and start another in its place."""
        self.workers[number].kill()
        self.workers[number], self.clients[number] = await self.starting()


Starting = Callable[[], Awaitable[tuple[Worker, httpx.AsyncClient]]]


@asynccontextmanager
async def deployment(
    database: str, opencode: ScriptedServer, broker: Job, timings: Timings, size: int = 3
) -> AsyncIterator[Deployment]:
    """So many workers that are ready; with the block they are gone."""
    async with AsyncExitStack() as stack:
        if broker is not None and broker[0] == "postgres":
            await stack.enter_async_context(with_frames(database))
        # One that runs no turns must not take up lost ones either, done ten times in a lease.
        elsewhere = replace(timings, lease=6000.0)
        app = await stack.enter_async_context(
            host(database, opencode, timings=elsewhere, dispatch=nowhere)
        )

        async def started() -> tuple[Worker, httpx.AsyncClient]:
            starting = deployed(database, opencode, timings, broker)
            worker, url = await stack.enter_async_context(starting)
            client = httpx.AsyncClient(
                base_url=url,
                trust_env=False,
                timeout=120,
                limits=httpx.Limits(max_connections=None),
            )
            return worker, await stack.enter_async_context(client)

        starting = [asyncio.ensure_future(started()) for _ in range(size)]
        ready = [await each for each in starting]
        yield Deployment(app, [one for one, _ in ready], [client for _, client in ready], started)
