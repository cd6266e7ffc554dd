"""One turn, from its claim to its last callback."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any, Generic, TypeVar

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from opencode_async.brokers.broker import EventBroker
from opencode_async.brokers.memory import MemoryBroker
from opencode_async.client.hub import Nudge, Subscription
from opencode_async.database import key_of, locked, release, sessions_beside
from opencode_async.errors import (
    LeaseLost,
    OpencodeConnectionError,
    OpencodeError,
    ServerError,
    UsageError,
)
from opencode_async.models import TERMINAL
from opencode_async.observability.error_reporter import ErrorReporter, Severity, log_error
from opencode_async.protocol.changes import (
    Change,
    PartAdded,
    ReplyChange,
    Snapshot,
    TodosChanged,
    UsageChanged,
)
from opencode_async.protocol.exchange import Exchange, Outcome, TurnError
from opencode_async.protocol.messages import Usage
from opencode_async.protocol.parts import part_from_json
from opencode_async.protocol.reply import Reply
from opencode_async.protocol.todos import todos_from_wire, todos_of
from opencode_async.session import Session
from opencode_async.settings import ConversationT, Timings
from opencode_async.turns.answer import STOPPED, Answer, Ending
from opencode_async.turns.frames import FramePublisher
from opencode_async.turns.lease import Lease, MessageT, reply_columns
from opencode_async.turns.message import TurnResult, message_json
from opencode_async.turns.observer import ObserverFeed, ReplyObserver
from opencode_async.turns.prompt import prompt_body, prompt_columns
from opencode_async.turns.snapshots import SnapshotWriter

FINAL = 10.0  # s a final write may still take once the turn's task was cancelled
UNREACHABLE = "The agent's server could not be reached."
REFUSED = "The agent's server refused the request."
INTERNAL = "The turn failed for a reason that is not the agent's."

ObserverFactory = Callable[[MessageT], ReplyObserver]
OnTurnFinished = Callable[[TurnResult], Awaitable[None]]
Returned = TypeVar("Returned")


class Turn(Generic[ConversationT, MessageT]):
    """A turn to await: it runs the turn of an assistant row and gives its ``TurnResult``.

    ``message`` is a stored assistant row, ``pending``; ``text`` is the prompt, for a row that
    ``turns.start`` did not make. ``db`` is the caller's and is committed before the turn waits for
    anything; ``message`` is refreshed at its end. A row that is terminal already gives its result
    at once. How a turn ended is in the result, not an exception; raised are ``TransactionOpen``,
    ``LeaseHeld`` (another worker runs it), ``LeaseLost``, ``MessageNotFound``. Cancelling the
    awaiting task gives the turn up to whoever claims it next.
    """

    def __init__(
        self,
        db: AsyncSession,
        message: MessageT,
        *,
        session: Session[ConversationT],
        text: str | None = None,
        broker: EventBroker | None = None,
        observer_factory: ObserverFactory[MessageT] | None = None,
        on_turn_finished: OnTurnFinished | None = None,
        error_reporter: ErrorReporter = log_error,
        timings: Timings | None = None,
    ) -> None:
        self._db = db
        self._message = message
        self._key = key_of(message)
        self._kind: type[MessageT] = type(message)
        self._session = session
        self._text = text
        self._broker = broker or MemoryBroker()
        self._observer_factory = observer_factory
        self._on_turn_finished = on_turn_finished
        self._report_to = error_reporter
        self._timings = timings or Timings()
        self._sessions = sessions_beside(db, self._kind)
        self._subscription: Subscription | None = None
        self._stopping = False
        self._observer: ObserverFeed | None = None

    def __await__(self) -> Generator[Any, None, TurnResult]:
        return self._run().__await__()

    def stop(self) -> None:
        """Abort, as the row's ``stop_requested`` says; from the event loop, any number of times."""
        if not self._stopping:
            self._stopping = True
            if self._subscription is not None:
                self._subscription.put(Nudge())

    async def _run(self) -> TurnResult:
        await release(self._db)
        lease, row = await Lease.claim(self._sessions, self._kind, self._key, self._timings.lease)
        if row.status not in TERMINAL:
            try:
                row = await self._leased(lease, row)
            except BaseException:
                await _despite_cancellation(lease.release())
                raise
        await self._db.refresh(self._message)
        return TurnResult.of(row)

    async def _leased(self, lease: Lease[MessageT], row: MessageT) -> MessageT:
        """Run the turn while holding its lease; the terminal row."""
        self._stopping = row.stop_requested is not None
        publisher = FramePublisher(self._broker, str(self._key), row.epoch, self._report_to)
        try:
            async with asyncio.TaskGroup() as tasks:
                keeper = tasks.create_task(self._keep(lease))
                try:
                    row = await self._answered(lease, row, publisher, tasks)
                finally:
                    await publisher.end()
                keeper.cancel()
                await self._tell_host(TurnResult.of(row))
        except* Exception as failed:
            raise failed.exceptions[0] from None  # the others are its consequences
        return row

    async def _tell_host(self, result: TurnResult) -> None:
        if self._observer is not None:
            await self._observer.finish(result)
        if self._on_turn_finished is not None:
            try:
                await self._on_turn_finished(result)
            except Exception as error:
                self._report(error, "error", during="on_turn_finished")

    async def _answered(
        self,
        lease: Lease[MessageT],
        row: MessageT,
        publisher: FramePublisher,
        tasks: asyncio.TaskGroup,
    ) -> MessageT:
        """Get the answer, whatever happens; store it and how it ended."""
        row = await self._adopt(lease, row)
        stored = tuple(part_from_json(part) for part in row.parts or ())
        reply = Reply("", row.prompt_id or "", stored)
        reply.todos = todos_from_wire(row.todos)
        writer = SnapshotWriter(
            lease,
            publisher,
            lambda: reply_columns(reply.result(), reply.todos, reply.usage, publisher.seq),
            interval=self._timings.snapshot,
            on_stop=self.stop,
            report=self._report_to,
        )
        writing = tasks.create_task(writer.run())
        if self._observer_factory is not None:
            observer = self._observer_factory(row)
            self._observer = ObserverFeed(observer, reply.part, self._report_to)
            # A new observer after a takeover first hears of what is there.
            self._observer.take(PartAdded(i, part) for i, part in enumerate(stored))
            self._observer.start(tasks)

        async def publish(changes: Sequence[ReplyChange] | None) -> None:
            if changes is None:
                await self._resync(writer, publisher)
            elif changes:
                await self._tell(publisher, changes)
                writer.changed()

        try:
            ending = await self._ending(lease, row, reply, publish)
        finally:
            writing.cancel()
        usage = reply.usage
        if ending.exchange is not None:
            usage = await self._final(ending.exchange, reply, publisher, publish)
        columns = reply_columns(reply.result(), reply.todos, usage, publisher.seq + 1)
        return await _despite_cancellation(lease.finalize(ending.outcome, columns))

    async def _ending(
        self,
        lease: Lease[MessageT],
        row: MessageT,
        reply: Reply,
        publish: Callable[[Sequence[ReplyChange] | None], Awaitable[None]],
    ) -> Ending:
        """How the turn ended; every failure but a lost lease is an ending, too."""
        try:
            if self._stopping and row.epoch == 1:
                return Ending(STOPPED, None)
            reply.session_id = await self._session.ensure()
            body = await self._body(lease, row)
            client = self._session.client
            async with client.hub.subscribe(reply.session_id) as events:
                self._subscription = events
                if self._stopping:
                    events.put(Nudge())
                answer = Answer(
                    client,
                    events,
                    reply,
                    body,
                    publish=publish,
                    report=self._report_to,
                    timings=self._timings,
                )
                posted = row.epoch > 1 and await self._was_posted(reply)
                if not posted:
                    await answer.post()
                return await answer.listen(resumed=posted)
        except LeaseLost:
            raise
        except OpencodeError as error:
            self._report(error, "error", during="turn")
            return Ending(Outcome("error", None, failure(error)), None)
        except Exception as error:
            self._report(error, "error", during="turn")
            return Ending(Outcome("error", None, TurnError("internal", INTERNAL)), None)

    async def _was_posted(self, reply: Reply) -> bool:
        """Whether the prompt of an earlier claimant arrived."""
        message = await self._session.client.message(reply.session_id, reply.prompt_id)
        return message is not None and message.has_parts

    async def _body(self, lease: Lease[MessageT], row: MessageT) -> dict[str, Any]:
        """The request's body, stored before it is sent, so that it can be sent again as it was."""
        request = row.request or {}
        if "body" not in request:
            body = prompt_body(row, await self._session.settings())
            request = {"body": body}
            await lease.store({"request": request})
        stored: dict[str, Any] = request["body"]
        return stored

    async def _adopt(self, lease: Lease[MessageT], row: MessageT) -> MessageT:
        """Give a row that the host made itself a prompt and a place in its conversation."""
        if row.prompt_id is not None:
            return row
        if self._text is None:
            raise UsageError("this row has no prompt: give Turn a text, or use turns.start()")
        conversations = type(self._session.conversation)
        async with self._sessions.begin() as db:
            await locked(db, conversations, self._session.conversation_id)
            current = await db.get_one(self._kind, self._key)
            for name, value in prompt_columns(self._text).items():
                setattr(current, name, value)
            if current.position is None:
                current.position = await next_position(db, self._kind, current.conversation_id)
        return current

    async def _final(
        self,
        exchange: Exchange,
        reply: Reply,
        publisher: FramePublisher,
        publish: Callable[[Sequence[ReplyChange] | None], Awaitable[None]],
    ) -> Usage:
        """Become what REST says at the end, and tell followers the difference."""
        parts = exchange.final_parts
        changes = reply.reconcile(parts, final=True)
        await publish(changes)
        extra: list[ReplyChange] = []
        todos = todos_of(parts)
        if todos is not None and todos != reply.todos:
            reply.todos = todos
            extra.append(TodosChanged(todos))
        if exchange.usage != reply.usage:
            extra.append(UsageChanged(exchange.usage))
        await self._tell(publisher, extra)
        return exchange.usage

    async def _tell(self, publisher: FramePublisher, changes: Sequence[Change]) -> None:
        await publisher.publish(changes)
        if self._observer is not None:
            self._observer.take(changes)

    async def _resync(self, writer: SnapshotWriter, publisher: FramePublisher) -> None:
        """Tell followers everything anew: the parts they know stand in another order."""
        await writer.write()
        async with self._sessions() as db:
            row = await db.get_one(self._kind, self._key)
        await publisher.publish([Snapshot(message_json(row))])

    async def _keep(self, lease: Lease[MessageT]) -> None:
        """Renew the lease in good time; raises ``LeaseLost``."""
        while True:
            await asyncio.sleep(self._timings.lease / 3)
            try:
                if await lease.renew() is not None:
                    self.stop()
            except (SQLAlchemyError, OSError) as error:
                self._report(error, "warning", during="renewing the lease")

    def _report(self, error: BaseException, severity: Severity, *, during: str) -> None:
        context = {"during": during, "message_id": str(self._key)}
        self._report_to(error, severity=severity, context=context)
        if self._observer is not None:
            self._observer.error(error, severity)


def failure(error: OpencodeError) -> TurnError:
    """What may be shown of an error: its code and a fixed sentence, never a URL or a body."""
    if isinstance(error, OpencodeConnectionError):
        return TurnError(error.code, UNREACHABLE)
    if isinstance(error, ServerError):
        return TurnError(error.code, REFUSED)
    return TurnError("internal", INTERNAL)


async def next_position(db: AsyncSession, kind: type[MessageT], conversation_id: object) -> int:
    """The next free position; the conversation's row must be locked."""
    last = await db.scalar(
        select(func.max(kind.position)).where(kind.conversation_id == conversation_id)
    )
    return (last or 0) + 1


async def _despite_cancellation(write: Coroutine[Any, Any, Returned]) -> Returned:
    """Await a final write; a cancellation meanwhile waits for it, within a deadline."""
    task = asyncio.ensure_future(write)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=FINAL)
        raise
