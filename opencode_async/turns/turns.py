"""What a host does with turns: start, follow, cancel, run, recover. No access is checked here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Generic

from sqlalchemy import event, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session as SyncSession
from sqlalchemy.orm import SessionTransaction

from opencode_async.brokers.broker import EventBroker, conversation_topic
from opencode_async.database import Sessions, as_key
from opencode_async.database_time import database_time
from opencode_async.errors import MessageNotFound
from opencode_async.models import LIVE, PENDING, TERMINAL, ConversationT, MessageT
from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.protocol.changes import Change
from opencode_async.tables import Tables
from opencode_async.timings import Timings
from opencode_async.turns.following import Batches, Following
from opencode_async.turns.frames import Cursor, change_of
from opencode_async.turns.message import TurnResult
from opencode_async.turns.posting import Post, insert
from opencode_async.turns.runner import Runner
from opencode_async.turns.turn import Turn

Dispatch = Callable[[MessageT], Awaitable[None]]


class Turns(Generic[ConversationT, MessageT]):
    """The turns of one ``Opencode``, as ``agent.turns``."""

    def __init__(
        self,
        sessions: Sessions,
        tables: Tables[ConversationT, MessageT],
        broker: EventBroker,
        tasks: asyncio.TaskGroup,
        *,
        make: Callable[[AsyncSession, MessageT], Awaitable[Turn[ConversationT, MessageT]]],
        dispatch: Dispatch[MessageT] | None,
        timings: Timings,
        report: ErrorReporter,
        name: str,
    ) -> None:
        self.following: Following[ConversationT, MessageT] = Following(
            sessions, tables, broker, timings, name
        )
        self._name = name
        self._sessions = sessions
        self._conversation = tables.conversation
        self._message = tables.message
        self._broker = broker
        self._tasks = tasks
        self._make = make
        self._dispatch = dispatch
        self._timings = timings
        self._report = report
        self._runner = Runner(tasks, self._execute, report)
        self._closed = False

    async def start(
        self,
        conversation_id: Any,
        text: str,
        *,
        db: AsyncSession | None = None,
        values: Mapping[str, Any] | None = None,
        agent: str | None = None,
        model: str | None = None,
        idempotency_key: str | None = None,
    ) -> MessageT:
        """Store what a person says and the assistant's row that is to answer it, and dispatch that.

        ``values`` fills the host's own columns of both rows. With ``db`` the rows are written in
        the caller's transaction and flushed, not committed; the turn is dispatched once that
        commits. A repeated ``idempotency_key`` gives the row of the first call. Raises
        ``ConversationNotFound``, ``ConversationBusy`` and ``IdempotencyMismatch``.
        """
        conversation_id = as_key(self._conversation, conversation_id)
        post = Post(text, agent, model, idempotency_key, values or {})
        kinds = self._conversation, self._message
        if db is not None:
            message, new = await insert(db, *kinds, conversation_id, post)
            if new:
                self._dispatch_after(db, message.id, conversation_id)
            return message
        async with self._sessions() as own:
            message, new = await insert(own, *kinds, conversation_id, post)
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

        async with (
            aclosing(self.following.turn(message_id, cursor)) as batches,
            aclosing(changes(batches)) as following,
        ):
            yield following

    async def cancel(self, message_id: Any) -> MessageT:
        """Ask a turn to stop, once; the row as it is now. A terminal one stays as it is.

        Whoever runs the turn aborts it; how it ends is in the row when it is terminal. Raises
        ``MessageNotFound``.
        """
        kind = self._message
        message_id = as_key(kind, message_id)
        async with self._sessions.begin() as db:
            await db.execute(
                update(kind)
                .where(kind.id == message_id, kind.stop_requested.is_(None))
                .where(kind.status.in_(LIVE))
                .values({"stop_requested": "cancelled"})
                .execution_options(synchronize_session=False)
            )
            # A host's own row that was never given a prompt is nobody's to end.
            await db.execute(
                update(kind)
                .where(kind.id == message_id, kind.status == PENDING)
                .where(kind.prompt_id.is_(None), kind.lease_owner.is_(None))
                .values(
                    {
                        "status": "cancelled",
                        "finish": "cancelled",
                        "finished_at": database_time(),
                    }
                )
                .execution_options(synchronize_session=False)
            )
            row = await db.get(kind, message_id) if message_id is not None else None
        if row is None:
            raise MessageNotFound(message_id)
        self._runner.stop(message_id)
        return row

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
        another worker runs raises ``LeaseHeld``. Raises ``MessageNotFound``. Cancelling it gives
        the turn up, if it was this call that ran it.
        """
        message_id = as_key(self._message, message_id)
        await self._runner.join(message_id)
        return await self._execute(message_id)

    async def recover(self) -> list[Any]:
        """Dispatch every turn that nobody runs although somebody should; their ids.

        That is a pending one whose worker gave it up or died, or whose dispatch got lost; or a
        terminal one whose worker died before it had told the host. However many workers recover at
        once, each turn is dispatched once in a lease time.
        """
        kind, seconds = self._message, self._timings.lease
        expired = kind.lease_expires_at < database_time()
        # A row nobody has claimed yet is probably on its way to its first worker.
        late = (kind.epoch > 0) | (kind.created_at < database_time(-seconds))
        lost = expired | (kind.lease_expires_at.is_(None) & late)
        async with self._sessions.begin() as db:
            found = await db.scalars(
                update(kind)
                .where((kind.status == PENDING) & kind.prompt_id.is_not(None) & lost)
                .values({"lease_owner": None, "lease_expires_at": database_time(seconds)})
                .returning(kind.id)
                .execution_options(synchronize_session=False)
            )
            untold = select(kind.id).where(kind.status.in_(TERMINAL) & expired)
            keys = [*found.all(), *(await db.scalars(untold)).all()]
        for key in keys:
            await self._hand_over(key)
        return keys

    async def watch(self) -> None:
        """Recover turns for ever."""
        while True:
            try:
                await self.recover()
            except Exception as error:
                self._report(error, severity="warning", context={"during": "recovering turns"})
            await asyncio.sleep(self._timings.lease / 2)

    def close(self) -> None:
        """Give up the turns that run here; each releases its lease."""
        self._closed = True
        self._runner.close()

    async def attend(self, key: Any, turn: Turn[ConversationT, MessageT]) -> TurnResult:
        """Await a turn that this process can be asked to stop meanwhile."""
        with self._runner.here(key, turn.stop):
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

    async def _announce(self, key: Any, conversation_id: Any) -> None:
        """If the row is there, and so committed: tell followers and hand it over."""
        if await self.following.place_of(key) is None:
            return
        try:
            topic = conversation_topic(self._name, conversation_id)
            await self._broker.publish(topic, 0, [], stored=0)
        except Exception as error:
            context = {"during": "publishing", "message_id": str(key)}
            self._report(error, severity="warning", context=context)
        await self._hand_over(key)

    async def _hand_over(self, key: Any) -> None:
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

    async def _execute(self, key: Any) -> TurnResult:
        async with self._sessions() as db:
            message = await db.get(self._message, key) if key is not None else None
            if message is None:
                raise MessageNotFound(key)
            if message.status in TERMINAL and message.lease_expires_at is None:
                return TurnResult.of(message)
            return await self.attend(key, await self._make(db, message))
