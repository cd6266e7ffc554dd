"""Servers in which turns run, each with a follower, to be compared.

``python -m tests.benchmarks.turn_servers <peer> <upstream>``; ours is ``host_app``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI
from sse_starlette import EventSourceResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.benchmarks.processes import serve

OF_SESSION = b'"sessionID":"'


class Relay:
    """No less can be done: one upstream connection, cut into frames, each handed on as it is."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._waiting: dict[bytes, asyncio.Queue[bytes]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        queue = self._waiting[scope["path"][1:].encode()] = asyncio.Queue()
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"\n", "more_body": True})
        while True:
            frame = await queue.get()
            await send({"type": "http.response.body", "body": frame, "more_body": True})

    async def _read(self) -> None:
        async with (
            httpx.AsyncClient(base_url=self._upstream, timeout=None) as http,  # noqa: S113
            http.stream("GET", "/event") as response,
        ):
            rest = b""
            async for chunk in response.aiter_bytes():
                *frames, rest = (rest + chunk).split(b"\n\n")
                for frame in frames:
                    at = frame.find(OF_SESSION) + len(OF_SESSION)
                    queue = self._waiting.get(frame[at : frame.find(b'"', at)])
                    if queue is not None:
                        queue.put_nowait(frame + b"\n\n")


def by_hand(upstream: str) -> FastAPI:
    """The SDK's event stream for each turn, of which it takes what is its own, event by event."""

    from opencode_ai import AsyncOpencode  # takes half a second

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncOpencode(base_url=upstream) as app.state.opencode:
            yield

    app = FastAPI(lifespan=running)

    @app.get("/turn")
    async def turn(load: str) -> EventSourceResponse:
        return EventSourceResponse(told(app.state.opencode, load))

    return app


async def told(opencode: Any, load: str) -> AsyncIterator[dict[str, str]]:
    session = await opencode.session.create(extra_body={})
    stream = await opencode.event.list()
    text = {"type": "text", "text": load}
    path = f"/session/{session.id}/prompt_async"
    await opencode.post(path, cast_to=type(None), body={"parts": [text]})
    async for event in stream:
        properties = event.properties
        if getattr(properties, "session_id", getattr(properties, "sessionID", None)) != session.id:
            continue
        kind: str = event.type
        if kind == "message.part.delta":
            yield {"event": "delta", "data": json.dumps({"delta": properties.delta})}
        elif kind == "session.idle":
            yield {"event": "finished", "data": "{}"}
            return


PEERS: dict[str, Callable[[str], ASGIApp]] = {"limit": Relay, "by hand": by_hand}

if __name__ == "__main__":
    serve(PEERS[sys.argv[1]](sys.argv[2]), {})
