"""What a turn may spend: what is left of its conversation's budget, and what its host allows."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic

from sqlalchemy import select

from opencode_async.database import Sessions, key_of
from opencode_async.models import ConversationT, MessageMixin
from opencode_async.session import Session

MaySpend = Callable[[ConversationT, float], Awaitable[bool]]
ANSWER = 60.0  # s a host's hook may take


async def left_of(budget: float, row: MessageMixin, sessions: Sessions) -> float:
    """What the other turns of the row's conversation have left of a budget."""
    kind = type(row)
    others = select(kind.cost).where(
        kind.conversation_id == row.conversation_id, kind.id != key_of(row), kind.cost > 0
    )
    async with sessions() as db:
        costs = (await db.scalars(others)).all()
    return math.fsum([budget, *(-cost for cost in costs)])


class Spending(Generic[ConversationT]):
    """Asks the host's hook, beside the stream, one question at a time, and only about more money.

    ``refused`` is called where the host says no, ``failed`` with the error of a hook that raised
    or took too long: it stops nothing, and is asked again when more was spent.
    """

    def __init__(
        self,
        may_spend: MaySpend[ConversationT] | None,
        session: Session[ConversationT],
        *,
        refused: Callable[[], Awaitable[None]],
        failed: Callable[[Exception], None],
    ) -> None:
        self._may_spend = may_spend
        self._session = session
        self._refused = refused
        self._failed = failed
        self._spent = self._asked = -math.inf
        self._ask: Callable[[], asyncio.Task[None]] | None = None
        self._asking: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def watched(self, tasks: asyncio.TaskGroup) -> AsyncIterator[None]:
        """While the block lasts the host may be asked, in tasks of that group."""
        if (may_spend := self._may_spend) is not None:
            conversation = await self._session.row()
            self._ask = lambda: tasks.create_task(self._questions(may_spend, conversation))
        try:
            yield
        finally:
            self.close()
            await self.settled()

    def close(self) -> None:
        """Ask no more: the turn is over, or is to stop."""
        self._ask = None
        if self._asking is not None:
            self._asking.cancel()  # perhaps by its own refusal: it is at its end then

    def grown(self, spent: float) -> None:
        """So much was spent: have the host asked, behind what it is being asked just now."""
        self._spent = spent
        if self._ask is not None and (self._asking is None or self._asking.done()):
            self._asking = self._ask()

    async def settled(self) -> None:
        """Wait for the answer to what the host is being asked."""
        if self._asking is not None:
            await asyncio.wait([self._asking])

    async def _questions(
        self, may_spend: MaySpend[ConversationT], conversation: ConversationT
    ) -> None:
        while self._spent > self._asked:
            self._asked = self._spent
            try:
                async with asyncio.timeout(ANSWER):
                    allowed = await may_spend(conversation, self._asked)
            except Exception as error:
                self._failed(error)
            else:
                if not allowed:
                    await self._refused()
