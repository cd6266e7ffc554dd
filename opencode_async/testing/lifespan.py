"""An ASGI app's lifespan, run as a server runs it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from opencode_async.testing.streaming_transport import App, Message


@asynccontextmanager
async def lifespan_of(app: App) -> AsyncIterator[dict[str, Any]]:
    """Start the app, and stop it at the end of the block; yields the state it gives to requests.

    All of its lifespan runs in one task, so that what must be left where it was entered (a cancel
    scope, a time limit) is, even if this block is a fixture's, which is left in another task than
    it was entered in. Raises what the app raises while it starts or stops, and at the end of the
    block what ended it meanwhile.
    """
    lifespan = Lifespan(app)
    task = asyncio.create_task(lifespan.run(), name="lifespan")
    try:
        await ended_or(lifespan.started, task)
    except BaseException:
        task.cancel()
        await asyncio.wait([task])
        raise
    try:
        yield lifespan.state
    finally:
        lifespan.leave.set()
        await task


class Lifespan:
    """The app's side of the protocol, and what is to be waited for."""

    def __init__(self, app: App) -> None:
        self.state: dict[str, Any] = {}
        self.started, self.leave = asyncio.Event(), asyncio.Event()
        self._app = app
        self._asked = False
        self._failure: str | None = None

    async def run(self) -> None:
        """Run it to its end; raises what the app raises, or ``RuntimeError`` with what it says."""
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        await self._app(scope, self._receive, self._send)
        if self._failure is not None:
            raise RuntimeError(self._failure)
        if not self.started.is_set():
            raise RuntimeError("the app returned from its lifespan before it had started")

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        await self.leave.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            self.started.set()
        elif message["type"].endswith(".failed"):
            self._failure = f"{message['type']}: {message.get('message', '')}"


async def ended_or(event: asyncio.Event, task: asyncio.Task[None]) -> None:
    """Wait for the event; raises what the task does if that ends before."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([waiting, task], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if not event.is_set():
        await task
