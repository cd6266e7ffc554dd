"""One event stream for all turns of a process.

Responsibilities: keep one ``GET /event`` open per (server, directory) while anybody is subscribed;
hand each event to the turn whose session, or whose subagent's session, it is of; tell subscribers
of a gap. Not responsibilities: it never posts, and it does not repair what a gap swallowed (the
turn reads REST).

Why one: each connection carries every session's events, so N turns with one each would read N x N.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from opencode_async.client.pace import Pace
from opencode_async.errors import OpencodeConnectionError, OpencodeError, OpencodeTimeoutError
from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.observability.events import StreamBroken, StreamConnected, StreamOverflowed
from opencode_async.observability.instrumentation import Instrumentation
from opencode_async.protocol.events import (
    Event,
    ServerConnected,
    ServerHeartbeat,
    SessionCreated,
    event_from_wire,
)
from opencode_async.protocol.wire import Malformed, loads
from opencode_async.timed_event import TimedEvent

LINGER = 30.0  # s a stream without subscribers stays open: the next turn often follows soon
FIRST_BACKOFF, LONGEST_BACKOFF = 0.2, 5.0  # s between attempts to reconnect
# s for the first frame, which is sent at once. A server that is starting accepts connections 0.3 s
# early, and on those nothing ever comes (OpenCode 1.18.33, measured).
FIRST_FRAME = 5.0
MOST_PENDING = 50_000  # events a subscriber may lag behind: ten seconds at the server's full speed


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The stream broke; events are being missed."""

    error: OpencodeError


@dataclass(frozen=True, slots=True)
class Gap:
    """Events were missed; from here on the stream is whole again."""


@dataclass(frozen=True, slots=True)
class Nudge:
    """Put in by the subscription's owner, to wake whoever waits for its events."""


Item = Event | Disconnected | Gap | Nudge
OpenStream = Callable[[], AbstractAsyncContextManager[AsyncIterator[str]]]


class Subscription:
    """The events of one session and of its subagents' sessions, in their order."""

    def __init__(self, session_id: str, pace: Pace) -> None:
        self.session_ids = {session_id}
        self._pace = pace
        self._pending: list[Item] = []
        self._arrived = TimedEvent()

    async def batch(self, within: float) -> list[Item]:
        """Everything that has arrived since the last call; waits for something, so many seconds."""
        until = self._arrived.now() + within
        while await self._arrived.wait(until) and not self._pending:
            pass  # what it was set for has been read
        batch, self._pending = self._pending, []
        return batch

    def close(self) -> None:
        """Nobody reads it any more."""
        self._arrived.close()

    def put(self, item: Item) -> bool:
        """Hand over one item; a reader that lags too far behind gets a ``Gap`` instead.

        Whether there was room for what it was to read before.
        """
        room = len(self._pending) < MOST_PENDING
        if not room:
            # What the owner put in is not the server's to repeat.
            self._pending = [Gap(), *(i for i in self._pending if isinstance(i, Nudge))]
        self._pending.append(item)
        self._pace.set(self._arrived)
        return room


