"""How many followers of one turn a process can serve: CPU time for each event of each follower."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx

from tests.benchmarks.processes import Child, child
from tests.benchmarks.upstream import BURST

PEERS = ("opencode_async", "sse-starlette", "fastapi.sse", "limit")
AT_ONCE = 50  # connections being opened
MARK = b'"delta":'


class Connection(asyncio.Protocol):
    """A connection that asks for a stream; ``stands`` is for the first that it is sent."""

    def __init__(self, path: str) -> None:
        self.stands: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._path = path
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(f"GET {self._path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())


class Follower(Connection):
    """A connection that counts the deltas it is sent."""

    def __init__(self, crowd: Crowd, path: str) -> None:
        super().__init__(path)
        self._crowd = crowd

    def data_received(self, data: bytes) -> None:
        if not self.stands.done():
            # Counted are events of the block that measures, in front of which all stand.
            self.stands.set_result(None)
            return
        text = self._rest + data
        self._crowd.heard(text.count(MARK))
        self._rest = text[max(text.rfind(MARK) + len(MARK), len(text) - len(MARK)) :]

    def connection_lost(self, error: Exception | None) -> None:
        self._crowd.lost += 1


class Crowd:
    """All followers of a server."""

    def __init__(self) -> None:
        self.lost = 0
        self._heard = 0
        self._wanted = 0
        self._all = asyncio.Event()

    def heard(self, events: int) -> None:
        self._heard += events
        if self._heard >= self._wanted:
            self._all.set()

    async def told(self, server: Child, followers: int, events: int) -> None:
        """Have the server say so many events, and wait until all followers have them."""
        self._all.clear()
        self._wanted += followers * events
        await server.ask("say", events=events)
        await self._all.wait()
        if self.lost or self._heard != self._wanted:
            raise ValueError(f"{self.lost} streams broke, {self._heard} of {self._wanted} events")


async def connected(url: str, follower: asyncio.Protocol) -> asyncio.Transport:
    """Connect a follower to a server."""
    where, loop = httpx.URL(url), asyncio.get_running_loop()
    transport, _ = await loop.create_connection(lambda: follower, where.host, where.port or 80)
    return transport


@asynccontextmanager
async def following(url: str, path: str, number: int) -> AsyncIterator[Crowd]:
    """So many connections that follow."""
    crowd = Crowd()
    async with AsyncExitStack() as stack:
        for begin in range(0, number, AT_ONCE):
            followers = [Follower(crowd, path) for _ in range(begin, min(number, begin + AT_ONCE))]
            for follower in followers:
                stack.callback((await connected(url, follower)).abort)
            await asyncio.gather(*(follower.stands for follower in followers))
        yield crowd


@asynccontextmanager
async def saying(peer: str, folder: Path) -> AsyncIterator[tuple[Child, str]]:
    """A peer's server, and where its stream is."""
    database = f"sqlite+aiosqlite:///{folder / f'{time.monotonic_ns()}.db'}"
    ours = peer == "opencode_async"
    starting = child("fanout_library", database) if ours else child("fanout_servers", peer)
    async with starting as server:
        yield server, (await server.ask("path"))["path"]


async def fan_out(peer: str, folder: Path, followers: int, bursts: int) -> dict[str, float]:
    """Events of bursts, and single ones, per second of CPU; ms until all have a burst."""
    figures = {}
    async with (
        saying(peer, folder) as (server, path),
        following(server.url, path, followers) as crowd,
    ):
        for name, size in (("in_bursts", BURST), ("one_by_one", 1)):
            await crowd.told(server, followers, size)  # whatever is done once is done
            before, began = await server.cpu(), time.monotonic()
            for _ in range(bursts):
                await crowd.told(server, followers, size)
            seconds = time.monotonic() - began
            cpu = await server.cpu() - before
            figures[name] = followers * bursts * size / cpu
            figures[f"{name}_ms"] = seconds / bursts * 1000
    return figures
