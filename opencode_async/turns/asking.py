"""The worker's side of what the agent asks: each ask is stored or decided, each reply passed on.

All that is said to OpenCode about an ask is said here, by the worker that runs the turn. Whoever
answers only sets the row's reply, so an answer survives whatever happens to either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from opencode_async.client.client import OpencodeClient
from opencode_async.database import is_away
from opencode_async.errors import LeaseLost, NotFoundError, OpencodeError
from opencode_async.models import AskMixin
from opencode_async.protocol.asks import PERMISSION, QUESTION, Ask, AskPolicy, Permission, kind_of
from opencode_async.protocol.changes import (
    AskChange,
    PermissionAsked,
    PermissionResolved,
    QuestionAsked,
    QuestionResolved,
)
from opencode_async.protocol.events import AskAnswered
from opencode_async.turns.ask_rows import AskRows
from opencode_async.turns.asks import (
    ALWAYS,
    ANSWERED,
    ANSWERING,
    DEADLINE,
    DECIDED,
    EXPIRED,
    GONE,
    OPEN,
    is_public,
)
from opencode_async.turns.deciding import RULES, Deciding
from opencode_async.turns.message import ask_json
from opencode_async.turns.snapshots import happens

ASKED: Mapping[str, type[PermissionAsked | QuestionAsked]] = {
    PERMISSION: PermissionAsked,
    QUESTION: QuestionAsked,
}
RESOLVED: Mapping[str, type[PermissionResolved | QuestionResolved]] = {
    PERMISSION: PermissionResolved,
    QUESTION: QuestionResolved,
}


class Asking:
    """The asks of one turn in the hands of its worker."""

    def __init__(
        self,
        rows: AskRows,
        client: OpencodeClient,
        deciding: Deciding,
        policy: AskPolicy,
        *,
        poll: float,
        check_lease: Callable[[], Awaitable[None]],
        tell: Callable[[Sequence[AskChange]], Awaitable[None]],
    ) -> None:
        self._rows = rows
        self._client = client
        self._deciding = deciding
        self._policy = policy
        self._poll = poll
        self._check_lease = check_lease
        self._tell = tell
        # OpenCode's ids of what this worker has in hand, saw open, sent a reply to.
        self._taken: set[str] = set()
        self._seen_open: set[str] = set()
        self._sent: set[str] = set()
        self._replied: dict[str, dict[str, Any]] = {}  # what it says was replied
        self._waiting = False
        self._news = asyncio.Event()
        self._over = False

    def start(self) -> None:
        """Begin to pass answers on, from whichever process they come."""
        self._deciding.begin(self._pass_on())

    async def end(self) -> None:
        """Pass on what is answered, within a deadline, and then no more."""
        self._over = True
        self._news.set()
        await self._deciding.end()

    def heed(self) -> None:
        """There may be answers: look at the rows."""
        self._waiting = True
        self._news.set()

    async def asked(self, ask: Ask) -> None:
        """The agent waits for that: somebody is to answer it."""
        if ask.id not in self._taken and not self._over:
            self._taken.add(ask.id)
            self._deciding.begin(self._take(ask))

    async def answered(self, answered: AskAnswered) -> None:
        """OpenCode has a reply: ours, or one given past us, to its own terminal, say."""
        self._replied[answered.id] = dict(answered.reply)
        self.heed()

    async def listed(self, asks: Sequence[Ask]) -> None:
        """These are all that OpenCode waits for: take up what was missed, end what is gone."""
        try:
            known = {row.upstream_id: row for row in await self._rows.all()}
            for ask in asks:
                row = known.pop(ask.id, None)
                if row is None:
                    await self.asked(ask)
                else:
                    await self._still_asked(ask, row)
            for row in known.values():
                if row.status == OPEN and row.upstream_id not in self._replied:
                    await self._settle(row, status=GONE)
        except LeaseLost:
            raise
        except Exception as error:
            self._deciding.failed(error)  # the turn goes on, and at its next look this does
        self.heed()

    async def _still_asked(self, ask: Ask, row: AskMixin) -> None:
        """OpenCode waits for what a row knows of."""
        self._taken.add(ask.id)
        if row.status == OPEN:
            self._seen_open.add(ask.id)
        elif row.status == GONE and row.reply is None:
            self._seen_open.add(ask.id)
            await self._settle(row, status=OPEN)  # it was not listed for a while
        elif row.status in (ANSWERED, EXPIRED, GONE):
            # Whoever said so was gone before OpenCode had heard of it.
            await self._rows.set(row, status=ANSWERING)

    async def _take(self, ask: Ask) -> None:
        try:
            if (ruled := self._deciding.ruled(ask)) is not None:
                await self._reply(ask, ruled)
                self._deciding.decided(ask, RULES)
                return
            reply, by = None, None
            if decided := await self._deciding.reply_to(ask):
                reply, by = decided, DECIDED
            elif isinstance(ask, Permission) and await self._rows.grant(ask):
                reply, by = {"reply": "once"}, ALWAYS
            row = await self._rows.add(ask, reply, by, within=self._policy.within)
            if row is None:
                return
            self._seen_open.add(ask.id)
            if by is not None:
                self._deciding.decided(ask, by)
            if row.status == OPEN:
                await self._tell([ASKED[kind_of(ask)](ask_json(row))])
            self.heed()
        except LeaseLost:
            raise
        except Exception as error:
            self._deciding.failed(error)
            self._taken.discard(ask.id)  # the next look at REST finds it again
            if not (is_away(error) or isinstance(error, OpencodeError)):
                await self._give_up(ask)

    async def _give_up(self, ask: Ask) -> None:
        """Refuse what cannot be stored, for want of a host's own column, say."""
        try:
            await self._client.dismiss(ask)
        except OpencodeError as error:
            self._deciding.failed(error)

    async def _reply(self, ask: Ask, reply: Mapping[str, Any]) -> None:
        """Reply to what is no person's to answer; nothing is stored of it."""
        with suppress(NotFoundError):  # answered by the worker before, say
            await self._client.reply(ask.id, kind_of(ask), reply)

    async def _pass_on(self) -> None:
        over = False
        while not over:
            await happens(self._news, within=self._poll if self._waiting else None)
            self._news.clear()
            over = self._over
            try:
                await self._rows.expire(self._policy)
                pending = await self._rows.pending()
                self._waiting = bool(pending)
                for row in pending:
                    reply = self._replied.get(row.upstream_id or "")
                    if row.status == ANSWERING:
                        await self._send(row)
                    elif reply is not None:
                        await self._settle(row, status=ANSWERED, reply=reply)
            except LeaseLost:
                raise
            except Exception as error:
                self._deciding.failed(error)

    async def _send(self, row: AskMixin) -> None:
        await self._check_lease()
        ask_id = row.upstream_id or ""
        done = EXPIRED if row.answered_by == DEADLINE else ANSWERED
        first = ask_id in self._seen_open and ask_id not in self._sent
        self._sent.add(ask_id)
        try:
            await self._client.reply(ask_id, row.kind or "", row.reply or {})
        except NotFoundError:
            # It is gone, unless an earlier attempt, or another worker's, was what ended it.
            done = GONE if first else done
        except OpencodeError as error:
            if first:  # tried again; who listens to the answer tells of a server that is away
                self._deciding.failed(error)
            return
        await self._settle(row, status=done)

    async def _settle(self, row: AskMixin, **values: Any) -> None:
        """Set what has become of an ask, unless another one did since, and tell of it."""
        now = await self._rows.set(row, **values)
        if now is not None and is_public(now):
            told = ASKED if now.status == OPEN else RESOLVED
            await self._tell([told[now.kind or ""](ask_json(now))])
