"""Frames to a browser: the SSE response, its keep-alive, its farewell.

Frames come in batches and leave as one chunk; each is encoded once for all its followers. A slow
browser has no queue of its own: the log goes on, and it is given a snapshot once it is too far
behind.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import anyio
from fastapi import HTTPException, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from opencode_async.brokers.broker import Frame
from opencode_async.timings import Timings
from opencode_async.turns.following import Batches, Following, next_batch
from opencode_async.turns.frames import Cursor
from opencode_async.web.followers import TooManyFollowers
from opencode_async.web.problems import translated
from opencode_async.web.shown import Shown

SEND_TIMEOUT = 30.0  # s a browser has to take a piece before its stream ends
PIECE = 65_536  # bytes that are sent at once: as many as asyncio's transports buffer
END = {"type": "http.response.body", "body": b"", "more_body": False}
PING = ServerSentEvent(comment="ping", sep="\n").encode()


class FollowerResponse(EventSourceResponse):
    """The stream of one follower, while there is a ``place`` for it.

    A browser that takes nothing for ``SEND_TIMEOUT`` is no fault of the app's: ``stalled`` is
    called, what the stream held is let go of, and only its end is still to be sent. Once the
    browser reads, it finds that behind what was on its way, and comes back for the rest.
    """

    def __init__(
        self,
        batches: Batches,
        timings: Timings,
        shown: Shown | None,
        place: AbstractContextManager[None],
        stalled: Callable[[], None],
    ) -> None:
        self._place = place
        self._stalled = stalled
        farewell = anyio.Event()
        if shown is not None:
            batches = shown.batches(batches)
        super().__init__(
            chunks(batches, farewell, timings.ping),
            ping=0,
            send_timeout=SEND_TIMEOUT,
            shutdown_event=farewell,
            shutdown_grace_period=timings.drain,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._place:
                try:
                    await super().__call__(scope, receive, send)
                except SendTimeoutError:
                    self._stalled()
                    # Until it reads or is gone: the server holds the connection no less if this
                    # returns, and complains of a response without an end.
                    await send(END)
        except TooManyFollowers as error:
            await translated(error)(scope, receive, send)


def encoded(frame: Frame) -> bytes:
    """The frame's bytes on the wire."""
    if frame.encoded is None:
        event = ServerSentEvent(frame.data, event=frame.event, id=frame.id, sep="\n")
        frame.encoded = event.encode()
    return frame.encoded


async def chunks(
    batches: Batches, farewell: anyio.Event, ping: float
) -> AsyncGenerator[bytes, None]:
    """What is sent: each batch as one chunk, a comment when it is quiet, a farewell at shutdown.

    A large chunk is sent in pieces, so that little of it is held for a browser that is slow.
    """
    # At once, so that proxies and EventSource know that the stream stands.
    yield retry("connected")
    leaving = asyncio.ensure_future(farewell.wait())
    coming = asyncio.ensure_future(next_batch(batches))
    try:
        while True:
            done, _ = await asyncio.wait(
                (coming, leaving), timeout=ping, return_when=asyncio.FIRST_COMPLETED
            )
            if coming in done:
                frames = coming.result()
                if frames is None:
                    return
                chunk = b"".join(map(encoded, frames))
                for at in range(0, len(chunk), PIECE):
                    yield chunk[at : at + PIECE]
                coming = asyncio.ensure_future(next_batch(batches))
            elif leaving in done:
                yield retry("the server is shutting down")
                return
            else:
                yield PING
    finally:
        # Where the browser is gone, the cancellation comes again at each wait; what is left alone
        # here would still use the database when the app has closed it.
        with anyio.CancelScope(shield=True):
            for task in (coming, leaving):
                task.cancel()
            await asyncio.wait((coming, leaving))
            await batches.aclose()


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
) -> Response:
    """The stream of one turn; 204 where nothing is left to say, which ends an ``EventSource``."""
    cursor = cursor_of(request)
    stands = await following.place_of(key)
    if stands is None:
        raise HTTPException(404, "There is no such message.")
    if stands.terminal and cursor == stands.cursor:
        return Response(status_code=204)
    batches = following.turn(key, cursor, whole=shown is not None)
    return FollowerResponse(batches, timings, shown, place, partial(following.stalled, key))


async def let_go(request: Request) -> None:
    """Close the dependencies of a request that is about to be a stream, before anything else.

    FastAPI would keep a host's ``Depends(get_db)`` under ``access`` open as long as the stream, and
    with it a pooled connection; as many streams at once as the pool has connections would wait for
    each other, for the route needs one, too.
    """
    for stack in ("fastapi_function_astack", "fastapi_inner_astack"):
        await request.scope[stack].aclose()
