"""The story of a turn, from its claim to its last callback.

Ensure the session, subscribe, post the prompt, listen, read how it ended from REST, finalize the
row, tell the host. Whatever fails on the way is an ending of the turn, too; only a lost lease is
not, for then the turn is another worker's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from opencode_async.brokers.broker import EventBroker
from opencode_async.client.answer import STOPPED, Answer, Ending, become, stop_session
from opencode_async.client.hub import Nudge, Subscription
from opencode_async.database import Sessions, key_of
from opencode_async.errors import (
    LeaseLost,
    OpencodeConnectionError,
    OpencodeError,
    ServerError,
)
from opencode_async.models import ConversationT, MessageT
from opencode_async.observability.error_reporter import ErrorReporter, Severity
from opencode_async.protocol.changes import (
    PartAdded,
    ReplyChange,
    Snapshot,
)
from opencode_async.protocol.exchange import Outcome, TurnError
from opencode_async.protocol.parts import Part, part_from_json
from opencode_async.protocol.reply import Reply, reply_json
from opencode_async.protocol.todos import todos_from_wire
from opencode_async.session import Session
from opencode_async.timings import Timings
from opencode_async.turns.frames import FramePublisher
from opencode_async.turns.lease import Lease, despite_cancellation
from opencode_async.turns.message import TurnResult, message_json
from opencode_async.turns.observer import ObserverFeed, ReplyObserver
from opencode_async.turns.prompt import body_of
from opencode_async.turns.snapshots import SnapshotWriter, happens

UNREACHABLE = "The agent's server could not be reached."
RETRY = 0.3  # s between two attempts to reach a server
REFUSED = "The agent's server refused the request."
INTERNAL = "The turn failed for a reason that is not the agent's."

ObserverFactory = Callable[[MessageT], ReplyObserver]
OnTurnFinished = Callable[[TurnResult], Awaitable[None]]


@dataclass(frozen=True)
class Wiring(Generic[MessageT]):
    """What a turn is connected to."""

    broker: EventBroker
    observer_factory: ObserverFactory[MessageT] | None
    on_turn_finished: OnTurnFinished | None
    report: ErrorReporter
    timings: Timings
    name: str


class ClaimedTurn(Generic[ConversationT, MessageT]):
    """A turn in the hands of the worker that claimed it."""

    def __init__(
        self,
        session: Session[ConversationT],
        lease: Lease[MessageT],
        row: MessageT,
        wiring: Wiring[MessageT],
        sessions: Sessions,
    ) -> None:
        self._session = session
        self._lease = lease
        self._row = row
        self._wiring = wiring
        self._sessions = sessions
        self._name = str(key_of(row))
        self._publisher = FramePublisher(
            wiring.broker, wiring.name, self._name, row.epoch, wiring.report
        )
        self._reply: Reply | None = None
        self._writer: SnapshotWriter | None = None
        self._observer: ObserverFeed | None = None
        self._subscription: Subscription | None = None
        self._stopping = row.stop_requested is not None
        self._over = asyncio.Event()
        self._disordered = False

    def stop(self) -> None:
        """The row's ``stop_requested`` is set: abort."""
        if not self._stopping:
            self._stopping = True
            if self._subscription is not None:
                self._subscription.put(Nudge())

    async def run(self) -> MessageT:
        """Run the turn to its terminal row. Raises ``LeaseLost`` and what the database raises."""
        try:
            async with asyncio.TaskGroup() as tasks:
                keeping = tasks.create_task(self._keep_lease())
                self._observe(tasks)
                try:
                    ending = await self._ending(tasks)
                    self._over.set()
                    await asyncio.wait([keeping])  # a renewal would find the row terminal
                    row = await self._finalized(ending)
                finally:
                    await self._publisher.end()
                await self.tell_host(TurnResult.of(row))
        except* Exception as failed:
            raise failed.exceptions[0] from None  # the others are its consequences
        return row

    async def _ending(self, tasks: asyncio.TaskGroup) -> Ending:
        """How the turn ended; every failure but a lost lease is an ending."""
        try:
            ending = await self._answered(tasks)
        except LeaseLost:
            raise
        except Exception as error:
            self._failed(error, "error", during="turn")
            ending = Ending(Outcome("error", None, shown(error)), None, settled=False)
        if not ending.settled:
            await self._abandon()
        return ending

    async def _abandon(self) -> None:
        """Stop an agent that may still be at work: it would merge the next prompt into this one."""
        if self._reply is None:
            return
        try:
            async with asyncio.timeout(self._wiring.timings.stop):
                reply = self._reply
                await stop_session(self._session.client, reply.session_id, begun=reply.begun)
        except (OpencodeError, TimeoutError) as error:
            self._failed(error, "warning", during="abandoning a turn")

    async def _answered(self, tasks: asyncio.TaskGroup) -> Ending:
        """Get the answer."""
        first_claim = self._row.epoch == 1
        if self._stopping and first_claim:
            return Ending(STOPPED, None)
        client = self._session.client
        if not first_claim:
            await self._server_is_back()
        session_id = await self._session.ensure()
        body = await self._body()
        reply = self._reply = self._reply_so_far(session_id)
        writer = self._writer = SnapshotWriter(
            self._lease,
            self._publisher,
            lambda: {
                **reply_json(reply.result(), reply.todos, reply.usage),
                "cursor": self._publisher.seq,
            },
            interval=self._wiring.timings.snapshot,
            on_stop=self.stop,
            report=self._wiring.report,
        )
        writing = tasks.create_task(writer.run())
        try:
            async with client.hub.subscribe(session_id) as events:
                self._subscription = events
                if self._stopping:
                    events.put(Nudge())
                answer = Answer(
                    client,
                    events,
                    reply,
                    body,
                    publish=self._publish,
                    report=self._wiring.report,
                    timings=self._wiring.timings,
                )
                posted = not first_claim and await self._was_posted(reply)
                if not posted and self._stopping:
                    return Ending(STOPPED, None)
                if not posted:
                    await answer.post()
                return await answer.listen(resumed=posted)
        finally:
            self._subscription = None
            writer.end()
            await asyncio.wait([writing])

    async def _server_is_back(self) -> None:
        """Wait for a server that is being restarted as its app is: it has the turn all the same."""
        now = asyncio.get_running_loop().time
        deadline = now() + self._wiring.timings.reconnect
        while not self._stopping:
            try:
                await self._session.client.version()
                return
            except OpencodeConnectionError:
                if now() > deadline:
                    raise
            await asyncio.sleep(RETRY)

    async def _body(self) -> dict[str, Any]:
        """The request's body, stored before it is sent, so that it can be sent again as it was."""
        request = self._row.request or {}
        if "body" not in request:
            request = {"body": body_of(self._row, await self._session.settings())}
            if await self._lease.store({"request": request}) is not None:
                self.stop()
        body: dict[str, Any] = request["body"]
        return body

    def _reply_so_far(self, session_id: str) -> Reply:
        """The reply as an earlier worker left it, or an empty one."""
        parts = tuple(part_from_json(part) for part in self._row.parts or ())
        reply = Reply(session_id, self._row.prompt_id or "", parts)
        reply.todos = todos_from_wire(self._row.todos)
        if self._observer is not None:
            self._observer.take(PartAdded(i, part) for i, part in enumerate(parts))
        return reply

    async def _was_posted(self, reply: Reply) -> bool:
        """Whether the prompt of an earlier claimant arrived."""
        message = await self._session.client.message(reply.session_id, reply.prompt_id)
        return message is not None and message.has_parts

    async def _publish(self, changes: Sequence[ReplyChange] | None) -> None:
        """Tell followers and observers; ``None`` when the parts stand in another order now."""
        if changes is None or self._disordered:
            self._disordered = True  # until they know the order, no index means anything to them
            try:
                await self._publish_anew()
                self._disordered = False
            except (SQLAlchemyError, OSError) as error:
                self._failed(error, "warning", during="publishing a snapshot")
        elif changes:
            await self._publisher.publish(changes)
            if self._writer is not None:
                self._writer.changed()
            if self._observer is not None:
                self._observer.take(changes)

    async def _publish_anew(self) -> None:
        if self._writer is not None:
            await self._writer.write()
        async with self._sessions() as db:
            row = await db.get_one(type(self._row), key_of(self._row))
        await self._publisher.publish([Snapshot(message_json(row))])
        if self._observer is not None:
            self._observer.reset(len(row.parts or ()))

    async def _finalized(self, ending: Ending) -> MessageT:
        """Store how the turn ended, with what REST says it answered."""
        columns: dict[str, Any] = {}
        if self._reply is not None:
            usage = self._reply.usage
            if ending.exchange is not None:
                await become(self._reply, ending.exchange, self._publish)
                usage = ending.exchange.usage
            columns = reply_json(self._reply.result(), self._reply.todos, usage)
        cursor = {"cursor": self._publisher.seq + 1}
        try:
            return await self._finalize(ending.outcome, columns | cursor)
        except (LeaseLost, OperationalError, InterfaceError, OSError):
            raise
        except Exception as error:  # the host's own constraint or validator, say: it would not pass
            self._failed(error, "error", during="storing the reply")
            outcome = Outcome("error", None, TurnError("internal", INTERNAL))
            return await self._finalize(outcome, cursor)

    async def _finalize(self, outcome: Outcome, columns: dict[str, Any]) -> MessageT:
        return await despite_cancellation(
            self._lease.finalize(outcome, columns), self._wiring.report
        )

    async def _keep_lease(self) -> None:
        """Renew the lease in good time; raises ``LeaseLost``."""
        while not await happens(self._over, within=self._wiring.timings.lease / 3):
            try:
                if await self._lease.renew() is not None:
                    self.stop()
            except (SQLAlchemyError, OSError) as error:
                self._failed(error, "warning", during="renewing the lease")

    def _observe(self, tasks: asyncio.TaskGroup) -> None:
        if self._wiring.observer_factory is None:
            return
        try:
            observer = self._wiring.observer_factory(self._row)
        except Exception as error:
            self._failed(error, "error", during="observer_factory")
            return
        self._observer = ObserverFeed(observer, self._part, self._wiring.report)
        self._observer.start(tasks)

    def _part(self, index: int) -> Part:
        if self._reply is None:
            raise IndexError(index)
        return self._reply.part(index)

    async def tell_host(self, result: TurnResult) -> None:
        """Tell of a turn that is stored as terminal; then nobody need be told any more."""
        if self._observer is not None:
            await self._observer.finish(result)
        if self._wiring.on_turn_finished is not None:
            try:
                await self._wiring.on_turn_finished(result)
            except Exception as error:
                self._failed(error, "error", during="on_turn_finished")

    def _failed(self, error: BaseException, severity: Severity, *, during: str) -> None:
        context = {"during": during, "message_id": self._name}
        self._wiring.report(error, severity=severity, context=context)
        if self._observer is not None:
            self._observer.error(error, severity)


def shown(error: Exception) -> TurnError:
    """What may be shown of an error: its code and a fixed sentence, never a URL or a body."""
    if isinstance(error, OpencodeConnectionError):
        return TurnError(error.code, UNREACHABLE)
    if isinstance(error, ServerError):
        return TurnError(error.code, REFUSED)
    return TurnError("internal", INTERNAL)
