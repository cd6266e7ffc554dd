"""Post the prompt and listen until REST says that the turn is over.

The stream is a hint, REST is the truth. What ends a turn is never an event, only a look at REST
that an event, a gap or a silence was the reason for.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from opencode_async.client.hub import Disconnected, Gap, Item, Nudge, Subscription
from opencode_async.errors import (
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    OpencodeConnectionError,
    OpencodeError,
    ServerError,
)
from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.protocol.changes import PartAdded, PartUpdated, ReplyChange, UsageChanged
from opencode_async.protocol.events import PermissionAsked, QuestionAsked
from opencode_async.protocol.exchange import Exchange, Outcome, TurnError
from opencode_async.protocol.messages import UpstreamError
from opencode_async.protocol.reply import Reply
from opencode_async.timings import Timings

if TYPE_CHECKING:
    from opencode_async.client.client import OpencodeClient

JUST_POSTED = (
    2.0  # s after a prompt in which an idle status says nothing (OpenCode 1.18.33, measured)
)
ABORT_AGAIN = 0.2  # s between two aborts of a session that is to stop
NOBODY = "Nobody is here to answer. Go on without it, or say what you would have needed."
NOT_ACCEPTED = Outcome(
    "error", None, TurnError("not_accepted", "The agent's server did not take the message.")
)
STOPPED = Outcome("cancelled", "cancelled")


@dataclass(frozen=True, slots=True)
class Ending:
    """How the turn ended, with the exchange REST had then, if it could be asked.

    Unless ``settled``, the agent may still be at work.
    """

    outcome: Outcome
    exchange: Exchange | None
    settled: bool = True


Publish = Callable[[Sequence[ReplyChange] | None], Awaitable[None]]


class Answer:
    """One prompt and its answer, as it comes in over one subscription."""

    def __init__(
        self,
        client: OpencodeClient,
        events: Subscription,
        reply: Reply,
        body: dict[str, Any],
        *,
        publish: Publish,
        report: ErrorReporter,
        timings: Timings,
    ) -> None:
        self._client = client
        self._events = events
        self._reply = reply
        self._body = body
        self._publish = publish
        self._report = report
        self._timings = timings
        self._now = asyncio.get_running_loop().time
        self._posted = -math.inf  # long ago, if it was in an earlier life
        # What gives no answer ("stream", "rest"), since when, and what it said.
        self._outages: dict[str, tuple[float, OpencodeError]] = {}
        self._refused_since: float | None = None
        self._resting_since: float | None = None
        self._stopping_since: float | None = None
        self._aborted = -math.inf
        self._doubtful = False  # whether an idle came too early to be believed

    async def post(self) -> None:
        """Send the prompt. Raises what the client raises."""
        await self._client.prompt(self._reply.session_id, self._body)
        self._posted = self._now()

    async def listen(self, *, resumed: bool) -> Ending:
        """Follow the answer to its end; ``resumed`` if the prompt was posted in an earlier life."""
        look = resumed
        while True:
            if look and (ending := await self._look(catch_up=resumed)) is not None:
                return ending
            items = await self._next()
            # Silence is no proof of silence: the stream may be open and deliver nothing.
            resumed = not items or any(isinstance(item, Gap) for item in items)
            await self._take(items)
            if items and not self._reply.idle:
                self._resting_since = None
            self._give_up_waiting()
            look = resumed or self._reply.settled or self._must_abort()

    async def _next(self) -> list[Item]:
        """What has come, or nothing after as long a silence as the situation bears."""
        unsettled = (self._outages, self._resting_since, self._stopping_since, self._doubtful)
        watchful = not self._reply.accepted or self._reply.idle or any(unsettled)
        try:
            async with asyncio.timeout(self._timings.settle if watchful else self._timings.look):
                return await self._events.batch()
        except TimeoutError:
            return []

    async def _take(self, items: Sequence[Item]) -> None:
        """Apply what has come; what it changed is published before anything is waited for.

        A snapshot written meanwhile would else hold more than its cursor says.
        """
        changes: list[ReplyChange] = []
        calls: list[Callable[[], Awaitable[None]]] = []
        for item in items:
            match item:
                case Gap():
                    self._outages.pop("stream", None)
                case Disconnected(error):
                    self._outages.setdefault("stream", (self._now(), error))
                case Nudge():
                    calls.append(self._abort)
                case PermissionAsked() | QuestionAsked():
                    calls.append(partial(self._dismiss, item))
                case _:
                    changes += self._reply.apply(item)
        self._adopt_children(changes)
        await self._publish(changes)
        for call in calls:
            await call()

    def _adopt_children(self, changes: Sequence[ReplyChange]) -> None:
        """Listen to a subagent whose session is not new: a resumed one, or one a gap swallowed."""
        for change in changes:
            if isinstance(change, (PartAdded, PartUpdated)):
                child = getattr(change.part, "session_id", None)
                if child is not None:
                    self._client.hub.adopt(self._events, child)

    def _give_up_waiting(self) -> None:
        for since, error in self._outages.values():
            if self._now() - since > self._timings.reconnect:
                raise error

    async def _look(self, *, catch_up: bool) -> Ending | None:
        """Ask REST whether the turn is over and, if asked to, take from it what was missed."""
        try:
            # In this order: what is read after the session came to rest is the end of it.
            resting = self._reply.idle or await self._at_rest()
            exchange = await self._exchange()
            self._doubtful = False
            if self._reply.idle and not exchange.concluded:
                resting = self._reply.idle = not await self._is_early(exchange)
                if resting:
                    exchange = await self._exchange()
            if catch_up:
                await self._catch_up(exchange)
            if not resting and self._must_abort():
                await self._abort()  # an abort before the model was called stops nothing
        except (OpencodeConnectionError, ServerError) as error:
            if isinstance(error, (AuthenticationError, BadRequestError, NotFoundError)):
                raise
            if self._stopping_for() > self._timings.stop:
                return Ending(STOPPED, None, settled=False)
            self._outages.setdefault("rest", (self._now(), error))
            return None
        self._outages.pop("rest", None)
        return self._judge(exchange, resting)

    def _judge(self, exchange: Exchange, resting: bool) -> Ending | None:
        now, error = self._now(), self._reply.error
        if exchange.accepted:
            self._reply.accept()
        elif error is not None and self._refused_since is None:
            self._refused_since = now  # it may be of an earlier turn: look once more
            return None
        elif self._refused_since is not None and now - self._refused_since >= self._timings.settle:
            reason = error or UpstreamError("UnknownError", "")
            refusal = TurnError("refused", reason.message or reason.name)
            return Ending(Outcome("error", None, refusal), exchange)
        elif now - self._posted > self._timings.accept:
            return Ending(NOT_ACCEPTED, exchange, settled=False)
        else:
            return None
        if self._stopping_for() > self._timings.stop:
            return Ending(STOPPED, exchange, settled=False)
        if not resting:
            self._resting_since = None
            return None
        if exchange.complete or (error is not None and not exchange.answers):
            return Ending(exchange.outcome(error), exchange)
        # Error and abort send their idle before the last update of the message.
        if self._resting_since is None:
            self._resting_since = now
        if now - self._resting_since >= self._timings.settle:
            return Ending(exchange.outcome(error), exchange)
        return None

    async def _at_rest(self) -> bool:
        if self._now() - self._posted < JUST_POSTED:
            return False
        return not await self._client.busy(self._reply.session_id)

    async def _is_early(self, exchange: Exchange) -> bool:
        """Whether the idle cannot be this turn's: that of the one before it may come late."""
        begun = exchange.answers or self._reply.error is not None
        if not begun and self._now() - self._posted < JUST_POSTED:
            self._doubtful = True
            return True
        return await self._client.busy(self._reply.session_id)

    async def _exchange(self) -> Exchange:
        session_id, prompt_id = self._reply.session_id, self._reply.prompt_id
        if not self._reply.accepted:
            # Looking for a prompt that is not there would page through the whole session.
            message = await self._client.message(session_id, prompt_id)
            if message is None:
                return Exchange.read(prompt_id, [])
        return await self._client.exchange(session_id, prompt_id)

    async def _catch_up(self, exchange: Exchange) -> None:
        for child in exchange.children:
            self._client.hub.adopt(self._events, child)
        await self._publish(self._reply.catch_up(exchange))
        for ask in await self._client.asked():
            if ask.session_id in self._events.session_ids:
                await self._dismiss(ask)

    async def _dismiss(self, ask: PermissionAsked | QuestionAsked) -> None:
        """Refuse at once what nobody can answer: OpenCode would wait for ever."""
        try:
            if isinstance(ask, PermissionAsked):
                await self._client.reject_permission(ask.id, NOBODY)
            else:
                await self._client.reject_question(ask.id)
        except OpencodeError as error:
            self._report(error, severity="error", context={"during": "dismissing an ask"})

    async def _abort(self) -> None:
        """Stop the agent, subagents first."""
        self._aborted = self._now()
        if self._stopping_since is None:
            self._stopping_since = self._aborted
        try:
            await self._client.abort_tree(self._reply.session_id)
        except OpencodeError as error:
            self._report(error, severity="warning", context={"during": "aborting"})

    def _must_abort(self) -> bool:
        """Whether the agent should have stopped by now and may not have."""
        overdue = self._now() - self._aborted >= self._timings.settle
        return self._stopping_since is not None and overdue

    def _stopping_for(self) -> float:
        return 0.0 if self._stopping_since is None else self._now() - self._stopping_since


async def stop_session(client: OpencodeClient, session_id: str, *, begun: bool) -> None:
    """Abort a session, its subagents first, until it is at rest.

    Unless its answer has ``begun``, it is aborted for two seconds: an abort before the model is
    called stops nothing, and until then the session's status does not say that it is at work
    (OpenCode 1.18.33, measured).
    """
    now = asyncio.get_running_loop().time
    since = -math.inf if begun else now()
    while True:
        await client.abort_tree(session_id)
        if now() - since >= JUST_POSTED and not await client.busy(session_id):
            return
        await asyncio.sleep(ABORT_AGAIN)


async def become(reply: Reply, exchange: Exchange, publish: Publish) -> None:
    """Make the reply of a turn that is over what REST says, and publish the difference."""
    # Of an answer that was never completed REST may lack the last words, which people have read.
    await publish(reply.reconcile(exchange.final_parts, final=exchange.complete))
    if exchange.usage != reply.usage:
        await publish([UsageChanged(exchange.usage)])
