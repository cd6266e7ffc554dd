"""A hub over streams whose every frame, failure and end the test decides."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from opencode_async.client.hub import EventHub, Gap, Item, Subscription
from opencode_async.errors import OpencodeConnectionError
from opencode_async.observability.error_reporter import Severity
from opencode_async.observability.events import Event

Result = TypeVar("Result")

CONNECTED = json.dumps({"id": "evt_0", "type": "server.connected", "properties": {}})
BROKEN = OpencodeConnectionError("the line is cut")


class Connection:
    """One opened stream."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self._items: asyncio.Queue[str | Exception] = asyncio.Queue()

    async def send(self, *frames: str) -> None:
        """Send frames, and wait until the hub has dealt with them."""
        for frame in frames:
            self._items.put_nowait(frame)
        await self._items.join()

    def fail(self, error: Exception) -> None:
        """Have the stream raise after the frames before."""
        self._items.put_nowait(error)

    async def frames(self) -> AsyncIterator[str]:
        while not isinstance(item := await self._items.get(), Exception):
            yield item
            self._items.task_done()
        raise item


class Streams:
    """What the hub opens; ``refusal`` is raised instead while it is set."""

    def __init__(self) -> None:
        self.attempts = 0
        self.refusal: Exception | None = None
        self.failure_at_close: Exception | None = None
        self._opened: asyncio.Queue[Connection] = asyncio.Queue()

    async def accept(self) -> Connection:
        """The next connection the hub opens, silent so far."""
        return await self._opened.get()

    async def connect(self) -> Connection:
        """The next connection, once the hub has taken note that it stands."""
        connection = await self.accept()
        await connection.send(CONNECTED)
        return connection

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncIterator[str]]:
        self.attempts += 1
        if self.refusal is not None:
            raise self.refusal
        connection = Connection()
        self._opened.put_nowait(connection)
        try:
            yield connection.frames()
        finally:
            connection.closed.set()
            if self.failure_at_close is not None:
                raise self.failure_at_close


@dataclass
class Lab:
    """A hub, its streams, what it reported and what operators were told."""

    hub: EventHub
    streams: Streams
    tasks: asyncio.TaskGroup
    reported: list[tuple[BaseException, Severity]]
    told: list[Event]
    started: list[asyncio.Task[Any]] = field(default_factory=list)

    def start(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """A task that does not outlive the test."""
        task = self.tasks.create_task(work)
        self.started.append(task)
        return task

    def in_task(self, session_id: str) -> Subscriber:
        return Subscriber(self, session_id)

    @property
    def forgotten(self) -> bool:
        """Whether the hub knows no subscriber any more."""
        return self.hub._subscriptions == {}


class Subscriber:
    """A task of its own that subscribes and stays until it is told to leave."""

    def __init__(self, lab: Lab, session_id: str) -> None:
        self.subscribed = asyncio.Event()
        self.events: Subscription | None = None
        self._leaving = asyncio.Event()
        self._hub = lab.hub
        self.task = lab.start(self._stay(session_id))

    async def _stay(self, session_id: str) -> BaseException | None:
        try:
            async with self._hub.subscribe(session_id) as self.events:
                self.subscribed.set()
                await self._leaving.wait()
        except Exception as error:
            return error
        return None

    async def leave(self) -> None:
        self._leaving.set()
        await self.task


def frame(kind: str, **properties: object) -> str:
    return json.dumps({"id": "evt_1", "type": kind, "properties": properties})


def idle(session_id: str) -> str:
    return frame("session.idle", sessionID=session_id)


def created(session_id: str, parent_id: str) -> str:
    info = {"id": session_id, "parentID": parent_id}
    return frame("session.created", sessionID=session_id, info=info)


def delta(session_id: str, text: str) -> str:
    fields = {"messageID": "msg_1", "partID": "prt_1", "field": "text", "delta": text}
    return frame("message.part.delta", sessionID=session_id, **fields)


async def next_items(events: Subscription) -> list[Item]:
    return await events.batch(10)


@asynccontextmanager
async def connected(lab: Lab, session_id: str) -> AsyncIterator[tuple[Subscription, Connection]]:
    """The first subscription of a hub, with the gap of the connection behind it."""
    accepting = lab.start(lab.streams.connect())
    async with lab.hub.subscribe(session_id) as events:
        assert await next_items(events) == [Gap()]
        yield events, await accepting
