"""Many turns at once in one process, each with a follower: how late a delta is, what is lost."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from statistics import quantiles
from typing import Any
from urllib.parse import quote

import httpx

from tests.benchmarks.fanout import Connection, connected
from tests.benchmarks.processes import Child, child
from tests.benchmarks.upstream import Load

AT_ONCE = 10  # requests
STAMP = re.compile(rb"(\d+)@(\d+);")
FINISHED = b"event: finished"
OVER = re.compile(FINISHED + rb".*?(\n\n|\r\n\r\n)|\"session\.idle\"", re.DOTALL)
PATIENCE = 120.0  # s


class Follower(Connection):
    """A connection that notes how old each delta is when it arrives."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.ages: list[float] = []  # ms
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._next = 0

    def data_received(self, data: bytes) -> None:
        if not self.stands.done():
            self.stands.set_result(None)
        if self.over.done():
            return
        now = time.monotonic_ns()
        text = self._rest + data
        last = 0
        for stamp in STAMP.finditer(text):
            last = stamp.end()
            number = int(stamp[1])
            if number >= self._next:  # else a snapshot, or the end, tells it again
                self._next = number + 1
                self.ages.append((now - int(stamp[2])) / 1e6)
        if OVER.search(text):
            self._finish()
        end = text.find(FINISHED)
        self._rest = text[end if end >= 0 else max(last, len(text) - 64) :]

    def connection_lost(self, error: Exception | None) -> None:
        self._finish()

    def _finish(self) -> None:
        if not self.over.done():
            self.over.set_result(None)


async def standing(url: str, path: str, stack: AsyncExitStack) -> Follower:
    """A follower that has its answer's first bytes."""
    follower = Follower(path)
    stack.callback((await connected(url, follower)).abort)
    await follower.stands
    return follower


class Starting:
    """Starts turns of a peer's, each with a follower."""

    def __init__(self, peer: str, server: Child, web: Child, upstream: Child) -> None:
        self._peer = peer
        self._server = server
        self._web = web
        self._upstream = upstream

    async def turn(self, http: httpx.AsyncClient, load: Load, stack: AsyncExitStack) -> Follower:
        match self._peer:
            case "limit":
                made = await http.post(f"{self._upstream.url}/session", json={})
                session_id = made.json()["id"]
                follower = await standing(self._server.url, f"/{session_id}", stack)
                path = f"{self._upstream.url}/session/{session_id}/prompt_async"
                parts = [{"type": "text", "text": str(load)}]
                (await http.post(path, json={"parts": parts})).raise_for_status()
                return follower
            case "by hand":
                path = f"/turn?load={quote(str(load))}"
                return await standing(self._server.url, path, stack)
            case _:
                agent = f"{self._server.url}/agent"
                cid = (await http.post(f"{agent}/conversations")).json()["id"]
                posted = await http.post(
                    f"{agent}/conversations/{cid}/messages", json={"text": str(load)}
                )
                mid = posted.raise_for_status().json()["id"]
                return await standing(self._web.url, f"/agent/messages/{mid}/events", stack)


async def turns(
    peer: str,
    number: int,
    load: Load,
    database: str,
    broker: str = "null",
    *,
    processes: int = 1,
) -> dict[str, float]:
    """What a server with so many turns at once does to their followers.

    With two ``processes`` the turns run in one, and the followers are connected to the other.
    """
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(child("upstream"))
        job: tuple[str, ...] = ("host_app", database, upstream.url, broker)
        if peer != "opencode_async":
            job = ("turn_servers", peer, upstream.url)
        server = web = await stack.enter_async_context(child(*job))
        if processes == 2:
            web = await stack.enter_async_context(child(*job, "follows"))
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=60, trust_env=False))
        starting, room = Starting(peer, server, web, upstream), asyncio.Semaphore(AT_ONCE)

        async def started() -> Follower:
            async with room:
                return await starting.turn(http, load, stack)

        async with asyncio.timeout(PATIENCE):
            followers = await asyncio.gather(*(started() for _ in range(number)))
            await upstream.ask("all_wait", answers=number)
        before = [await one.cpu() for one in (server, web)]
        bytes_before = (await upstream.ask("counts"))["bytes"]
        await upstream.ask("go")
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(follower.over for follower in followers))
        cpu = [await one.cpu() - was for one, was in zip((server, web), before, strict=True)]
        counts = await upstream.ask("counts")
    return figures(followers, load) | {
        "cpu": cpu[0],
        "web_cpu": cpu[1],
        "upstream_bytes": counts["bytes"] - bytes_before,
        "upstream_connections": counts["connections"],
    }


def figures(followers: Sequence[Follower], load: Load) -> dict[str, Any]:
    """How old deltas were, in milliseconds, and how many never came."""
    ages = [age for follower in followers for age in follower.ages]
    percentiles = quantiles(ages, n=100)
    return {
        "p50_ms": percentiles[49],
        "p99_ms": percentiles[98],
        "lost": len(followers) * load.deltas - len(ages),
    }
