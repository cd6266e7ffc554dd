"""Frames to a browser: the SSE response, its keep-alive, its farewell.

Frames come in batches and leave as one chunk; each is encoded once for all its followers. A
follower is two tasks, which matters where thousands have nothing to hear.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AbstractContextManager
from typing import Any

import anyio
from fastapi import HTTPException, Request, Response
from sse_starlette import ServerSentEvent
from starlette.types import Message, Receive, Scope, Send

from opencode_async.brokers.broker import Frame
from opencode_async.timings import Timings
from opencode_async.turns.following import Batches, Following
from opencode_async.turns.frames import Cursor
from opencode_async.web.followers import TooManyFollowers
from opencode_async.web.leaving import Leaving
from opencode_async.web.problems import translated
from opencode_async.web.shown import Shown

SEND_TIMEOUT = 30.0  # s a browser has to take a chunk before it is given up
PING = ServerSentEvent(comment="ping", sep="\n").encode()
HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
)


class FollowerResponse(Response):
    """The stream of one follower, while there is a ``place`` for it.

    The request's own task listens for the browser that leaves, pings it and says farewell; another
    one hands on the batches. A middleware may cancel the first, again at each of its waits; the
    second is cancelled once, and is waited for: it may be using the database.
    """

    status_code = 200
    background = None

    def __init__(
        self,
        batches: Batches,
        timings: Timings,
        shown: Shown | None,
        place: AbstractContextManager[None],
        leaving: Leaving,
    ) -> None:
        self.raw_headers = list(HEADERS)
        self._batches = batches if shown is None else shown.batches(batches)
        self._timings = timings
        self._place = place
        self._leaving = leaving
        self._now = asyncio.get_running_loop().time
        self._sent = self._now()
        self._sending = False  # since then, and the browser has yet to take it
        self._resting: asyncio.Timeout | None = None  # of who listens for the browser

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            with self._place:
                await send(start)
                if scope["method"] == "HEAD" or await self._stream(receive, send):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            if self.background is not None:
                await self.background()
        except TooManyFollowers as error:
            await translated(error)(scope, receive, send)

    async def _stream(self, receive: Receive, send: Send) -> bool:
        """Send all there is; whether there is still somebody to be told that it has ended."""
        # At once, so that proxies and EventSource know that the stream stands.
        await self._send(send, retry("connected"))
        pumping = asyncio.create_task(self._pump(send), name="opencode follower")
        pumping.add_done_callback(lambda _: self._rouse())
        self._leaving.add(self._rouse)
        try:
            await self._attend(pumping, receive, send)
        finally:
            self._leaving.discard(self._rouse)
            with anyio.CancelScope(shield=True):
                pumping.cancel()
                await asyncio.wait([pumping])
                await self._batches.aclose()
        if not pumping.cancelled():
            pumping.result()
        elif self._leaving.now:
            async with asyncio.timeout(self._timings.drain):
                await self._send(send, retry("the server is shutting down"))
        else:
            return False
        return True

    async def _pump(self, send: Send) -> None:
        async for frames in self._batches:
            # No time-out of its own, which would cost more than all else here.
            self._sent, self._sending = self._now(), True
            await send(part_of_body(b"".join(map(encoded, frames))))
            self._sending = False
            del frames  # a snapshot may be large, and the next may be long in coming

    async def _attend(self, pumping: asyncio.Task[None], receive: Receive, send: Send) -> None:
        """Return when the browser has left, when all is said, or when the server goes.

        Raises ``TimeoutError`` for a browser that takes nothing.
        """
        while not (pumping.done() or self._leaving.now):
            patience = SEND_TIMEOUT if self._sending else self._timings.ping
            try:
                async with asyncio.timeout_at(self._sent + patience) as self._resting:
                    message = await receive()
            except TimeoutError:
                quiet = self._now() - self._sent
                if self._sending and quiet >= SEND_TIMEOUT:
                    raise
                if not self._sending and quiet >= self._timings.ping:
                    await self._send(send, PING)
            else:
                if message["type"] == "http.disconnect":
                    return
            finally:
                self._resting = None

    def _rouse(self) -> None:
        """Have the request's task look up."""
        if self._resting is not None and not self._resting.expired():
            self._resting.reschedule(self._now())

    async def _send(self, send: Send, chunk: bytes) -> None:
        self._sent = self._now()
        async with asyncio.timeout(SEND_TIMEOUT):
            await send(part_of_body(chunk))


def part_of_body(chunk: bytes) -> Message:
    return {"type": "http.response.body", "body": chunk, "more_body": True}


def encoded(frame: Frame) -> bytes:
    """The frame's bytes on the wire; its data, being JSON, is one line."""
    if frame.encoded is None:
        text = f"id: {frame.id}\nevent: {frame.event}\ndata: {frame.data}\n\n"
        frame.encoded = text.encode()
    return frame.encoded


def retry(comment: str) -> bytes:
    """A comment and when to reconnect: jittered, so that not all browsers return at once."""
    milliseconds = random.randint(500, 2500)  # noqa: S311
    return ServerSentEvent(comment=comment, retry=milliseconds, sep="\n").encode()


def cursor_of(request: Request) -> Cursor | None:
    """Where the follower left off; ``EventSource`` sends a header, a first request may ask."""
    text = request.headers.get("last-event-id") or request.query_params.get("after")
    return Cursor.parse(text) if text else None


async def turn_response(
    following: Following[Any, Any],
    key: Any,
    request: Request,
    timings: Timings,
    shown: Shown | None,
    place: AbstractContextManager[None],
    leaving: Leaving,
) -> Response:
    """The stream of one turn; 204 where nothing is left to say, which ends an ``EventSource``."""
    cursor = cursor_of(request)
    stands = await following.place_of(key)
    if stands is None:
        raise HTTPException(404, "There is no such message.")
    if stands.terminal and cursor == stands.cursor:
        return Response(status_code=204)
    batches = following.turn(key, cursor, whole=shown is not None)
    return FollowerResponse(batches, timings, shown, place, leaving)


async def let_go(request: Request) -> None:
    """Close the dependencies of a request that is about to be a stream, before anything else.

    FastAPI would keep a host's ``Depends(get_db)`` under ``access`` open as long as the stream, and
    with it a pooled connection; as many streams at once as the pool has connections would wait for
    each other, for the route needs one, too.
    """
    for stack in ("fastapi_function_astack", "fastapi_inner_astack"):
        await request.scope[stack].aclose()
