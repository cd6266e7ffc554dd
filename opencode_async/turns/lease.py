"""The row of a running turn: who runs it, what it holds so far, how it ends.

Every write is one compare-and-set on status and owner: a worker that lost its lease writes nothing.
Owners are random, so a claim is told from any other; the time is the database's.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine, Mapping
from typing import Any, Generic, Self, TypeVar

from sqlalchemy import ColumnElement, Update, update

from opencode_async.database import Sessions, locked
from opencode_async.database_time import database_time
from opencode_async.errors import LeaseHeld, LeaseLost, MessageNotFound
from opencode_async.models import PENDING, TERMINAL, MessageT
from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.protocol.exchange import Outcome

Returned = TypeVar("Returned")
FINAL = 10.0  # s a final write may still take once its task was cancelled


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

    @classmethod
    async def claim(
        cls, sessions: Sessions, kind: type[MessageT], key: object, seconds: float
    ) -> tuple[Self, MessageT]:
        """Claim a pending turn that nobody runs; the row as it then is.

        Raises ``LeaseHeld`` and ``MessageNotFound``; a row that is terminal comes back unclaimed.
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
        if not mine and row.status not in TERMINAL:
            raise LeaseHeld(key, row.lease_expires_at)
        return lease, row

    async def renew(self) -> str | None:
        """Hold on for another period; why the turn is to stop, if it is. Raises ``LeaseLost``."""
        return await self.store({"lease_expires_at": database_time(self._seconds)})

    async def store(self, values: Mapping[str, Any]) -> str | None:
        """Write columns of the running turn; why it is to stop, if it is. Raises ``LeaseLost``."""
        async with self._sessions.begin() as db:
            statement = self._mine().values(dict(values)).returning(self._kind.stop_requested)
            written = (await db.execute(statement)).first()
        if written is None:
            raise LeaseLost(self._key)
        reason: str | None = written[0]
        return reason

    async def release(self) -> None:
        """Give the lease back: a pending turn may be claimed at once, a terminal one is done with.

        Harmless once the lease is lost.
        """
        async with self._sessions.begin() as db:
            await db.execute(
                update(self._kind)
                .where(self._kind.id == self._key, self._kind.lease_owner == self.owner)
                .values({"lease_owner": None, "lease_expires_at": None})
                .execution_options(synchronize_session=False)
            )

    async def claim_unheard(self) -> bool:
        """Claim a terminal turn whose host was not told, because its worker died just then."""
        async with self._sessions.begin() as db:
            claimed = await db.execute(
                update(self._kind)
                .where(self._kind.id == self._key, self._kind.status.in_(TERMINAL))
                .where(self._kind.lease_expires_at < database_time())
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

    async def finalize(self, outcome: Outcome, values: Mapping[str, Any]) -> MessageT:
        """Make the row terminal, once; a stop requested before decides. Raises ``LeaseLost``.

        The lease is kept until ``release()``: while a terminal row has one, its host is being told.
        """
        async with self._sessions.begin() as db:
            row = await locked(db, self._kind, self._key)
            if row is None or row.status != PENDING or row.lease_owner != self.owner:
                raise LeaseLost(self._key)
            if row.stop_requested is not None:
                outcome = Outcome("cancelled", row.stop_requested)
            row.status = outcome.status
            row.finish = outcome.finish
            row.error_code = outcome.error.code if outcome.error else None
            row.error_text = outcome.error.message if outcome.error else None
            for name, value in values.items():
                setattr(row, name, value)
            await db.flush()
            await db.execute(
                update(self._kind)
                .where(self._kind.id == self._key)
                .values({"finished_at": database_time()})
                .execution_options(synchronize_session=False)
            )
            await db.refresh(row)
        return row

    def _mine(self) -> Update:
        return (
            update(self._kind)
            .where(self._kind.id == self._key, self._kind.status == PENDING)
            .where(self._kind.lease_owner == self.owner)
            .execution_options(synchronize_session=False)
        )


def unclaimed(kind: type[MessageT]) -> ColumnElement[bool]:
    """The criterion for rows that no live worker has claimed."""
    return kind.lease_owner.is_(None) | (kind.lease_expires_at < database_time())


async def despite_cancellation(
    write: Coroutine[Any, Any, Returned], report: ErrorReporter
) -> Returned:
    """Await a final write; a cancellation meanwhile waits for it, within a deadline."""
    task = asyncio.ensure_future(write)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=FINAL)
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            report(error, severity="warning", context={"during": "a final write"})
        raise
