"""The row of a running turn: who runs it, what it holds so far, how it ends.

Every write is one compare-and-set on status and owner: a worker that lost its lease writes nothing.
Owners are random, so a claim is told from any other; the time is the database's.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Generic, Self

from sqlalchemy import ColumnElement, Executable, bindparam, case, func, select, update
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import ReturningUpdate

from opencode_async.database import Sessions, locked
from opencode_async.database_time import database_time
from opencode_async.errors import LeaseHeld, LeaseLost, MessageNotFound, TurnQueued
from opencode_async.models import (
    PENDING,
    QUEUED,
    TERMINAL,
    AskMixin,
    ConversationMixin,
    MessageMixin,
    MessageT,
)
from opencode_async.protocol.exchange import Outcome
from opencode_async.protocol.limits import stopped
from opencode_async.turns.asks import close_asks
from opencode_async.turns.queue import promote, unclaimed

# What statements are given. SQLAlchemy takes the name of a column for what is written to it, and
# the table is the host's.
KEY, OWNER, NEW = "opencode_key", "opencode_owner", "opencode_new_"


class Lease(Generic[MessageT]):
    """The right to run one turn, until it runs out or another worker takes it."""

    def __init__(
        self, sessions: Sessions, kind: type[MessageT], key: object, seconds: float
    ) -> None:
        self.owner = uuid.uuid4().hex
        self._sessions = sessions
        self._kind = kind
        self._key = key
        self._seconds = seconds
        self._now = asyncio.get_running_loop().time
        self._holds_until = self._now() + seconds
        self._told = False

    @property
    def may_be_over(self) -> bool:
        """Whether it ran out unless renewed, as where this process was stopped for a while."""
        return self._now() > self._holds_until

    @classmethod
    async def claim(
        cls, sessions: Sessions, kind: type[MessageT], key: object, seconds: float
    ) -> tuple[Self, MessageT]:
        """Claim a pending turn that nobody runs; the row as it then is.

        Raises ``LeaseHeld``, ``TurnQueued`` and ``MessageNotFound``; a row that is terminal comes
        back unclaimed.
        """
        lease = cls(sessions, kind, key, seconds)
        async with sessions.begin() as db:
            claimed = await db.execute(
                update(kind)
                .where(kind.id == key, kind.status == PENDING, unclaimed(kind))
                .values(
                    {
                        "lease_owner": lease.owner,
                        "lease_expires_at": database_time(seconds),
                        "epoch": kind.epoch + 1,
                        "cursor": 0,
                    }
                )
                .returning(kind.id)
                .execution_options(synchronize_session=False)
            )
            mine = claimed.first() is not None
            row = await db.get(kind, key)
        if row is None:
            raise MessageNotFound(key)
        if row.status == QUEUED:
            raise TurnQueued(key)
        if not mine and row.status not in TERMINAL:
            raise LeaseHeld(key, row.lease_expires_at)
        return lease, row

    async def locked_row(self, db: AsyncSession) -> MessageT:
        """The row of the running turn, locked until the transaction ends. Raises ``LeaseLost``."""
        row = await locked(db, self._kind, self._key)
        if row is None or row.status != PENDING or row.lease_owner != self.owner:
            raise LeaseLost(self._key)
        return row

    async def renew(self) -> str | None:
        """Hold on for another period; why the turn is to stop, if it is. Raises ``LeaseLost``."""
        asked = self._now()
        reason = await self._written(renewal(self._kind, self._seconds), {})  # type: ignore[arg-type]
        self._holds_until = asked + self._seconds
        return reason

    async def request_stop(self, reason: str) -> None:
        """Have the turn stopped for that reason, unless it is for another. Raises ``LeaseLost``."""
        stop = {"stop_requested": func.coalesce(self._kind.stop_requested, reason)}
        await self._written(owned_update(self._kind, stop, pending=True), {})

    async def store(self, values: Mapping[str, Any]) -> str | None:
        """Write columns of the running turn; why it is to stop, if it is. Raises ``LeaseLost``."""
        new = {f"{NEW}{name}": value for name, value in values.items()}
        statement = writing(self._kind, tuple(values))  # type: ignore[arg-type]
        return await self._written(statement, new)

    async def release(self) -> bool:
        """Give the lease back, to be claimed at once: the turn, or the telling of its host.

        Whether there was one to give back: not once it is lost, or the host was told.
        """
        if self._told:
            return False
        # An expiry says of a terminal row that its host is yet to be told.
        until = case((self._kind.status == PENDING, None), else_=database_time())
        return await self._given_up(until)

    async def told(self) -> None:
        """The turn's host was told how it ended: nobody need claim it any more."""
        await self._given_up(None)
        self._told = True

    async def claim_unheard(self) -> bool:
        """Claim a terminal turn whose host was not told, because its worker went just then."""
        async with self._sessions.begin() as db:
            claimed = await db.execute(
                update(self._kind)
                .where(self._kind.id == self._key, self._kind.status.in_(TERMINAL))
                .where(self._kind.lease_expires_at.is_not(None), unclaimed(self._kind))
                .values(
                    {
                        "lease_owner": self.owner,
                        "lease_expires_at": database_time(self._seconds),
                    }
                )
                .returning(self._kind.id)
                .execution_options(synchronize_session=False)
            )
            return claimed.first() is not None

    async def finalize(
        self,
        outcome: Outcome,
        values: Mapping[str, Any],
        conversations: type[ConversationMixin],
        conversation_id: object,
        asks: type[AskMixin] | None,
    ) -> tuple[MessageT, Any]:
        """Make the row terminal, once; a stop requested before decides. Raises ``LeaseLost``.

        Gives the row, and the key of the queued turn that is next, which is now the live one. The
        lease is kept until the host was ``told()``.
        """
        async with self._sessions.begin() as db:
            await locked(db, conversations, conversation_id)
            row = await self.locked_row(db)
            if row.stop_requested is not None:
                outcome = stopped(row.stop_requested)
            row.status = outcome.status
            row.finish = outcome.finish
            row.error_code = outcome.error.code if outcome.error else None
            row.error_text = outcome.error.message if outcome.error else None
            row.finished_at = database_time()
            for name, value in values.items():
                setattr(row, name, value)
            await db.flush()
            if asks is not None:
                await db.execute(close_asks(asks, self._key))
            following = await promote(db, self._kind, conversation_id, self._seconds / 10)
            await db.refresh(row)
        return row, following

    async def _written(self, statement: Executable, new: Mapping[str, Any]) -> str | None:
        """Execute an ``owned_update``; the row's ``stop_requested``. Raises ``LeaseLost``."""
        whose = {KEY: self._key, OWNER: self.owner}
        async with self._sessions.begin() as db:
            connection = await db.connection(bind_arguments={"mapper": self._kind})
            written = (await connection.execute(statement, {**whose, **new})).first()
        if written is None:
            raise LeaseLost(self._key)
        reason: str | None = written[0]
        return reason

    async def _given_up(self, until: ColumnElement[Any] | None) -> bool:
        """Own the row no more; whether it was this lease's, which a row that is erased is not."""
        values = {"lease_owner": None, "lease_expires_at": until}
        try:
            await self._written(owned_update(self._kind, values, pending=False), {})
        except LeaseLost:
            return False
        return True


