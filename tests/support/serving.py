"""An app behind a real uvicorn in the test's own loop, so that streams really stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import httpx
import httpx_sse
import uvicorn
from fastapi import FastAPI

from opencode_async.client.local_server import free_port
from opencode_async.turns.follower import Follower
from opencode_async.turns.following import Batches
from opencode_async.web.sse import FollowerResponse
from opencode_async.web.streams import Streams


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the app on a free port; a client of it."""
    port = free_port()
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=5
    )
    server = Started(config)
    serve = asyncio.create_task(server.serve())
    waiting = asyncio.create_task(server.ready.wait())
    await asyncio.wait([serve, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            trust_env=False,
            timeout=30,
            limits=httpx.Limits(max_connections=None),
        ) as client:
            yield client
    finally:
        server.should_exit = True
        await serve


class Started(uvicorn.Server):
    """A server that says when it listens, and leaves the signals to the test runner."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@dataclass
class Sse:
    """One received event."""

    id: str
    event: str
    data: dict[str, Any]


@asynccontextmanager
async def listening(
    client: httpx.AsyncClient, path: str, *, last_event_id: str | None = None
) -> AsyncIterator[AsyncIterator[Sse]]:
    """The events of a stream, as a browser has them."""
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    async with httpx_sse.aconnect_sse(client, "GET", path, headers=headers) as source:
        source.response.raise_for_status()
        frames = source.aiter_sse()

        async def events() -> AsyncIterator[Sse]:
            async for frame in frames:
                if frame.data:
                    yield Sse(frame.id, frame.event, frame.json())

        received = events()
        try:
            yield received
        finally:
            await received.aclose()  # type: ignore[attr-defined]
            await frames.aclose()


async def at_once(chunk: bytes) -> None:
    """A browser that takes what it is sent."""


async def stays() -> Any:
    """A browser that does not leave."""
    await asyncio.Event().wait()


async def sent_of(
    batches: Batches,
    streams: Streams | None = None,
    takes: Callable[[bytes], Awaitable[None]] = at_once,
    receive: Callable[[], Awaitable[Any]] = stays,
) -> list[bytes]:
    """The chunks of which a follower of those batches is sent its stream, to the end's empty one.

    ``takes`` is how long its browser takes for one, ``receive`` what comes from there.
    """
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            sent.append(message["body"])
            await takes(message["body"])

    follower = Follower(lambda event: None, "turn", "1")
    response = FollowerResponse(batches, None, streams or Streams(15), nullcontext(), follower)
    await response({"type": "http", "method": "GET"}, receive, send)
    return sent
