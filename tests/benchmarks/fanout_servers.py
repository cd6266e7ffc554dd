"""Servers with one stream and any number of followers, which are told when to say something.

``python -m tests.benchmarks.fanout_servers <peer>``; all are told the same events, ready made, and
what is measured is how they bring them to each follower. Ours is in ``fanout_library``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import fastapi.sse
from fastapi import FastAPI, Request
from sse_starlette import EventSourceResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.benchmarks.processes import Json, serve

DELTA = "seventeen characters"
Event = tuple[str, str, str]  # its id, its type, its data


class Server(Protocol):
    """One of them."""

    app: ASGIApp

    async def path(self) -> str:
        """Where its stream is."""

    async def say(self, events: int) -> None:
        """Tell each follower so many events that came at once."""


class Queues:
    """By hand: a queue for each follower, into which everything is put."""

    def __init__(self) -> None:
        self.app: ASGIApp = self
        self._queues: set[asyncio.Queue[Any]] = set()
        self._said = 0

    async def path(self) -> str:
        return "/events"

    async def say(self, events: int) -> None:
        for event in self.events(events):
            self.put(event)

    def put(self, item: object) -> None:
        for queue in self._queues:
            queue.put_nowait(item)

    def events(self, number: int) -> Sequence[Event]:
        first, self._said = self._said + 1, self._said + number
        data = [{"message_id": "m", "index": 0, "delta": DELTA} for _ in range(number)]
        encoded = [json.dumps(one, separators=(",", ":")) for one in data]
        return [(f"m.1.{n}", "part.delta", text) for n, text in enumerate(encoded, first)]

    async def listen(self) -> AsyncIterator[Any]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self._queues.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._queues.discard(queue)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


class SseStarlette(Queues):
    """An ``EventSourceResponse`` of events, one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.app = app = FastAPI()

        @app.get("/events")
        async def events(request: Request) -> EventSourceResponse:
            return EventSourceResponse(self.told())

    async def told(self) -> AsyncIterator[dict[str, str]]:
        async for id_, kind, data in self.listen():
            yield {"id": id_, "event": kind, "data": data}


class FastapiSse(Queues):
    """FastAPI's own event streams."""

    def __init__(self) -> None:
        super().__init__()
        self.app = app = FastAPI()

        @app.get("/events", response_class=fastapi.sse.EventSourceResponse)
        async def events() -> AsyncIterator[fastapi.sse.ServerSentEvent]:
            async for id_, kind, data in self.listen():
                yield fastapi.sse.ServerSentEvent(raw_data=data, event=kind, id=id_)


class RawAsgi(Queues):
    """No less can be done: what came at once is encoded once, and sent as it is."""

    async def say(self, events: int) -> None:
        told = self.events(events)
        self.put("".join(f"id: {i}\nevent: {k}\ndata: {d}\n\n" for i, k, d in told).encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"\n", "more_body": True})
        async for chunk in self.listen():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})


PEERS = {"sse-starlette": SseStarlette, "fastapi.sse": FastapiSse, "limit": RawAsgi}


def serve_saying(one: Server) -> None:
    """Serve it, and have it say what it is told to."""

    async def path() -> Json:
        return {"path": await one.path()}

    async def say(events: int) -> Json:
        await one.say(events)
        return {}

    serve(one.app, {"path": path, "say": say})


if __name__ == "__main__":
    serve_saying(PEERS[sys.argv[1]]())