@lru_cache
def renewal(kind: type[MessageMixin], seconds: float) -> Executable:
    """The ``owned_update`` that holds on to a lease for so many seconds more."""
    return owned_update(kind, {"lease_expires_at": database_time(seconds)}, pending=False)


@lru_cache
def writing(kind: type[MessageMixin], names: tuple[str, ...]) -> Executable:
    """The ``owned_update`` of a running turn's columns, each to what is bound as ``NEW<name>``."""
    return owned_update(kind, {name: bindparam(f"{NEW}{name}") for name in names}, pending=True)


def owned_update(
    kind: type[MessageMixin], values: Mapping[str, Any], *, pending: bool
) -> Executable:
    """Writes these columns of the row ``KEY`` if it is still that ``OWNER``'s.

    A statement of the table, not of the class: many turns write every second, and to make one of
    the class and to compile it for its session takes four times longer than to execute it. Those of
    running turns are made once for all of them.
    """
    mapper = sa_inspect(kind)
    columns = mapper.columns
    owned = [
        columns["id"] == bindparam(KEY),
        columns["lease_owner"] == bindparam(OWNER),
    ]
    if pending:
        owned.append(columns["status"] == PENDING)
    return (
        update(mapper.local_table)
        .where(*owned)
        .values({columns[name]: value for name, value in values.items()})
        .returning(columns["stop_requested"])
    )


def mark_lost(kind: type[MessageMixin], seconds: float) -> ReturningUpdate[Any]:
    """Marks every turn that nobody runs although somebody should for so long; gives their keys."""
    expired = kind.lease_expires_at < database_time()
    # A row nobody has claimed yet is probably on its way to its first worker.
    late = (kind.epoch > 0) | (kind.created_at < database_time(-seconds))
    unheld = expired | (kind.lease_expires_at.is_(None) & late)
    pending = (kind.status == PENDING) & kind.prompt_id.is_not(None) & unheld
    untold = kind.status.in_(TERMINAL) & expired
    # Row by row in one order, and without those that another worker is looking at just now.
    found = select(kind.id).where(pending | untold).order_by(kind.id)
    return (
        update(kind)
        .where(kind.id.in_(found.with_for_update(skip_locked=True)))
        .values({"lease_owner": None, "lease_expires_at": database_time(seconds)})
        .returning(kind.id)
        .execution_options(synchronize_session=False)
    )
