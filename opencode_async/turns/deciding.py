"""Asks that need no person: those the rules or a host's hook decide, or that nobody can answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from opencode_async.client.client import OpencodeClient
from opencode_async.errors import NotFoundError
from opencode_async.protocol.asks import Ask, kind_of, ruled
from opencode_async.protocol.events import AskAnswered
from opencode_async.protocol.permissions import Permissions
from opencode_async.turns.asks import DECIDED, Decide

DECIDE = 60.0  # s a host's hook may take; then a person is asked
# What an ask is decided by that is not a person's, beside what ``answered_by`` says.
RULES, NOBODY = "rules", "nobody"
LAST = 5.0  # s that what is under way may take once the turn is over


class Deciding:
    """The rules and the host's hook, and the tasks of one turn in which asks are taken care of."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        permissions: Permissions,
        decide: Decide | None,
        conversation: Callable[[], Awaitable[Any]],
        *,
        decided: Callable[[Ask, str], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.decided = decided
        self.failed = failed
        self._group = tasks
        self._permissions = permissions
        self._decide = decide
        self._conversation = conversation
        self._under_way: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Do that in a task of the turn's."""
        task = self._group.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def end(self) -> None:
        """Wait for what is under way, within a deadline."""
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=LAST)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    def ruled(self, ask: Ask) -> dict[str, Any] | None:
        """What the rules say to an ask that OpenCode raised all the same."""
        return ruled(ask, self._permissions)

    async def reply_to(self, ask: Ask) -> dict[str, Any] | None:
        """What the hook replies; ``None`` where a person is to be asked, also if it fails."""
        if self._decide is None:
            return None
        try:
            async with asyncio.timeout(DECIDE):
                decision = await self._decide(ask, await self._conversation())
            return decision.reply_to(kind_of(ask))
        except Exception as error:
            self.failed(error)
            return None


class Refusing:
    """The asks of a turn whose host has no table for them: decided, or refused at once."""

    def __init__(self, client: OpencodeClient, deciding: Deciding) -> None:
        self._client = client
        self._deciding = deciding
        self._taken: set[str] = set()

    async def asked(self, ask: Ask) -> None:
        """The agent waits for that."""
        if ask.id not in self._taken:
            self._taken.add(ask.id)
            self._deciding.begin(self._reply(ask))

    async def answered(self, answered: AskAnswered) -> None:
        """OpenCode has a reply: nobody is waiting to be told."""

    async def listed(self, asks: Sequence[Ask]) -> None:
        """These are all that OpenCode waits for."""
        for ask in asks:
            await self.asked(ask)

    def heed(self) -> None:
        """There are no rows to look at."""

    async def end(self) -> None:
        """Reply no more."""
        await self._deciding.end()

    async def _reply(self, ask: Ask) -> None:
        try:
            by = RULES
            if (reply := self._deciding.ruled(ask)) is None:
                by, reply = DECIDED, await self._deciding.reply_to(ask)
            if reply is None:
                by = NOBODY
                await self._client.dismiss(ask)
            else:
                await self._client.reply(ask.id, kind_of(ask), reply)
            self._deciding.decided(ask, by)
        except NotFoundError:
            pass  # its turn was over first
        except Exception as error:
            self._deciding.failed(error)
            self._taken.discard(ask.id)  # the next look at REST finds it again
