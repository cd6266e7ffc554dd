"""The story of a turn, from its claim to its last callback.

Ensure the session, subscribe, post the prompt, listen, read how it ended from REST, finalize the
row, tell the host. Whatever fails on the way is an ending of the turn, too; only a lost lease is
not, for then the turn is another worker's.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Generic, TypeVar

from opencode_async.client.answer import STOPPED, Answer, Ending, become
from opencode_async.client.hub import Nudge, Subscription
from opencode_async.client.stopping import stop_session
from opencode_async.database import Sessions, despite_cancellation, is_away
from opencode_async.errors import (
    ConversationNotFound,
    LeaseLost,
    OpencodeConnectionError,
    OpencodeError,
    SandboxUnreachable,
    ServerError,
    SessionMoved,
    SessionNotFoundError,
    StaleSessionError,
)
from opencode_async.models import TERMINAL, ConversationT, MessageT
from opencode_async.protocol.asks import Ask
from opencode_async.protocol.changes import ReplyChange, RowChange, UsageChanged
from opencode_async.protocol.events import AskAnswered
from opencode_async.protocol.exchange import Outcome, TurnError
from opencode_async.protocol.limits import BUDGET, Watchdog
from opencode_async.protocol.parts import interrupted, part_from_json
from opencode_async.protocol.reply import Reply
from opencode_async.protocol.todos import todos_from_wire
from opencode_async.protocol.tool_artifacts import tool_artifacts
from opencode_async.session import Session
from opencode_async.turns.ask_rows import AskRows
from opencode_async.turns.asking import Asking
from opencode_async.turns.attaching import Attaching
from opencode_async.turns.audience import Audience, Wiring
from opencode_async.turns.deciding import Deciding, Refusing
from opencode_async.turns.lease import Lease
from opencode_async.turns.message import TurnResult, ledger_of, reply_columns
from opencode_async.turns.request import TurnRequest
from opencode_async.turns.snapshots import happens
from opencode_async.turns.spending import Spending, left_of
from opencode_async.turns.telemetry import TurnTelemetry

UNREACHABLE = "The agent's server could not be reached."
RETRY = 0.3  # s between two attempts to reach a server
REFUSED = "The agent's server refused the request."
UNSEEN = "The agent's disk could not be reached."
INTERNAL = "The turn failed for a reason that is not the agent's."
Answered = TypeVar("Answered")


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
        self._audience = Audience(lease, row, wiring, sessions)
        self._spending = Spending(
            wiring.may_spend,
            session,
            refused=self._refused,
            failed=partial(self._audience.failed, severity="error", during="may_spend"),
        )
        self._request = TurnRequest(
            row,
            lease,
            session,
            wiring.artifacts,
            heed_stop=self.heed_stop,
            check_lease=self._check_lease,
            failed=partial(self._audience.failed, severity="warning", during="seeding"),
        )
        self._telemetry = TurnTelemetry(row, self._request, wiring.instrumentation, wiring.tracer)
        self._left = math.inf
        self._subscription: Subscription | None = None
        self._stopping = row.stop_requested is not None
        self._over = asyncio.Event()
        self._asking: Asking | Refusing | None = None
        self._waiting: asyncio.Timeout | None = None  # for what no abort ends
        self._keeping: asyncio.Timeout | None = None  # while its files are

    def heed_stop(self) -> None:
        """The row's ``stop_requested`` is set: abort."""
        if not self._stopping:
            self._stopping = True
            self._telemetry.stopping()
            self._spending.close()
            if self._subscription is not None:
                self._subscription.put(Nudge())
            if self._waiting is not None:
                self._waiting.reschedule(asyncio.get_running_loop().time())
            if self._keeping is not None:
                last = asyncio.get_running_loop().time() + self._wiring.timings.stop
                self._keeping.reschedule(min(last, self._keeping.when() or last))

    async def run(self) -> MessageT:
        """Run the turn to its terminal row. Raises ``LeaseLost`` and what the database raises."""
        async with (
            self._audience.attended(),
            self._telemetry.running(),
            self._keeping_the_lease() as tasks,
        ):
            self._audience.observe()
            try:
                await self._audience.announce()
                ending = await self._ending(tasks)
                self._telemetry.ended(ending)
                if self._asking is not None:
                    await self._asking.end()
                await self._attach(ending)
                with self._telemetry.span("finalize"):
                    self._row, following = await self._finalized(ending)
            finally:
                await self._audience.end()
            await self._call_next(following)
            await self._tell_host()
        return self._row

    async def tell_again(self) -> None:
        """Tell the host of a turn that is terminal, whose worker went before it had told."""
        async with self._keeping_the_lease():
            await self._tell_host()

    def heed_answers(self) -> None:
        """A row of an ask has its reply: pass it on."""
        if self._asking is not None:
            self._asking.heed()

    async def asked(self, ask: Ask) -> None:
        """See ``Owner``."""
        if self._asking is not None:
            await self._asking.asked(ask)

    async def answered(self, answered: AskAnswered) -> None:
        """See ``Owner``."""
        if self._asking is not None:
            await self._asking.answered(answered)

    async def listed(self, asks: Sequence[Ask]) -> None:
        """See ``Owner``."""
        if self._asking is not None:
            await self._asking.listed(asks)

    async def publish(self, changes: Sequence[ReplyChange | RowChange] | None) -> None:
        """See ``Owner``. Raises ``LeaseLost``: a worker that slept may own the turn no more."""
        self._telemetry.heard(changes or ())
        await self._audience.publish(changes, self._check_lease)
        if changes is None or any(isinstance(change, UsageChanged) for change in changes):
            self._ask_host()

    async def to_post(self) -> dict[str, Any] | None:
        """See ``Owner``; the lease is renewed, so that it outlives the POST."""
        if self._left <= 0 and not self._stopping:
            await self.stop(BUDGET)
        await self._spending.settled()
        body = await self._unless_stopped(self._request.body)
        await self._renewed()
        if self._stopping or body is None:
            return None
        self._telemetry.posting()
        return body

    async def stop(self, reason: str) -> None:
        """See ``Owner``: stored before anything is aborted, and only if nothing else stops it."""
        await self._lease.request_stop(reason)
        self.heed_stop()

    def _ask_host(self) -> None:
        """Have the host asked whether the turn may go on, unless it is at its end anyway."""
        reply = self._audience.reply
        if reply is not None and not (self._stopping or reply.concluded):
            self._spending.grown(reply.usage.cost)

    async def _refused(self) -> None:
        """The host lets the turn spend no more; what ended meanwhile is paid for."""
        if self._audience.reply is None or not self._audience.reply.concluded:
            await despite_cancellation(self.stop(BUDGET), self._wiring.report)

    @asynccontextmanager
    async def _keeping_the_lease(self) -> AsyncIterator[asyncio.TaskGroup]:
        """A group for the turn's tasks, beside which its lease is renewed."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_lease())
                yield tasks
                self._over.set()
        except* Exception as failed:
            raise failed.exceptions[0] from None  # the others are its consequences

    async def _tell_host(self) -> None:
        """Tell of a turn that is stored as terminal; then nobody need be told any more."""
        self._telemetry.finished(self._row)
        await self._audience.finish(TurnResult.of(self._row))
        await self._lease.told()

    async def _call_next(self, following: Any) -> None:
        """Have the turn run that waited for this one; what fails here, recovery finds."""
        if following is None or self._wiring.promoted is None:
            return
        try:
            await self._wiring.promoted(following)
        except Exception as error:
            self._audience.failed(error, "error", during="promoting the next turn")

    async def _ending(self, tasks: asyncio.TaskGroup) -> Ending:
        """How the turn ended; every failure but a lost lease or database is an ending."""
        try:
            ending = await self._answered(tasks)
        except LeaseLost:
            raise
        except ConversationNotFound:
            return Ending(STOPPED, None)  # it is being erased
        except Exception as error:
            if is_away(error):
                raise  # nothing can be stored; whoever takes the turn over finds it as it is then
            self._audience.failed(error, "error", during="turn")
            ending = Ending(Outcome("error", None, shown(error)), None, settled=False)
        if not ending.settled:
            await self._abandon()
        return ending

    async def _abandon(self) -> None:
        """Stop an agent that may still be at work: it would merge the next prompt into this one."""
        reply = self._audience.reply
        if reply is None:
            return
        await self._check_lease()  # else it is another worker's answer that would be stopped
        try:
            async with asyncio.timeout(self._wiring.timings.stop):
                await stop_session(self._session.client, reply.session_id, begun=reply.begun)
        except (OpencodeError, TimeoutError) as error:
            self._audience.failed(error, "warning", during="abandoning a turn")

    async def _answered(self, tasks: asyncio.TaskGroup) -> Ending:
        """Get the answer, in a new session if OpenCode has forgotten the old one."""
        anew = self._row.epoch == 1
        session_id = await self._prepared()
        if session_id is None:
            return Ending(STOPPED, None)
        self._asking = self._asking_in(tasks)
        async with self._audience.growing(tasks, self.heed_stop), self._spending.watched(tasks):
            try:
                return await self._answered_in(session_id, self._reply_so_far(session_id), anew)
            except (SessionNotFoundError, SessionMoved):
                reply = self._audience.reply
                if self._stopping or reply is None or reply.has_parts:
                    raise  # an answer that people have read is not begun anew
            await self._session.client.abort_tree(session_id)
            replaced = await self._reached(self._session.recreate)
            stale = StaleSessionError(session_id, replaced)
            self._audience.failed(stale, "warning", during="session.recreated")
            reply = Reply(replaced, await self._request.readdress())
            return await self._answered_in(replaced, reply, anew=True)

    async def _prepared(self) -> str | None:
        """The session, once it and the request are there; ``None`` if stopped before it was sent.

        Whatever is waited for until then, a server, a host's hook, another worker that creates the
        session, is not waited for by a turn that is to stop.
        """
        asked = self._request.decided
        return await (self._ready() if asked else self._unless_stopped(self._ready))

    async def _ready(self) -> str:
        with self._telemetry.span("session") as span:
            client = await self._reached(self._session.find_client)
            await self._reached(client.version)
            session_id = await self._reached(self._session.ensure)
            span.set({"session_id": session_id, "created": self._session.just_created})
            await self._reached(partial(self._request.decide, self._telemetry.trace))
        return session_id

    async def _unless_stopped(self, get: Callable[[], Awaitable[Answered]]) -> Answered | None:
        """What is got, ``None`` where the turn is stopped first."""
        if self._stopping:
            return None
        try:
            async with asyncio.timeout(None) as self._waiting:
                return await get()
        except TimeoutError:
            if self._waiting is None or not self._waiting.expired():
                raise
            return None
        finally:
            self._waiting = None

    async def _answered_in(self, session_id: str, reply: Reply, anew: bool) -> Ending:
        request = self._request
        self._audience.begin(reply)
        self._telemetry.answering(reply, anew=anew)
        await self._reached(self._session.check_directory)
        client, limits = self._session.client, request.limits
        if request.conversation_budget is not None:
            self._left = await left_of(request.conversation_budget, self._row, self._sessions)
            limits = limits.within(self._left)
        elapsed = max(0.0, time.time() - request.began)
        now = asyncio.get_running_loop().time()
        try:
            async with AsyncExitStack() as stack:
                events = self._subscription = await self._reached(
                    lambda: stack.enter_async_context(client.hub.subscribe(session_id))
                )
                answer = Answer(
                    client,
                    events,
                    reply,
                    owner=self,
                    watchdog=Watchdog(limits, now, elapsed=elapsed),
                    report=self._wiring.report,
                    timings=self._wiring.timings,
                )
                if self._stopping:
                    events.put(Nudge())
                # Also where another worker began: it may have gone before it had done that.
                rules = request.permissions, request.agent
                await self._reached(partial(self._session.permit, session_id, *rules))
                self._ask_host()
                if anew:
                    with self._telemetry.prompting():
                        posted = await answer.post()
                    if not posted:
                        return Ending(STOPPED, None)
                return await answer.listen(resumed=not anew)
        finally:
            self._subscription = None

    def _asking_in(self, tasks: asyncio.TaskGroup) -> Asking | Refusing:
        """What takes care of the agent's asks, in tasks of the turn's."""
        kind, client = self._wiring.besides.ask, self._session.client
        deciding = Deciding(
            tasks,
            self._request.permissions,
            self._wiring.decide,
            self._session.row,
            decided=self._telemetry.decided,
            failed=lambda error: self._audience.failed(error, "warning", during="an ask"),
        )
        if kind is None:
            return Refusing(client, deciding)
        asking = Asking(
            AskRows(kind, self._row, self._lease, self._sessions),
            client,
            deciding,
            self._request.asks,
            poll=self._wiring.timings.poll,
            check_lease=self._check_lease,
            tell=self.publish,
        )
        asking.start()
        return asking

    async def _reached(self, ask: Callable[[], Awaitable[Answered]]) -> Answered:
        """What the server answers, waiting for one that is being restarted, as at a deploy."""
        now = asyncio.get_running_loop().time
        deadline: float | None = None
        while True:
            try:
                return await ask()
            except OpencodeConnectionError as error:
                if deadline is None:
                    deadline = now() + self._wiring.timings.reconnect
                    self._audience.failed(error, "warning", during="waiting for the server")
                if self._stopping or now() > deadline:
                    raise
            await asyncio.sleep(RETRY)

    def _reply_so_far(self, session_id: str) -> Reply:
        """The reply as an earlier worker left it, or an empty one."""
        parts = tuple(part_from_json(part) for part in self._row.parts or ())
        reply = Reply(session_id, self._row.prompt_id or "", parts, ledger_of(self._row))
        reply.todos = todos_from_wire(self._row.todos)
        return reply

    async def _attach(self, ending: Ending) -> None:
        """Keep the files of the turn, whatever its end: people may have read of them."""
        policy, reply = self._wiring.artifacts, self._audience.reply
        if policy is None or reply is None:
            return
        attaching = Attaching(
            self._wiring.besides,
            policy,
            self._row,
            self._lease,
            self._session,
            self._sessions,
            tell=self.publish,
            failed=self._not_kept,
        )
        exchange = ending.exchange
        written = exchange.tool_artifacts if exchange else tool_artifacts(reply.result())
        began, uploaded = self._request.began, self._request.uploaded
        within = min(policy.within, self._wiring.timings.stop) if self._stopping else policy.within
        try:
            with self._telemetry.span("artifacts"):
                async with asyncio.timeout(within) as self._keeping:
                    await attaching.attach(written, began, uploaded)
        except TimeoutError as error:
            self._audience.failed(error, "warning", during="artifacts")
        finally:
            self._keeping = None

    def _not_kept(self, error: Exception) -> None:
        self._telemetry.not_kept(error)
        self._audience.failed(error, "warning", during="artifacts")

    async def _finalized(self, ending: Ending) -> tuple[MessageT, Any]:
        """Store how the turn ended, with what REST says it answered."""
        columns: dict[str, Any] = {}
        if (reply := self._audience.reply) is not None:
            if ending.exchange is not None:
                await become(reply, ending.exchange, self)
            else:
                ended = tuple(map(interrupted, reply.result()))
                await self.publish(reply.reconcile(ended, final=False))
            columns = reply_columns(reply)
        cursor = self._audience.last_cursor
        try:
            return await self._finalize(ending.outcome, columns | cursor)
        except LeaseLost:
            raise
        except Exception as error:
            if is_away(error):
                raise
            # The host's own constraint or validator, say: it would not pass another time.
            self._audience.failed(error, "error", during="storing the reply")
            outcome = Outcome("error", None, TurnError("internal", INTERNAL))
            return await self._finalize(outcome, cursor)

    async def _finalize(self, outcome: Outcome, columns: dict[str, Any]) -> tuple[MessageT, Any]:
        return await despite_cancellation(
            self._lease.finalize(
                outcome,
                columns,
                type(self._session.conversation),
                self._session.conversation_id,
                self._wiring.besides.ask,
            ),
            self._wiring.report,
        )

    async def _keep_lease(self) -> None:
        """Renew the lease in good time; raises ``LeaseLost``."""
        while not await happens(self._over, within=self._wiring.timings.lease / 3):
            try:
                await self._renewed()
            except LeaseLost:
                if self._row.status in TERMINAL:
                    return  # erased while its host is told
                raise
            except Exception as error:  # the database is away: the lease lasts longer than that
                self._audience.failed(error, "warning", during="renewing the lease")

    async def _check_lease(self) -> None:
        """Raise ``LeaseLost`` where a worker that slept owns the turn no more."""
        if self._lease.may_be_over:
            await self._renewed()

    async def _renewed(self) -> None:
        if await self._lease.renew() is not None:
            self.heed_stop()


def shown(error: Exception) -> TurnError:
    """What may be shown of an error: its code and a fixed sentence, never a URL or a body."""
    if isinstance(error, OpencodeConnectionError):
        return TurnError(error.code, UNREACHABLE)
    if isinstance(error, ServerError):
        return TurnError(error.code, REFUSED)
    if isinstance(error, SandboxUnreachable):
        return TurnError(error.code, UNSEEN)
    return TurnError("internal", INTERNAL)
