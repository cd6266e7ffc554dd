"""Who is told of a turn as it grows: its followers, its row, the host's observer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic

from opencode_async.artifacts.policy import ArtifactPolicy
from opencode_async.brokers.broker import EventBroker, conversation_topic
from opencode_async.database import Sessions, key_of
from opencode_async.errors import LeaseLost
from opencode_async.models import MessageT
from opencode_async.observability.error_reporter import ErrorReporter, Severity
from opencode_async.observability.instrumentation import Instrumentation
from opencode_async.observability.tracer import Tracer
from opencode_async.protocol.changes import ReplyChange, RowChange, Snapshot
from opencode_async.protocol.parts import Part, part_from_json
from opencode_async.protocol.reply import Reply
from opencode_async.timings import Timings
from opencode_async.turns.asks import Decide
from opencode_async.turns.beside import Besides
from opencode_async.turns.frames import FramePublisher, wake
from opencode_async.turns.lease import Lease
from opencode_async.turns.message import TurnResult, message_json, reply_columns
from opencode_async.turns.observer import ObserverFeed, ReplyObserver
from opencode_async.turns.snapshots import SnapshotWriter
from opencode_async.turns.spending import MaySpend

ObserverFactory = Callable[[MessageT], ReplyObserver]
OnTurnFinished = Callable[[TurnResult], Awaitable[None]]


@dataclass(frozen=True)
class Wiring(Generic[MessageT]):
    """What a turn is connected to; ``promoted`` is called with the turn that is next in line."""

    broker: EventBroker
    observer_factory: ObserverFactory[MessageT] | None
    on_turn_finished: OnTurnFinished | None
    may_spend: MaySpend[Any] | None
    promoted: Callable[[Any], Awaitable[None]] | None
    report: ErrorReporter
    instrumentation: Instrumentation
    tracer: Tracer
    timings: Timings
    name: str
    besides: Besides
    artifacts: ArtifactPolicy | None
    decide: Decide | None


class Audience(Generic[MessageT]):
    """Tells them all, in this order: what a follower is told is never behind what is stored."""

    def __init__(
        self,
        lease: Lease[MessageT],
        row: MessageT,
        wiring: Wiring[MessageT],
        sessions: Sessions,
    ) -> None:
        self.reply: Reply | None = None
        self._lease = lease
        self._row = row
        self._wiring = wiring
        self._sessions = sessions
        self._name = str(key_of(row))
        self._stored: tuple[Part, ...] = ()  # what an earlier worker has left
        self._publisher = FramePublisher(
            wiring.broker, wiring.name, self._name, row.epoch, wiring.report
        )
        self._writer: SnapshotWriter | None = None
        self._observer: ObserverFeed | None = None
        self._publishing = asyncio.Lock()  # the reply's changes and those of asks, one by one
        self._anew = 0  # how many wait to tell all of it, because no index means anything
        self._disordered = False  # the last of them failed

    async def announce(self) -> None:
        """Have those who follow the conversation look for the turn: it may be a host's own row."""
        topic = conversation_topic(self._wiring.name, self._row.conversation_id)
        await wake(self._wiring.broker, topic, self._wiring.report)

    def observe(self) -> None:
        """Begin to tell the host's observer, if there is one, in the context that is now."""
        if self._wiring.observer_factory is None:
            return
        try:
            observer = self._wiring.observer_factory(self._row)
            self._stored = tuple(part_from_json(part) for part in self._row.parts or ())
        except Exception as error:
            self.failed(error, "error", during="observer_factory")
            return
        self._observer = ObserverFeed(observer, self._part, self._wiring.report)
        self._observer.start()
        self._observer.reset(len(self._stored))

    @asynccontextmanager
    async def attended(self) -> AsyncIterator[None]:
        """Behind the block the host's observer is told what is left, if it is the turn's end."""
        try:
            yield
            if self._observer is not None:
                await self._observer.drained()
        finally:
            if self._observer is not None:
                await self._observer.close()

    @asynccontextmanager
    async def growing(
        self, tasks: asyncio.TaskGroup, on_stop: Callable[[], None]
    ) -> AsyncIterator[None]:
        """While the block lasts, ``reply`` is written to the row now and then."""
        self._writer = SnapshotWriter(
            self._lease,
            self._publisher,
            self._columns,
            interval=self._wiring.timings.snapshot,
            on_stop=on_stop,
            report=self._wiring.report,
        )
        writing = tasks.create_task(self._writer.run())
        try:
            yield
        finally:
            self._writer.end()
            await asyncio.wait([writing])

    def begin(self, reply: Reply) -> None:
        """From now on this is the reply; what it holds already is what the row held."""
        self.reply = reply

    async def publish(
        self,
        changes: Sequence[ReplyChange | RowChange] | None,
        check_lease: Callable[[], Awaitable[None]],
    ) -> None:
        """Tell them; ``None`` when the parts stand in another order now. Raises ``LeaseLost``."""
        if changes is None or self._anew or self._disordered:
            self._anew += 1
            async with self._publishing:
                await check_lease()
                await self._publish_anew()
                self._anew -= 1
        elif changes:
            # Numbered before anything is waited for: the row may be written meanwhile, with what
            # has changed, and its cursor must say so.
            frames = self._publisher.numbered(changes)
            async with self._publishing:
                await check_lease()
                await self._publisher.publish(frames)
            if self._writer is not None:
                self._writer.changed()
            if self._observer is not None:
                self._observer.take(changes)

    @property
    def last_cursor(self) -> dict[str, int]:
        """The cursor of the row's end: of ``finished``, which nothing follows."""
        return {"cursor": self._publisher.seq + 1}

    async def end(self) -> None:
        """Tell followers to look at the row."""
        await self._publisher.end()

    async def finish(self, result: TurnResult) -> None:
        """Tell the host how the turn ended, which is stored; no failure of its own matters."""
        if self._observer is not None:
            self._observer.finish(result)
        if self._wiring.on_turn_finished is not None:
            try:
                await self._wiring.on_turn_finished(result)
            except Exception as error:
                self.failed(error, "error", during="on_turn_finished")

    def failed(self, error: BaseException, severity: Severity, *, during: str) -> None:
        """Report an error that the turn goes on after, to the observer, too."""
        context = {"during": during, "message_id": self._name}
        self._wiring.report(error, severity=severity, context=context)
        if self._observer is not None:
            self._observer.error(error, severity)

    def _columns(self) -> dict[str, Any]:
        columns = {} if self.reply is None else reply_columns(self.reply)
        return {**columns, "cursor": self._publisher.seq}

    async def _publish_anew(self) -> None:
        """Tell all of it, as the row then has it; what fails is tried again at the next change."""
        self._disordered = True
        try:
            if self._writer is not None:
                await self._writer.write()
            async with self._sessions() as db:
                row = await db.get_one(type(self._row), key_of(self._row))
                beside = await self._wiring.besides.of(db, [row.id])
        except LeaseLost:
            raise
        except Exception as error:
            self.failed(error, "warning", during="publishing a snapshot")
            return
        await self._publisher.publish(
            self._publisher.numbered([Snapshot(message_json(row, beside))])
        )
        self._disordered = False
        if self._observer is not None:
            self._observer.reset(len(row.parts or ()))

    def _part(self, index: int) -> Part:
        return self._stored[index] if self.reply is None else self.reply.part(index)
