"""Frames to a browser: the SSE response, its keep-alive, its farewell.

Frames come in batches and leave as one chunk; each is encoded once for all its followers. A slow
browser has no queue of its own: the log goes on, and it is given a snapshot once it is too far
behind. A follower is two tasks and no timer of its own for what it is sent, which matters where
there are thousands: with ``sse_starlette.EventSourceResponse`` (3.7, measured), of five tasks, it
was twice the memory and five times the CPU time.
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
from opencode_async.turns.follower import Follower
from opencode_async.turns.following import Batches, Following
from opencode_async.turns.frames import Cursor
from opencode_async.web.followers import TooManyFollowers
from opencode_async.web.problems import translated
from opencode_async.web.shown import Shown
from opencode_async.web.streams import Streams

SEND_TIMEOUT = 30.0  # s a browser has to take a piece before its stream ends
PIECE = 65_536  # bytes that are sent at once: as many as asyncio's transports buffer
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

    A browser that takes nothing for ``SEND_TIMEOUT`` is no fault of the app's: operators are told,
    what the stream held is let go of, and only its end is still to be sent. Once the browser reads,
    it finds that behind what was on its way, and comes back for the rest.
    """

    media_type = "text/event-stream"
    status_code = 200
    background = None

    def __init__(
        self,
        batches: Batches,
        shown: Shown | None,
        streams: Streams,
        place: AbstractContextManager[None],
        follower: Follower,
    ) -> None:
        # Not the base's `__init__`, which is for a body that is there already.
        self.raw_headers = list(HEADERS)
        self._batches = batches if shown is None else shown.batches(batches)
        self._streams = streams
        self._place = place
        self._follower = follower
        self._sent = now()
        self._sending = False  # a chunk, since then: the browser has yet to take it
        self._one_by_one = asyncio.Lock()  # no ping within a chunk: it would end an event there
        self._resting: asyncio.Timeout | None = None  # of who listens for the browser

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, headers = self.status_code, self.raw_headers
        try:
            with self._place:
                await send({"type": "http.response.start", "status": status, "headers": headers})
                if scope["method"] != "HEAD":
                    with self._follower:
                        await self._stream(receive, send)
                # A browser that has stalled is waited for until it reads or is gone, also when the
                # server goes: that holds its connection no less if this returns.
                await send(part_of_body(b"", more=False))
            if self.background is not None:
                await self.background()
        except TooManyFollowers as error:
            await translated(error)(scope, receive, send)

    async def _stream(self, receive: Receive, send: Send) -> None:
        # At once, so that proxies and EventSource know that the stream stands.
        await send(part_of_body(retry("connected")))
        pumping = asyncio.create_task(self._pump(send), name="opencode follower")
        pumping.add_done_callback(self.rouse)
        self._streams.add(self)
        try:
            takes = await self._attend(pumping, receive, send)
        finally:
            self._streams.discard(self)
            with anyio.CancelScope(shield=True):
                pumping.cancel()
                await asyncio.wait([pumping])
        if not takes:
            self._follower.stalled()
        if not pumping.cancelled():
            pumping.result()
        elif self._streams.are_to_end and not self._sending:  # else it would end half an event
            await send(part_of_body(retry("the server is shutting down")))

    async def _pump(self, send: Send) -> None:
        try:
            async for frames in self._batches:
                chunk = b"".join([frame.encoded or encoded(frame) for frame in frames])
                del frames  # a snapshot may be large, and the next may be long in coming
                async with self._one_by_one:
                    self._sending = True
                    for at in range(0, len(chunk), PIECE):
                        # No time-out of its own, which would cost more than all else here.
                        self._sent = now()
                        await send(part_of_body(chunk[at : at + PIECE]))
                    self._sending = False
                del chunk
        finally:
            await self._batches.aclose()

    async def _attend(self, pumping: asyncio.Task[None], receive: Receive, send: Send) -> bool:
        """Listen until the browser has left, all is said, or the server goes.

        Or until the browser takes nothing any more; whether it does.
        """
        while not (pumping.done() or self._streams.are_to_end):
            resting = self._resting = asyncio.timeout(None)
            try:
                async with resting:
                    message = await receive()
            except TimeoutError:
                if not resting.expired():
                    raise  # of a middleware's
                if self.is_due and not await self._pinged(send):
                    return False
            else:
                if message["type"] == "http.disconnect":
                    break
            finally:
                self._resting = None
        return True

    async def _pinged(self, send: Send) -> bool:
        """Ping the browser, unless something is on its way; whether it takes anything."""
        if self._sending:
            return False
        self._sent = now()
        try:
            async with asyncio.timeout(SEND_TIMEOUT), self._one_by_one:
                await send(part_of_body(PING))
        except TimeoutError:
            return False
        return True

    @property
    def is_due(self) -> bool:
        """Whether the browser is to be pinged, or takes nothing."""
        return now() - self._sent >= (SEND_TIMEOUT if self._sending else self._streams.ping)

    def rouse(self, *_: object) -> None:
        """Have the request's task look up."""
        if self._resting is not None and not self._resting.expired():
            self._resting.reschedule(now())


def now() -> float:
    return asyncio.get_running_loop().time()


def part_of_body(chunk: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": chunk, "more_body": more}


def encoded(frame: Frame) -> bytes:
    """The frame's bytes on the wire, which it keeps."""
    event = ServerSentEvent(frame.data, event=frame.event, id=frame.id, sep="\n")
    frame.encoded = event.encode()
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
    shown: Shown | None,
    streams: Streams,
    place: AbstractContextManager[None],
) -> Response:
    """The stream of one turn; 204 where nothing is left to say, which ends an ``EventSource``."""
    cursor = cursor_of(request)
    stands = await following.place_of(key)
    if stands is None:
        raise HTTPException(404, "There is no such message.")
    if stands.terminal and cursor == stands.cursor:
        return Response(status_code=204)
    batches = following.frames(key, cursor, whole=shown is not None)
    return FollowerResponse(batches, shown, streams, place, following.follower(key))


async def let_go(request: Request) -> None:
    """Close the dependencies of a request that is about to be a stream, before anything else.

    FastAPI would keep a host's ``Depends(get_db)`` under ``access`` open as long as the stream, and
    with it a pooled connection; as many streams at once as the pool has connections would wait for
    each other, for the route needs one, too.
    """
    for stack in ("fastapi_function_astack", "fastapi_inner_astack"):
        await request.scope[stack].aclose()