class EventHub:
    """See the module. ``malformed`` counts the frames that could not be read.

    ``server`` is what operators know it by: its URL.
    """

    def __init__(
        self,
        open_stream: OpenStream,
        tasks: asyncio.TaskGroup,
        report: ErrorReporter,
        instrumentation: Instrumentation,
        *,
        server: str,
    ) -> None:
        self.malformed = 0
        self._pace = Pace()
        self._instrumentation = instrumentation
        self._server = server
        self._failures = 0  # to connect, or to stay connected, since it last stood
        self._stood = False
        self._open_stream = open_stream
        self._tasks = tasks
        self._report = report
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._reader: asyncio.Task[None] | None = None
        self._attempt = self._new_attempt()
        self._connected = False
        self._hurry = asyncio.Event()
        self._closing: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def subscribe(self, session_id: str) -> AsyncIterator[Subscription]:
        """Subscribe to a session: inside the block, nothing it sends is missed unannounced.

        Raises what connecting raises: ``OpencodeConnectionError``, ``AuthenticationError``, ….
        """
        subscription = Subscription(session_id, self._pace)
        self._subscriptions.setdefault(session_id, []).append(subscription)
        try:
            await self._ready()
            yield subscription
        finally:
            self._leave(subscription)

    def adopt(self, subscription: Subscription, session_id: str) -> None:
        """Also hand it the events of that session, a subagent's."""
        if session_id not in subscription.session_ids:
            subscription.session_ids.add(session_id)
            self._subscriptions.setdefault(session_id, []).append(subscription)

    def close(self) -> None:
        """Stop reading; who is subscribed, or is about to be, is told that it broke."""
        if self._closing is not None:
            self._closing.cancel()
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None
            self._disconnected(OpencodeConnectionError("GET /event: closed by this process"))

    async def _ready(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if self._connected:
            return
        if self._reader is None:
            self._reader = self._tasks.create_task(self._read(), name="opencode event hub")
        self._hurry.set()
        await asyncio.shield(self._attempt)

    def _leave(self, subscription: Subscription) -> None:
        subscription.close()
        for session_id in subscription.session_ids:
            others = self._subscriptions[session_id]
            others.remove(subscription)
            if not others:
                del self._subscriptions[session_id]
        if not self._subscriptions and self._reader is not None:
            self._closing = asyncio.get_running_loop().call_later(LINGER, self.close)

    def _new_attempt(self) -> asyncio.Future[None]:
        attempt: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Nobody may be waiting for it: its error is then told by the subscribers' `Disconnected`.
        attempt.add_done_callback(lambda done: done.cancelled() or done.exception())
        return attempt

    async def _read(self) -> None:
        self._failures, self._stood = 0, False
        while True:
            try:
                async with asyncio.timeout(FIRST_FRAME) as patience, self._open_stream() as frames:
                    async for data in frames:
                        if self._receive(data):
                            patience.reschedule(None)
                raise OpencodeConnectionError("GET /event: the server closed the stream")
            except OpencodeError as error:
                broken = error
            except TimeoutError:
                broken = OpencodeTimeoutError(f"GET /event: nothing within {FIRST_FRAME:.0f} s")
            except Exception as error:  # a defect of ours must not end every turn's stream
                self._report(error, severity="error", context={"during": "event hub"})
                broken = OpencodeConnectionError(f"event hub: {type(error).__name__}")
            if self._reader is not asyncio.current_task():
                return  # closed, and an error in closing the connection hid the cancellation
            self._failures += 1
            self._instrumentation(
                StreamBroken(
                    server=self._server,
                    sessions=len(self._subscriptions),
                    error=type(broken).__name__,
                )
            )
            self._disconnected(broken)
            await self._back_off(self._failures)

    def _receive(self, data: str) -> bool:
        """Take in one frame; whether it was the first of a connection."""
        try:
            event = event_from_wire(loads(data))
        except Malformed as error:
            self.malformed += 1
            self._report(error, severity="warning", context={"during": "event stream"})
            return False
        match event:
            case None | ServerHeartbeat():
                return False
            case ServerConnected():
                self._now_connected()
                return True
            case SessionCreated(session_id, subagent) if subagent is not None:
                for subscription in tuple(self._subscriptions.get(subagent.parent_id, ())):
                    self.adopt(subscription, session_id)
        for subscription in self._subscriptions.get(event.session_id, ()):
            if not subscription.put(event):
                lost = StreamOverflowed(server=self._server, session_id=event.session_id)
                self._instrumentation(lost)
        return False

    def _now_connected(self) -> None:
        self._connected = True
        self._instrumentation(
            StreamConnected(server=self._server, reconnected=self._stood, failures=self._failures)
        )
        self._failures, self._stood = 0, True
        if not self._attempt.done():
            self._attempt.set_result(None)
        # To one that joined while connecting this gap is of nothing; it costs one look-up.
        self._tell_all(Gap())

    def _disconnected(self, error: OpencodeError) -> None:
        self._connected = False
        if not self._attempt.done():
            self._attempt.set_exception(error)
        self._attempt = self._new_attempt()
        self._tell_all(Disconnected(error))

    def _tell_all(self, item: Item) -> None:
        for subscription in {s for group in self._subscriptions.values() for s in group}:
            subscription.put(item)

    async def _back_off(self, failures: int) -> None:
        """Wait before the next attempt, jittered so that workers do not all return at once."""
        # Beyond ten the longest is reached, and beyond a thousand no float holds the power.
        longest = min(FIRST_BACKOFF * 2 ** min(failures, 10), LONGEST_BACKOFF)
        self._hurry.clear()
        try:
            async with asyncio.timeout(random.uniform(longest / 2, longest)):  # noqa: S311
                await self._hurry.wait()
        except TimeoutError:
            pass
