"""Followers vanish by the hundred, as browsers whose machine lost its network."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from opencode_async import Access, FollowerLimits, Timings
from opencode_async.brokers.memory import MemoryBroker
from opencode_async.testing import ScriptedServer
from opencode_async.turns.message import message_json
from tests.support.hosts import Host, host
from tests.support.postgres import new_database
from tests.support.replay import replay_events
from tests.support.serving import listening, serving

WAVES, WAVE = 5, 200
# A quiet turn is looked after now and then, over connections that would be counted.
TIMINGS = Timings(lease=30.0, look=60.0, settle=0.5, snapshot=0.1)
# Objects that one follower may leave behind: whatever holds on to it, a task or a generator, is one
# or more. What a wave adds to the turn's own log is some dozens for all of them.
LEAK = 1.0
RESET = struct.pack("ii", 1, 0)  # no linger: closing sends a reset, whatever was read


@dataclass(frozen=True)
class Held:
    """What this process holds; the pool's idle connections are the database's business."""

    tasks: int
    files: int
    followers: int
    logs: int
    connections: int

    @classmethod
    def by(cls, app: Host[Any, Any]) -> Held:
        pool: Any = app.engine.pool
        broker = app.agent.broker
        assert isinstance(broker, MemoryBroker)
        return cls(
            tasks=len(asyncio.all_tasks()),
            files=len(os.listdir("/proc/self/fd")) - pool.checkedin() - pool.checkedout(),
            followers=sum(len(log.feeds) for log in broker._logs.values()),
            logs=len(broker._logs),
            connections=pool.checkedout(),
        )

    def within(self, before: Held) -> bool:
        return all(count <= asdict(before)[name] for name, count in asdict(self).items())


async def back_to(before: Held, app: Host[Any, Any]) -> None:
    """Wait until no more is held than before."""
    try:
        async with asyncio.timeout(15):
            while not Held.by(app).within(before):
                async with app.sessions() as db:
                    await db.execute(text("SELECT 1"))
    except TimeoutError:
        pytest.fail(f"{Held.by(app)} is left, it was {before}")


class Steps:
    """A turn of one tool call, which takes its next step, and says so, when the test lets it.

    One call, for the scripted model remembers each request, and lives in this process.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._name = f"go-{uuid4().hex}"
        self._files = [folder / f"{self._name}-{number}" for number in range(count)]
        # It ends by itself, should nobody let it go.
        wait = f"for i in $(seq 600); do [ -e {self._name}-$n ] && break; sleep 0.1; done"
        command = f"for n in $(seq 0 {count - 1}); do {wait}; echo step $n; done"
        arguments = {"command": command, "description": "Takes steps", "timeout": 600_000}
        self.script = f"SCRIPT:tools {json.dumps([{'name': 'bash', 'args': arguments}])}"
        self.output = "".join(f"step {number}\n" for number in range(count))

    def go(self, number: int) -> None:
        self._files[number].touch()

    def go_on(self) -> None:
        for file in self._files:
            file.touch()


class Crowd:
    """Followers of one turn, half of them over its conversation, on plain sockets."""

    def __init__(self, web: httpx.AsyncClient, message: Any) -> None:
        self.paths = (
            f"/agent/messages/{message.id}/events",
            f"/agent/conversations/{message.conversation_id}/events",
        )
        self._url = web.base_url

    async def vanish(self, size: int, meanwhile: Callable[[], None], says: str) -> None:
        """So many come; a third goes once all have heard of the turn, the others in mid-frame.

        ``meanwhile`` is called in between, and makes the turn say that.
        """
        came = asyncio.Barrier(size + 1)
        async with asyncio.TaskGroup() as tasks:
            for number in range(size):
                tasks.create_task(self._one(number, came, says.encode()))
            await came.wait()
            meanwhile()

    async def _one(self, number: int, came: asyncio.Barrier, says: bytes) -> None:
        reader, writer = await asyncio.open_connection(self._url.host, self._url.port)
        try:
            path = self.paths[number % 2]
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {self._url.host}\r\n\r\n".encode())
            await reader.readuntil(b"event: snapshot")
            await came.wait()
            if number % 3:
                await reader.readuntil(says)
        finally:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()


def app_of(app: Host[Any, Any]) -> FastAPI:
    async def access() -> Access:
        return Access(app.agent.tables.conversation.user_id == 1)

    web = FastAPI()
    room = FollowerLimits(conversation=2 * WAVE)
    web.include_router(app.agent.router(access=access, followers=room), prefix="/agent")
    return web


async def in_use(app: Host[Any, Any]) -> int:
    """The objects in use; a database connection has caches of its own, so none is kept."""
    await app.engine.dispose()
    gc.collect()
    return len(gc.get_objects())


async def told(app: Host[Any, Any], key: object, output: str) -> None:
    """Wait until the row says that the tool has said that: then the turn is quiet."""
    async with asyncio.timeout(30):
        while output not in str((await app.row(key)).parts):
            pass


@pytest.mark.timeout(300)
async def test_followers_that_vanish_by_the_hundred_leave_nothing_behind(
    postgres_url: str, opencode: ScriptedServer
) -> None:
    steps = Steps(Path(opencode.directory or ""), WAVES + 1)
    async with (
        new_database(postgres_url) as url,
        host(url, opencode, timings=TIMINGS) as app,
        serving(app_of(app)) as web,
    ):
        message = await app.agent.turns.start(await app.conversation(), steps.script)
        crowd = Crowd(web, message)
        try:
            await told(app, message.id, "running")
            before, used = Held.by(app), []
            for number in range(WAVES):
                await crowd.vanish(WAVE, partial(steps.go, number), f"step {number}")
                await told(app, message.id, f"step {number}")
                await back_to(before, app)
                used.append(await in_use(app))
            async with listening(web, crowd.paths[0]) as events:
                heard = [await anext(events)]
                steps.go(WAVES)
                heard += [event async for event in events]
        finally:
            steps.go_on()
            await app.agent.turns.stop(message.id, within=10)
        row = await app.row(message.id)
    # Behind the first wave; a cache that grows once is no leak, and one shows in every wave.
    each = median(more - less for less, more in pairwise(used)) / WAVE
    print(f"{WAVES} x {WAVE} followers vanished and left {each:.2f} objects each; {before}")
    assert each < LEAK
    state, finished = replay_events(heard)
    assert (row.status, row.finish, row.epoch) == ("completed", "stop", 1)
    assert finished == message_json(row)
    assert state["parts"] == finished["parts"]
    (call,) = (part for part in finished["parts"] if part["type"] == "tool")
    assert call["output"] == steps.output
