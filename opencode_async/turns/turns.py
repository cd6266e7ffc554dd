"""What a host does with turns: start, follow, cancel, run, recover. No access is checked here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Generic

from sqlalchemy import event, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session as SyncSession
from sqlalchemy.orm import SessionTransaction

from opencode_async.brokers.broker import EventBroker, conversation_topic, turn_topic
from opencode_async.database import Sessions, as_key, engine_of, locked
from opencode_async.errors import MessageNotFound, UsageError
from opencode_async.models import PENDING, QUEUED, TERMINAL, ConversationT, MessageT
from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.observability.events import TurnPosted, TurnPromoted, TurnRecovered
from opencode_async.observability.instrumentation import Instrumentation
from opencode_async.observability.tracer import Tracer
from opencode_async.protocol.changes import Change
from opencode_async.protocol.limits import CANCELLED
from opencode_async.tables import Tables
from opencode_async.timings import Timings
from opencode_async.turns.asks import Reply, answer
from opencode_async.turns.beside import Besides
from opencode_async.turns.following import Batches, Following
from opencode_async.turns.following_conversation import ConversationFollowing
from opencode_async.turns.frames import Cursor, change_of, wake
from opencode_async.turns.lease import mark_lost
from opencode_async.turns.message import TurnResult
from opencode_async.turns.posting import OnBusy, Post, insert
from opencode_async.turns.queue import (
    end_unstarted,
    promote,
    promote_stranded,
    stranded,
)
from opencode_async.turns.runner import Runner
from opencode_async.turns.turn import Turn

Dispatch = Callable[[MessageT], Awaitable[None]]


class Turns(Generic[ConversationT, MessageT]):
    """The turns of one ``Opencode``, as ``agent.turns``."""

    def __init__(
        self,
        sessions: Sessions,
        tables: Tables[ConversationT, MessageT],
        besides: Besides,
        broker: EventBroker,
        tasks: asyncio.TaskGroup,
        *,
        make: Callable[[AsyncSession, MessageT], Awaitable[Turn[ConversationT, MessageT]]],
        dispatch: Dispatch[MessageT] | None,
        timings: Timings,
        report: ErrorReporter,
        instrumentation: Instrumentation,
        tracer: Tracer,
        name: str,
    ) -> None:
        self.following: Following[ConversationT, MessageT] = Following(
            sessions, tables, besides, broker, timings, instrumentation, name
        )
        self.conversations: ConversationFollowing[ConversationT, MessageT] = ConversationFollowing(
            self.following, sessions, tables, besides, broker, timings, instrumentation, name
        )
        self._name = name
        self._sessions = sessions
        self._conversation = tables.conversation
        self._message = tables.message
        self._ask = tables.ask
        self._broker = broker
        self._tasks = tasks
        self._make = make
        self._dispatch = dispatch
        self._timings = timings
        self._report = report
        self._instrumentation = instrumentation
        self._tracer = tracer
        self._runner = Runner(tasks, self._execute, report)
        self._closed = False
        # Built once: they are asked ten times in a lease.
        self._mark_lost = mark_lost(tables.message, timings.lease)
        self._stranded = stranded(tables.message)

    async def start(
        self,
        conversation_id: Any,
        text: str,
        *,
        db: AsyncSession | None = None,
        values: Mapping[str, Any] | None = None,
        agent: str | None = None,
        model: str | None = None,
        on_busy: OnBusy = "reject",
        idempotency_key: str | None = None,
    ) -> MessageT:
        """Store what a person says and the assistant's row that is to answer it, and dispatch that.

        While another turn of the conversation is live: ``reject`` raises ``ConversationBusy``,
        ``enqueue`` lets this one wait its turn (``queued``; it is dispatched when the one before it
        has ended), ``interrupt`` has the live one stopped and puts this one at the queue's head.
        ``values`` fills the host's own columns of both rows. With ``db`` the rows are written in
        the caller's transaction and flushed, not committed; the turn is dispatched once that
        commits. A repeated ``idempotency_key`` gives the row of the first call. Raises
        ``ConversationNotFound``, ``QueueFull`` and ``IdempotencyMismatch``, too, and
        ``SharedConnection`` for a ``db`` whose commit is not the end of its transaction.
        """
        conversation_id = as_key(self._conversation, conversation_id)
        post = Post(text, agent, model, on_busy, idempotency_key, values or {})
        if db is not None:
            message, _ = await self.insert(db, conversation_id, post)
            return message
        async with self._sessions() as own:
            message, new = await self._insert(own, conversation_id, post)
            await own.commit()
            await own.refresh(message)
        if new:
            await self._announce(message.id, conversation_id)
        return message

    @asynccontextmanager
    async def follow(
        self, message_id: Any, *, after: str | None = None
    ) -> AsyncIterator[AsyncIterator[Change]]:
        """Follow a turn, from a cursor if given; iterating ends behind ``Finished``.

        Raises ``MessageNotFound``.
        """
        message_id = as_key(self._message, message_id)
        cursor = Cursor.parse(after) if after else None
        if await self.following.place_of(message_id) is None:
            raise MessageNotFound(message_id)

        async def changes(batches: Batches) -> AsyncGenerator[Change, None]:
            async for frames in batches:
                for frame in frames:
                    yield change_of(frame)

        with self.following.follower(message_id):
            async with (
                aclosing(self.following.frames(message_id, cursor)) as batches,
                aclosing(changes(batches)) as following,
            ):
                yield following

    async def cancel(self, message_id: Any) -> MessageT:
        """Ask a turn to stop, once; the row as it is now. A terminal one stays as it is.

        Whoever runs the turn aborts it; how it ends is in the row when it is terminal. A queued one
        has ended with this call. Raises ``MessageNotFound``.
        """
        kind = self._message
        message_id = as_key(kind, message_id)
        async with self._sessions() as db:
            conversation_id = await db.scalar(
                select(kind.conversation_id).where(kind.id == message_id)
            )
        async with self._sessions.begin() as db:
            # Whoever promotes it meanwhile holds this lock.
            await locked(db, self._conversation, conversation_id)
            ended = await end_unstarted(db, kind, kind.id == message_id)
            following = await promote(db, kind, conversation_id, self._timings.lease / 10)
            await db.execute(
                update(kind)
                .where(kind.id == message_id, kind.status == PENDING)
                .where(kind.stop_requested.is_(None))
                .values({"stop_requested": CANCELLED})
                .execution_options(synchronize_session=False)
            )
            row = await db.get(kind, message_id) if message_id is not None else None
        if row is None:
            raise MessageNotFound(message_id)
        self._runner.stop(message_id)
        if following is not None:
            await self.promoted(following, message_id)
        if ended:
            await wake(self._broker, turn_topic(self._name, message_id), self._report)
            await self._announce(message_id, conversation_id, new=False)  # its host is to be told
        return row

    async def answer(
        self, message_id: Any, ask_id: Any, reply: Reply, *, by: str | None = None
    ) -> None:
        """Answer a permission or a question of a turn, once, from whichever process.

        The answer is stored with this call; the worker that runs the turn passes it on, at once if
        that is this one, else within ``Timings.poll``. ``by`` says who answered, for the record.
        Raises ``AskNotFound``, ``InvalidReply``, ``AlreadyAnswered`` and ``AskGone``, and
        ``UsageError`` where ``Tables`` has no ``ask``.
        """
        if self._ask is None:
            raise UsageError("there are no asks to answer: give Tables an ask class")
        message_id = as_key(self._message, message_id)
        ask_id = as_key(self._ask, ask_id)
        await answer(self._sessions, self._ask, message_id, ask_id, reply, by)
        self._runner.heed_answers(message_id)

    async def stop(self, message_id: Any, *, within: float) -> None:
        """Cancel a turn; if it runs here, wait until it has ended, ``within`` seconds at most."""
        await self.cancel(message_id)
        try:
            async with asyncio.timeout(within):
                await self._runner.join(message_id)
        except TimeoutError as error:
            context = {"during": "stopping a turn", "message_id": str(message_id)}
            self._report(error, severity="warning", context=context)

    async def run(self, message_id: Any) -> TurnResult:
        """Run a turn to its end here, or wait for the one that runs here already: for job queues.

        Safe under any at-least-once delivery: a terminal turn gives its stored result, one that
        another worker runs raises ``LeaseHeld``, one that waits for another ``TurnQueued``. Raises
        ``MessageNotFound``. Cancelling it gives the turn up, if it was this call that ran it.
        """
        message_id = as_key(self._message, message_id)
        await self._runner.join(message_id)
        return await self._execute(message_id)

    async def recover(self) -> list[Any]:
        """Dispatch every turn that nobody runs although somebody should; their ids.

        That is a pending one whose worker gave it up or died, or whose dispatch got lost; a
        terminal one whose worker died before it had told the host; a queued one whose time has
        come, and nobody saw it. However many workers recover at once, each turn is dispatched once
        in a lease time.
        """
        async with self._sessions.begin() as db:
            lost = list((await db.scalars(self._mark_lost)).all())
        for key in lost:
            self._instrumentation(TurnRecovered(message_id=str(key)))
            await self.dispatch(key)
        promoted = await promote_stranded(
            self._sessions,
            self._conversation,
            self._message,
            self._timings.lease,
            self._stranded,
        )
        for key in promoted:
            await self.promoted(key, None)
        return lost + promoted

    async def promoted(self, key: Any, after: Any) -> None:
        """A queued turn is the live one now, ``after`` that one's end: dispatch it."""
        ended = None if after is None else str(after)
        self._instrumentation(TurnPromoted(message_id=str(key), after=ended))
        await self.dispatch(key)

    async def dispatch(self, key: Any) -> None:
        """Give the turn to whoever executes; what fails here, ``recover`` finds."""
        if self._dispatch is None:
            self._runner.start(key)
            return
        try:
            async with self._sessions() as db:
                message = await db.get(self._message, key)
            if message is not None:
                await self._dispatch(message)
        except Exception as error:
            context = {"during": "dispatching", "message_id": str(key)}
            self._report(error, severity="error", context=context)

    async def watch(self) -> None:
        """Recover turns for ever, so often that one given up at a shutdown goes on soon."""
        while True:
            try:
                await self.recover()
            except Exception as error:
                self._report(error, severity="warning", context={"during": "recovering turns"})
            await asyncio.sleep(self._timings.lease / 10)

    async def heed_stops(self) -> None:
        """Look for ever whether a turn that runs here was told to stop by another process."""
        while True:
            await asyncio.sleep(self._timings.poll)
            try:
                await self._heed_stops()
            except Exception as error:
                self._report(error, severity="warning", context={"during": "looking for stops"})

    async def tell_followers(self, conversation_id: Any) -> None:
        """Have those who follow a conversation look at its rows."""
        topic = conversation_topic(self._name, conversation_id)
        await wake(self._broker, topic, self._report)

    def close(self) -> None:
        """Give up the turns that run here; each releases its lease."""
        self._closed = True
        self._runner.close()

    async def attend(self, key: Any, turn: Turn[ConversationT, MessageT]) -> TurnResult:
        """Await a turn that this process can be asked to stop meanwhile."""
        with self._runner.here(key, turn):
            return await turn

    def _dispatch_after(self, db: AsyncSession, key: Any, conversation_id: Any) -> None:
        """Dispatch once the outermost transaction of ``db`` has ended; not if it rolled back."""
        sync = db.sync_session
        loop = asyncio.get_running_loop()

        def ended(session: SyncSession, transaction: SessionTransaction) -> None:
            if transaction.parent is None:
                # Not at once: SQLAlchemy is iterating over its listeners.
                loop.call_soon(event.remove, sync, "after_transaction_end", ended)
                if not self._closed:  # else another worker will recover it
                    self._tasks.create_task(self._announce(key, conversation_id))

        event.listen(sync, "after_transaction_end", ended)

    async def insert(
        self, db: AsyncSession, conversation_id: Any, post: Post
    ) -> tuple[MessageT, bool]:
        """Store a post in the caller's transaction; the assistant's row, and whether it is new.

        A new one is dispatched once that commits.
        """
        engine_of(db, self._message)
        message, new = await self._insert(db, conversation_id, post)
        if new:
            self._dispatch_after(db, message.id, conversation_id)
        return message, new

    async def _insert(
        self, db: AsyncSession, conversation_id: Any, post: Post
    ) -> tuple[MessageT, bool]:
        """Store a post with the trace of its caller."""
        kinds = self._conversation, self._message
        traced = replace(post, trace=self._tracer.inject())
        return await insert(db, *kinds, conversation_id, traced)

    async def _announce(self, key: Any, conversation_id: Any, *, new: bool = True) -> None:
        """If the row is there, and so committed: tell followers and hand it over."""
        try:
            place = await self.following.place_of(key)
            if place is None:
                return
            if new:
                ids = {"message_id": str(key), "conversation_id": str(conversation_id)}
                self._instrumentation(TurnPosted(**ids, status=place.status))
            await self.tell_followers(conversation_id)
            if place.status != QUEUED:
                await self.dispatch(key)
            await self._heed_stops()  # the turn it interrupts may run here
        except Exception as error:  # it is stored: recovery finds it
            context = {"during": "dispatching", "message_id": str(key)}
            self._report(error, severity="error", context=context)

    async def _heed_stops(self) -> None:
        """Stop those turns that run here and whose rows say so."""
        kind, running = self._message, self._runner.keys
        if not running:
            return
        async with self._sessions() as db:
            to_stop = await db.scalars(
                select(kind.id).where(kind.id.in_(running), kind.stop_requested.is_not(None))
            )
            keys = to_stop.all()
        for key in keys:
            self._runner.stop(key)

    async def _execute(self, key: Any) -> TurnResult:
        async with self._sessions() as db:
            message = await db.get(self._message, key) if key is not None else None
            if message is None:
                raise MessageNotFound(key)
            if message.status in TERMINAL and message.lease_expires_at is None:
                return TurnResult.of(message)
            return await self.attend(key, await self._make(db, message))
