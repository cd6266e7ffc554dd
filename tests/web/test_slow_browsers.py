"""Browsers that take little or nothing of a stream, on real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update
from starlette.middleware.gzip import GZipMiddleware

from opencode_async.brokers import log
from opencode_async.brokers.broker import Frame
from opencode_async.observability.events import Event
from opencode_async.protocol.changes import PartAdded, PartUpdated
from opencode_async.protocol.parts import TextPart
from opencode_async.turns.frames import FramePublisher
from opencode_async.web import sse
from opencode_async.web.sse import PIECE
from tests.support.hosts import QUICK, Host, host, nowhere
from tests.support.replay import replay_events
from tests.support.serving import Sse, listening, sent_of, serving
from tests.web.test_followers import Timed, web_of

NOBODY = "http://127.0.0.1:9"
LARGE = 100_000  # characters of each change


class Worker:
    """Runs a turn, whose answer is one part that is another each time."""

    def __init__(self, app: Host[Any, Any], message: Any) -> None:
        self._app = app
        self.key = message.id
        self._publisher = FramePublisher(
            app.agent.broker, app.agent.name, str(message.id), message.epoch, app.reports
        )

    async def says(self) -> int:
        """Say something large, and store it; the number of its frame."""
        number = self._publisher.seq + 1
        part = TextPart("prt_1", f"{number} ".ljust(LARGE, "x"))
        change = PartAdded(0, part) if number == 1 else PartUpdated(0, part)
        await self._publisher.publish(self._publisher.numbered([change]))
        if number % 10 == 0:
            await self._store(part, cursor=number)
            self._publisher.stored = number
        return number

    async def ends(self) -> None:
        part = TextPart("prt_1", "At last.")
        await self._publisher.publish(self._publisher.numbered([PartUpdated(0, part)]))
        await self._store(part, cursor=self._publisher.seq + 1, status="completed")
        await self._publisher.end()

    async def _store(self, part: TextPart, **values: Any) -> None:
        kind = self._app.agent.tables.message
        values |= {"parts": [part.to_json()], "content": part.content}
        async with self._app.sessions.begin() as db:
            await db.execute(update(kind).where(kind.id == self.key).values(values))


class Browser:
    """One that asks for a stream, and reads nothing before it is told to."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    async def rest(self) -> list[Sse]:
        """All that was sent, to the end of the response; what is cut off there is no event."""
        reader, writer = await asyncio.open_connection(sock=self._connection, limit=2 * LARGE)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"200 OK" in head
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        writer.close()
        await writer.wait_closed()
        return [event for event in map(event_of, body.decode().split("\n\n")[:-1]) if event]


def event_of(text: str) -> Sse | None:
    fields = dict(line.split(": ", 1) for line in text.split("\n") if line[0] != ":")
    return (
        Sse(fields["id"], fields["event"], json.loads(fields["data"])) if "id" in fields else None
    )


@asynccontextmanager
async def browser(client: httpx.AsyncClient, path: str) -> AsyncIterator[Browser]:
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    own.setblocking(False)
    loop, host = asyncio.get_running_loop(), client.base_url.host
    with own:
        await loop.sock_connect(own, (host, client.base_url.port))
        await loop.sock_sendall(own, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        yield Browser(own)


class Told:
    """What operators are told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._news = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    def count(self, name: str) -> int:
        return sum(event.name == name for event in self.events)

    async def until(self, name: str, times: int = 1) -> None:
        async with asyncio.timeout(30):
            while self.count(name) < times:
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def a_turn(
    folder: Path, *middlewares: Any
) -> AsyncIterator[tuple[Host[Any, Any], Worker, httpx.AsyncClient, str, Told]]:
    """One that this test runs, an app that shows it, and what is told of that."""
    url, told = f"sqlite+aiosqlite:///{folder / 'test.db'}", Told()
    options: dict[str, Any] = {"dispatch": nowhere, "timings": replace(QUICK, lease=6000.0)}
    async with host(url, NOBODY, instrumentation=told, **options) as app:
        message = await app.agent.turns.start(await app.conversation(), "Hello.")
        web = web_of(app)
        for middleware in middlewares:
            web.add_middleware(middleware)
        async with serving(web) as client:
            yield app, Worker(app, message), client, f"/agent/messages/{message.id}/events", told
        assert app.reports.errors == []


@pytest.mark.parametrize("middlewares", [[], [GZipMiddleware], [Timed]])
async def test_a_browser_that_takes_nothing_is_given_up_without_a_word_of_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    middlewares: list[Any],
) -> None:
    monkeypatch.setattr(sse, "SEND_TIMEOUT", 0.5)
    async with a_turn(tmp_path, *middlewares) as (app, worker, client, path, told):
        logging.getLogger("uvicorn.error").addHandler(caplog.handler)
        async with browser(client, path) as slow:
            await told.until("follower.joined")
            async with asyncio.timeout(30):
                while not told.count("follower.stalled"):  # the kernel buffers some megabytes
                    await worker.says()
                    await app.row(worker.key)  # which lets others go on, too
            await told.until("follower.left")
            await app.holds_no_connection()
            heard = await slow.rest()
        assert heard[0].event == "snapshot"
        assert len(heard) > 1
        await worker.ends()
        async with listening(client, path, last_event_id=heard[-1].id) as events:
            heard += [event async for event in events]
        finished = replay_events(heard)[1]
        assert finished == (await client.get(path.removesuffix("/events"))).json()
    assert told.count("follower.stalled") == 1
    logging.getLogger("uvicorn.error").removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records if record.levelno > 20] == []


async def test_browsers_that_are_slow_cost_little_and_hold_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "RETAINED_SIZE", 4 * LARGE)
    monkeypatch.setattr(sse, "SEND_TIMEOUT", 600.0)
    slow, rounds = 5, 150
    async with AsyncExitStack() as stack:
        _, worker, client, path, told = await stack.enter_async_context(a_turn(tmp_path))
        browsers = [await stack.enter_async_context(browser(client, path)) for _ in range(slow)]
        await told.until("follower.joined", slow)
        quick = await stack.enter_async_context(listening(client, path))
        heard = [(await anext(quick)).event]
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        for _ in range(rounds):
            number = await worker.says()
            event = await anext(quick)  # at once, whoever else takes nothing
            assert event.id.endswith(f".{number}")
            heard.append(event.event)
        most = tracemalloc.get_traced_memory()[1]
        await worker.ends()
        heard += [event.event async for event in quick]
        assert heard == [
            *("snapshot", "part.added"),
            *["part.updated"] * rounds,
            "finished",
        ]
        read = [await each.rest() for each in browsers]
        message = (await client.get(path.removesuffix("/events"))).json()
    for events in read:
        assert replay_events(events)[1] == message
        assert len(events) < rounds / 2  # the rest it was spared
    assert told.count("follower.stalled") == 0
    said = rounds * LARGE
    print(f"{slow} slow browsers of a turn that said {said / 1e6:.0f} MB: {most / 1e6:.0f} MB")
    assert most < said / 2


async def test_a_large_frame_is_sent_in_pieces() -> None:
    frame = Frame("m.1.1", 1, "part.delta", "x" * 300_000)

    async def batches() -> AsyncGenerator[list[Frame], None]:
        yield [frame]

    sent = await sent_of(batches())
    assert max(map(len, sent)) == PIECE
    assert b"".join(sent[1:]) == sse.encoded(frame)
