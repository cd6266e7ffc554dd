"""Post the prompt and listen until REST says that the turn is over.

The stream is a hint, REST is the truth. What ends a turn is never an event, only a look at REST
that an event, a gap or a silence was the reason for. Where such a look finds that the prompt never
arrived, or that its server crashed in mid-answer, the same prompt is posted again: its ids are its
own, so that OpenCode takes it for the same one (1.18.33, measured).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from opencode_async.client.hub import Disconnected, Gap, Item, Nudge, Subscription
from opencode_async.client.stopping import JUST_POSTED
from opencode_async.errors import (
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    OpencodeConnectionError,
    OpencodeError,
    ServerError,
)
from opencode_async.observability.error_reporter import ErrorReporter, Severity
from opencode_async.protocol.asks import Ask, Permission, Question
from opencode_async.protocol.changes import PartAdded, PartUpdated, ReplyChange
from opencode_async.protocol.events import AskAnswered, MessagePartDelta, SessionDeleted
from opencode_async.protocol.exchange import Exchange, Outcome, TurnError
from opencode_async.protocol.limits import CANCELLED, Watchdog, stopped
from opencode_async.protocol.messages import UpstreamError
from opencode_async.protocol.reply import Reply
from opencode_async.protocol.subagents import child_of
from opencode_async.timings import Timings

if TYPE_CHECKING:
    from opencode_async.client.client import OpencodeClient

MOST_POSTS = 3  # of one prompt by one worker: it may be the prompt that crashes the server
POSTING = 2 / 3  # of a lease that a POST may take: it never outlives the right to send it
NOT_ACCEPTED = Outcome(
    "error", None, TurnError("not_accepted", "The agent's server did not take the message.")
)
STOPPED = stopped(CANCELLED)


@dataclass(frozen=True, slots=True)
class Ending:
    """How the turn ended, with the exchange REST had then, if it could be asked.

    Unless ``settled``, the agent may still be at work. ``lost``: posting the prompt again may yet
    get the answer.
    """

    outcome: Outcome
    exchange: Exchange | None
    settled: bool = True
    lost: bool = False


class Owner(Protocol):
    """Whose answer it is."""

    async def publish(self, changes: Sequence[ReplyChange] | None) -> None:
        """Tell what has changed; ``None`` when the parts stand in another order now."""

    async def to_post(self) -> dict[str, Any] | None:
        """The prompt, if it may be sent: not once a stop was requested."""

    async def stop(self, reason: str) -> None:
        """Note that a limit was exceeded and have the answer stopped, by a ``Nudge``."""

    async def asked(self, ask: Ask) -> None:
        """The agent waits for that; it may be told so more than once."""

    async def answered(self, answered: AskAnswered) -> None:
        """OpenCode has a reply to an ask, whoever gave it."""

    async def listed(self, asks: Sequence[Ask]) -> None:
        """These are all that the agent waits for, as REST has it."""


class Answer:
    """One prompt and its answer, as it comes in over one subscription."""

    def __init__(
        self,
        client: OpencodeClient,
        events: Subscription,
        reply: Reply,
        *,
        owner: Owner,
        watchdog: Watchdog,
        report: ErrorReporter,
        timings: Timings,
    ) -> None:
        self._client = client
        self._events = events
        self._reply = reply
        self._owner = owner
        self._watchdog = watchdog
        self._reporter = report
        self._timings = timings
        self._now = asyncio.get_running_loop().time
        self._posts = 0
        self._posted = -math.inf  # long ago, if it was in an earlier life
        self._in_doubt: OpencodeError | None = None  # what left open whether the prompt arrived
        # What gives no answer ("stream", "rest"), since when, and what it said.
        self._outages: dict[str, tuple[float, OpencodeError]] = {}
        self._refused_since: float | None = None
        self._resting_since: float | None = None
        self._stopping_since: float | None = None
        self._aborted = -math.inf
        self._doubtful = False  # whether an idle came too early to be believed
        self._exceeded = False
        self._due = math.inf  # when a limit is exceeded unless something happens

    async def post(self) -> bool:
        """Send the prompt if it may be sent; whether it was. Raises what refuses it.

        Where its arrival is in doubt nothing is raised: a look at REST will tell.
        """
        body = await self._owner.to_post()
        if body is None:
            return False
        self._posts += 1
        self._in_doubt = None
        try:
            within = self._timings.lease * POSTING
            await self._client.prompt(self._reply.session_id, body, within=within)
        except (AuthenticationError, BadRequestError, NotFoundError):
            raise
        except (OpencodeConnectionError, ServerError) as error:
            self._in_doubt = error
            self._report(error, "warning", during="posting a prompt")
        self._posted = self._now()
        return True

    async def listen(self, *, resumed: bool) -> Ending:
        """Follow the answer to its end; ``resumed`` if it may have begun in an earlier life."""
        look = resumed or self._in_doubt is not None
        while True:
            if look and (ending := await self._look(catch_up=resumed)) is not None:
                return ending
            items = await self._next()
            # Silence is no proof of silence: the stream may be open and deliver nothing.
            resumed = not items or any(isinstance(item, Gap) for item in items)
            deleted = SessionDeleted(self._reply.session_id) in items
            await self._take(items)
            if items and not self._reply.idle:
                self._resting_since = None
            self._give_up_waiting()
            look = resumed or deleted or self._reply.settled or self._must_abort()
            if "stream" in self._outages and self._stopping_since is None:
                look = False  # the server is likely gone; when it is back there is a gap to look at

    async def _next(self) -> list[Item]:
        """What has come, or nothing after as long a silence as the situation bears."""
        unsettled = (self._outages, self._resting_since, self._stopping_since, self._doubtful)
        watchful = not self._reply.accepted or self._reply.idle or any(unsettled)
        seconds = self._timings.settle if watchful else self._timings.look
        if self._may_exceed:
            self._due = self._watchdog.due()
            seconds = min(seconds, max(0.0, self._due - self._now()))
        return await self._events.batch(seconds)

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
                    self._reply.tear()
                    continue
                case Disconnected(error):
                    self._outages.setdefault("stream", (self._now(), error))
                    if not self._reply.accepted:
                        self._in_doubt = error
                    continue
                case Nudge():
                    calls.append(self._abort)
                    continue
                case Permission() | Question():
                    calls.append(partial(self._owner.asked, item))
                case AskAnswered():
                    calls.append(partial(self._owner.answered, item))
                case _:
                    changes += self._reply.apply(item)
            self._watchdog.take(item, self._now())
        await self._owner.publish(changes)
        await self._adopt_children(changes)
        # Words that are added to a part begin nothing and say of no cost.
        words = bool(items) and all(isinstance(item, MessagePartDelta) for item in items)
        if not words:
            self._count()
        if not words or self._now() >= self._due:
            await self._heed_limits()
        for call in calls:
            await call()

    def _count(self) -> None:
        """Tell the watchdog how far the answer has come and what it has cost."""
        self._watchdog.answered(self._reply.usage, self._reply.steps, begun=self._reply.has_parts)

    async def _heed_limits(self) -> None:
        """Have the answer stopped where it exceeds a limit."""
        reason = self._watchdog.exceeded(self._now()) if self._may_exceed else None
        if reason is not None:
            await self._owner.stop(reason)
            self._exceeded = True

    @property
    def _may_exceed(self) -> bool:
        """Whether limits matter yet: not for what stops or is at its end anyway."""
        ends = self._stopping_since is not None or self._reply.concluded
        return not (ends or self._exceeded)

    async def _adopt_children(self, changes: Sequence[ReplyChange]) -> None:
        """Listen to a subagent whose session is not new: a resumed one, or one a gap swallowed.

        A call may resume any session of the server, another conversation's, too, which is none of
        ours (OpenCode 1.18.33, its code).
        """
        for change in changes:
            if not isinstance(change, (PartAdded, PartUpdated)):
                continue
            child, caller = child_of(change.part), change.part.subagent or self._reply.session_id
            if child is None or child in self._events.session_ids:
                continue
            try:
                siblings = await self._client.children(caller)
            except OpencodeError as error:
                self._report(error, "warning", during="looking for a subagent")
                continue  # a look at REST finds it
            if any(sibling.session_id == child for sibling in siblings):
                self._client.hub.adopt(self._events, child)
                self._events.put(Gap())  # what it did until now

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
            self._doubtful = self._just_posted and not resting  # nothing may come that tells
            if self._reply.idle and not exchange.concluded:
                resting = self._reply.idle = not await self._is_early(exchange)
                if resting:
                    exchange = await self._exchange()
            if catch_up:
                await self._catch_up(exchange)
            else:
                await self._owner.publish(self._reply.charge(exchange.ledger))
            self._count()
            await self._heed_limits()
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
        ending = self._judge(exchange, resting)
        return ending and await self._unless_posted_again(ending, exchange)

    async def _unless_posted_again(self, ending: Ending, exchange: Exchange) -> Ending | None:
        """The ending; ``None`` where it was not one yet, for the prompt is posted once more.

        Only the newest prompt of a session may be: an older one would be answered a second time.
        Nor may one that was to stop: posted again behind an abort, it starts anew (OpenCode
        1.18.33, both measured).
        """
        stopping = self._stopping_since is not None
        if not ending.lost or stopping or not exchange.newest:
            return ending
        if self._posts >= MOST_POSTS:
            if self._in_doubt is not None:
                raise self._in_doubt
            return ending
        if exchange.accepted:
            crash = OpencodeConnectionError("the server stopped before the answer was done")
            self._report(crash, "warning", during="posting a prompt again")
        if not await self.post():
            return None  # a stop was requested just now
        self._reply.idle, self._reply.error = False, None
        self._resting_since = self._refused_since = None
        return None

    def _judge(self, exchange: Exchange, resting: bool) -> Ending | None:
        now, error = self._now(), self._reply.error
        if not exchange.accepted:
            return self._judge_missing(exchange)
        self._reply.accept()
        self._in_doubt = None
        if self._stopping_for() > self._timings.stop:
            return Ending(STOPPED, exchange, settled=False)
        if not resting:
            self._resting_since = None
            return None
        if not exchange.stranded or (error is not None and not exchange.answers):
            return Ending(exchange.outcome(error), exchange)
        # Error and abort send their idle before the last update of the message.
        if self._resting_since is None:
            self._resting_since = now
        if now - self._resting_since >= self._timings.settle:
            return Ending(exchange.outcome(error), exchange, lost=error is None)
        return None

    def _judge_missing(self, exchange: Exchange) -> Ending | None:
        """Of a prompt that is not there (yet): refused, lost on its way, or still to come."""
        now, error = self._now(), self._reply.error
        if self._posts == 0 and self._stopping_since is not None:
            return Ending(STOPPED, exchange)
        if error is not None and self._refused_since is None:
            self._refused_since = now  # it may be of an earlier turn: look once more
            return None
        if self._refused_since is not None and now - self._refused_since >= self._timings.settle:
            reason = error or UpstreamError("UnknownError", "")
            refusal = TurnError("refused", reason.message or reason.name)
            return Ending(Outcome("error", None, refusal), exchange)
        patience = self._timings.settle if self._in_doubt else self._timings.accept
        if now - self._posted > patience:
            return Ending(NOT_ACCEPTED, exchange, settled=False, lost=True)
        return None

    async def _at_rest(self) -> bool:
        return not (self._just_posted or await self._client.busy(self._reply.session_id))

    @property
    def _just_posted(self) -> bool:
        """Whether a session that is not said to be busy may only be about to be."""
        return self._now() - self._posted < JUST_POSTED

    async def _is_early(self, exchange: Exchange) -> bool:
        """Whether the idle cannot be this turn's: that of the one before it may come late."""
        begun = exchange.answers or self._reply.error is not None
        if not begun and self._just_posted:
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
        await self._owner.publish(self._reply.catch_up(exchange))
        asked = await self._client.asked()
        ours = [ask for ask in asked if self._is_ours(ask, exchange)]
        self._watchdog.open_asks({ask.id for ask in ours}, self._now())
        await self._owner.listed(ours)

    def _is_ours(self, ask: Ask, exchange: Exchange) -> bool:
        """Whether this turn asks it: a permission outlives the abort of the turn that asked it."""
        if ask.session_id != self._reply.session_id:
            return ask.session_id in self._events.session_ids
        answers = {answer.info.id for answer in exchange.answers}
        return ask.message_id is None or ask.message_id in answers

    async def _abort(self) -> None:
        """Stop the agent, subagents first."""
        self._aborted = self._now()
        if self._stopping_since is None:
            self._stopping_since = self._aborted
        try:
            await self._client.abort_tree(self._reply.session_id)
        except OpencodeError as error:
            self._report(error, "warning", during="aborting")

    def _report(self, error: BaseException, severity: Severity, *, during: str) -> None:
        context = {"during": during, "session_id": self._reply.session_id}
        self._reporter(error, severity=severity, context=context)

    def _must_abort(self) -> bool:
        """Whether the agent should have stopped by now and may not have."""
        overdue = self._now() - self._aborted >= self._timings.settle
        return self._stopping_since is not None and overdue

    def _stopping_for(self) -> float:
        return 0.0 if self._stopping_since is None else self._now() - self._stopping_since


async def become(reply: Reply, exchange: Exchange, owner: Owner) -> None:
    """Make the reply of a turn that is over what REST says, and publish the difference."""
    # Of an answer that was never completed REST may lack the last words, which people have read.
    await owner.publish(reply.reconcile(exchange.final_parts, final=exchange.complete))
    await owner.publish(reply.charge(exchange.ledger))
