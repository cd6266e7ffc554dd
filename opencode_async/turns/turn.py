"""A turn to await, with everything explicit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic

from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession

from opencode_async.artifacts.policy import ArtifactPolicy, trust_of
from opencode_async.brokers.broker import EventBroker
from opencode_async.brokers.memory import MemoryBroker
from opencode_async.database import (
    despite_cancellation,
    key_of,
    locked,
    release,
    sessions_beside,
)
from opencode_async.errors import LeaseLost, UsageError
from opencode_async.models import TERMINAL, ArtifactMixin, AskMixin, ConversationT, MessageT
from opencode_async.observability.error_reporter import ErrorReporter, guarded, log_error
from opencode_async.observability.events import LeaseClaimed, LeaseReleased, LeaseTaken
from opencode_async.observability.instrumentation import Instrumentation, harmless, log_event
from opencode_async.observability.tracer import HarmlessTracer, NoTracer, Tracer
from opencode_async.session import Session
from opencode_async.timings import Timings
from opencode_async.turns.asks import Decide
from opencode_async.turns.audience import ObserverFactory, OnTurnFinished, Wiring
from opencode_async.turns.beside import Besides
from opencode_async.turns.claimed import ClaimedTurn
from opencode_async.turns.lease import Lease
from opencode_async.turns.message import TurnResult
from opencode_async.turns.prompt import prompt_columns
from opencode_async.turns.queue import next_position
from opencode_async.turns.spending import MaySpend


class Turn(Generic[ConversationT, MessageT]):
    """A turn to await: it runs the turn of an assistant row and gives its ``TurnResult``.

    ``message`` is a stored assistant row, ``pending``; ``text`` is the prompt, for a row that
    ``turns.start`` did not make. ``db`` is the caller's and is committed before the turn waits for
    anything; ``message`` is refreshed at its end. A row that is terminal already gives its result
    at once. How a turn ended is in the result, not an exception; raised are ``TransactionOpen``,
    ``LeaseHeld`` (another worker runs it), ``TurnQueued`` (its time has not come), ``LeaseLost``,
    ``MessageNotFound``, ``UsageError``. Cancelling the awaiting task gives the turn up to whoever
    claims it next. ``promoted`` is given the key of the turn that waited for this one's end.
    ``asks`` is the host's class for what the agent asks; without it an ask is refused at once,
    unless ``decide`` allows it. ``artifacts`` is that of the files that turns produce, which are
    kept as ``artifact_policy`` says; without both of them none are.
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
        may_spend: MaySpend[ConversationT] | None = None,
        promoted: Callable[[Any], Awaitable[None]] | None = None,
        error_reporter: ErrorReporter = log_error,
        instrumentation: Instrumentation = log_event,
        tracer: Tracer | None = None,
        timings: Timings | None = None,
        name: str = "opencode",
        asks: type[AskMixin] | None = None,
        artifacts: type[ArtifactMixin] | None = None,
        artifact_policy: ArtifactPolicy | None = None,
        decide: Decide | None = None,
    ) -> None:
        self._db = db
        self._message = message
        self._key = key_of(message)
        self._kind: type[MessageT] = type(message)
        self._session = session
        self._text = text
        self._sessions = sessions_beside(db, self._kind)
        report = guarded(error_reporter)
        self._wiring = Wiring(
            broker=broker or MemoryBroker(),
            observer_factory=observer_factory,
            on_turn_finished=on_turn_finished,
            may_spend=may_spend,
            promoted=promoted,
            report=report,
            instrumentation=harmless(instrumentation, report),
            tracer=HarmlessTracer(tracer or NoTracer(), report),
            timings=timings or Timings(),
            name=name,
            besides=Besides(asks, artifacts, trust_of(artifact_policy)),
            artifacts=artifact_policy,
            decide=decide,
        )
        self._claimed: ClaimedTurn[ConversationT, MessageT] | None = None

    def __await__(self) -> Generator[Any, None, TurnResult]:
        return self._run().__await__()

    def stop(self) -> None:
        """Abort, as the row's ``stop_requested`` says; from the event loop, any number of times."""
        if self._claimed is not None:
            self._claimed.heed_stop()

    def heed_answers(self) -> None:
        """Pass on what was answered; from the event loop, any number of times."""
        if self._claimed is not None:
            self._claimed.heed_answers()

    async def _run(self) -> TurnResult:
        await release(self._db)
        seconds = self._wiring.timings.lease
        lease, row = await Lease.claim(self._sessions, self._kind, self._key, seconds)
        about: dict[str, Any] = {"message_id": str(self._key), "epoch": row.epoch}
        try:
            self._check(row)
            if row.status not in TERMINAL:
                self._wiring.instrumentation(LeaseClaimed(**about))
                row = await self._claimed_by(lease, await self._adopted(lease, row)).run()
            elif row.lease_expires_at is not None and await lease.claim_unheard():
                self._wiring.instrumentation(LeaseClaimed(**about))
                await self._claimed_by(lease, row).tell_again()
        except LeaseLost:
            self._wiring.instrumentation(LeaseTaken(**about))
            raise
        finally:
            await self._give_up(lease, LeaseReleased(**about))
        try:
            await self._db.refresh(self._message)
        except InvalidRequestError:
            if self._message not in self._db:
                raise
            # Else its row was erased while, or just after, its host was told.
        return TurnResult.of(row)

    def _check(self, row: MessageT) -> None:
        """Raise ``UsageError`` for a row that the host did not make as a turn."""
        if row.role != "assistant":
            raise UsageError('a turn is of an assistant row: make it with role="assistant"')
        never_ran = row.prompt_id is None and row.stop_requested is None
        if row.status in TERMINAL and self._text is not None and never_ran:
            raise UsageError('this row is done: make it with status="pending" to have it run')

    def _claimed_by(
        self, lease: Lease[MessageT], row: MessageT
    ) -> ClaimedTurn[ConversationT, MessageT]:
        self._claimed = ClaimedTurn(self._session, lease, row, self._wiring, self._sessions)
        return self._claimed

    async def _give_up(self, lease: Lease[MessageT], released: LeaseReleased) -> None:
        """Release the lease; if that fails it runs out, and what ended the turn is still told."""

        async def release() -> None:
            if await lease.release():
                self._wiring.instrumentation(released)

        try:
            await despite_cancellation(release(), self._wiring.report)
        except Exception as error:
            context = {"during": "releasing a lease", "message_id": str(self._key)}
            self._wiring.report(error, severity="warning", context=context)

    async def _adopted(self, lease: Lease[MessageT], row: MessageT) -> MessageT:
        """The row; one that the host made itself is given a prompt and a place."""
        if row.prompt_id is not None:
            return row
        if self._text is None:
            raise UsageError("this row has no prompt: give Turn a text, or use turns.start()")
        async with self._sessions.begin() as db:
            conversation = self._session
            await locked(db, type(conversation.conversation), conversation.conversation_id)
            current = await locked(db, self._kind, self._key)
            if current is None or current.lease_owner != lease.owner:
                raise LeaseLost(self._key)
            for name, value in prompt_columns(
                self._text, trace=self._wiring.tracer.inject()
            ).items():
                setattr(current, name, value)
            if current.position is None:
                current.position = await next_position(db, self._kind, current.conversation_id)
        return current
