"""The library's manners with a host's database.

Row locks guard decisions, never the network: transactions here are short, and none is open while
anything but the database is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from sqlalchemy import BigInteger, Engine, Integer, SmallInteger, select, update
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import InstanceState, SessionTransactionOrigin, lazyload
from sqlalchemy.pool import StaticPool

from opencode_async.errors import SharedConnection, TransactionOpen, UsageError
from opencode_async.models import LibraryRow
from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.protocol.wire import clean

Sessions = async_sessionmaker[AsyncSession]
# The narrower types are kinds of Integer, so it comes last.
SIZES = ((BigInteger, 63), (SmallInteger, 15), (Integer, 31))
RowT = TypeVar("RowT", bound=LibraryRow)
Returned = TypeVar("Returned")
FINAL = 10.0  # s a final write may still take once its task was cancelled


async def locked(db: AsyncSession, kind: type[RowT], key: object) -> RowT | None:
    """The row as it is now, locked until the transaction ends; to be its first statement.

    SQLite ignores ``FOR UPDATE``; there an update that changes nothing takes the write lock.
    """
    if db.get_bind().dialect.name == "sqlite":
        await db.execute(
            update(kind)
            .where(kind.id == key)
            .values({"id": kind.id})
            .execution_options(synchronize_session=False)
        )
    # Of this table alone, and without what the host loads along: PostgreSQL locks no outer join.
    query = select(kind).where(kind.id == key).options(lazyload("*")).with_for_update(of=kind)
    return await db.scalar(query.execution_options(populate_existing=True))


def sessions_of(sessionmaker: Sessions) -> Sessions:
    """The host's factory for the library's own use: rows stay readable behind the commit."""
    options = {**sessionmaker.kw, "expire_on_commit": False}
    return async_sessionmaker(class_=sessionmaker.class_, **options)


def sessions_beside(db: AsyncSession, kind: type[LibraryRow]) -> Sessions:
    """A factory of short sessions on the database of ``db``; raises ``SharedConnection``."""
    return async_sessionmaker(AsyncEngine(engine_of(db, kind)), expire_on_commit=False)


def engine_of(db: AsyncSession, kind: type[LibraryRow]) -> Engine:
    """The engine that ``db`` takes a connection of its own from.

    Raises ``SharedConnection`` where it has the same one as other sessions. What these do at once
    then fails, or is rolled back with what another does (SQLite, asyncpg: measured).
    """
    bind = db.sync_session.get_bind(mapper=sa_inspect(kind))
    if not isinstance(bind, Engine):
        raise SharedConnection("is bound to one connection, whose transaction another owns")
    if isinstance(bind.pool, StaticPool):
        raise SharedConnection("has the one connection of a StaticPool, as :memory: has")
    return bind


async def release(db: AsyncSession) -> None:
    """Commit ``db`` so that it holds no connection; raises ``TransactionOpen`` if it must not."""
    sync = db.sync_session
    transaction = sync.get_transaction()
    if transaction is not None and transaction.origin is not SessionTransactionOrigin.AUTOBEGIN:
        raise TransactionOpen("is in a transaction that was begun explicitly")
    if db.in_nested_transaction():
        raise TransactionOpen("is in a savepoint")
    if sync.new or sync.dirty or sync.deleted:
        raise TransactionOpen("has changes that were not flushed")
    await db.commit()


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


def is_away(error: BaseException) -> bool:
    """Whether the database could not be reached, rather than refused what it was asked."""
    away = (OperationalError, InterfaceError, InternalError, PoolTimeout)
    refused = (ConnectionError, TimeoutError)  # other kinds of OSError are of files
    if isinstance(error, (*away, *refused)) or type(error) is OSError:
        return True
    if getattr(error, "connection_invalidated", False):
        return True
    # Shut down, starting up, out of connections: asyncpg has no kind of its own for it, and while
    # connecting SQLAlchemy passes on what it raises.
    state = getattr(getattr(error, "orig", error), "sqlstate", None)
    return isinstance(state, str) and state.startswith(("08", "53", "57P"))


def key_of(row: LibraryRow) -> Any:
    """The primary key of a stored row, without touching the database (it may be expired)."""
    state: InstanceState[Any] = sa_inspect(row)
    if state.identity is None:
        raise UsageError(f"this {type(row).__name__} is not stored yet: add and commit it first")
    return state.identity[0]


def as_key(kind: type[LibraryRow], key: Any) -> Any:
    """The key as the column has it, also from its string, as job queues and URLs carry it.

    What cannot be a key comes back as ``None``, which no row has.
    """
    return parsed_key(kind, key) if isinstance(key, str) else key


def key_type(kind: type[LibraryRow]) -> type[Any] | None:
    """The Python type of the class's keys; ``None`` if the column's type does not tell."""
    column = sa_inspect(kind).columns["id"].type
    for candidate in (column, getattr(column, "impl_instance", None)):
        if candidate is None:
            continue
        try:
            found: type[Any] = candidate.python_type
        except NotImplementedError:
            continue
        if found is not object:
            return found
    return None


def parsed_key(kind: type[LibraryRow], text: str) -> Any | None:
    """The primary key in a string, as the column's type has it; ``None`` if it cannot be one."""
    try:
        key = (key_type(kind) or str)(text)
    except (ValueError, TypeError):
        return None
    # int(" 7 ") and UUID("{…}") read what str() never wrote: one key has one spelling.
    if str(key) != text or clean(text) != text:
        return None
    column = sa_inspect(kind).columns["id"].type
    limit = next((2**bits for size, bits in SIZES if isinstance(column, size)), None)
    return None if limit and not -limit <= key < limit else key
