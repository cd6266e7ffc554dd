"""The library's manners with a host's database.

Row locks guard decisions, never the network: transactions here are short, and none is open while
anything but the database is waited for.
"""

from __future__ import annotations

from typing import Any, TypeVar

from sqlalchemy import Engine, update
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import InstanceState, SessionTransactionOrigin

from opencode_async.errors import TransactionOpen, UsageError
from opencode_async.models import LibraryRow

Sessions = async_sessionmaker[AsyncSession]
RowT = TypeVar("RowT", bound=LibraryRow)


async def locked(db: AsyncSession, kind: type[RowT], key: object) -> RowT | None:
    """The row as it is now, locked until the transaction ends; it must be the first statement in
    it.

    SQLite ignores ``FOR UPDATE``; there an update that changes nothing takes the write lock.
    """
    if db.get_bind().dialect.name == "sqlite":
        await db.execute(
            update(kind)
            .where(kind.id == key)
            .values({"id": kind.id})
            .execution_options(synchronize_session=False)
        )
    return await db.get(kind, key, with_for_update=True, populate_existing=True)


def sessions_of(sessionmaker: Sessions) -> Sessions:
    """The host's factory for the library's own use: rows stay readable behind the commit."""
    options = {**sessionmaker.kw, "expire_on_commit": False}
    return async_sessionmaker(class_=sessionmaker.class_, **options)


def sessions_beside(db: AsyncSession, kind: type[LibraryRow]) -> Sessions:
    """A factory of short sessions on the database of ``db``; raises ``TransactionOpen``."""
    bind = db.sync_session.get_bind(mapper=sa_inspect(kind))
    if not isinstance(bind, Engine):
        raise TransactionOpen("is bound to one connection, whose transaction another owns")
    return async_sessionmaker(AsyncEngine(bind), expire_on_commit=False)


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


def key_of(row: LibraryRow) -> Any:
    """The primary key of a stored row, without touching the database (it may be expired)."""
    state: InstanceState[Any] = sa_inspect(row)
    if state.identity is None:
        raise UsageError(f"this {type(row).__name__} is not stored yet: add and commit it first")
    return state.identity[0]


def parsed_key(kind: type[LibraryRow], text: str) -> Any | None:
    """The primary key in a string, as the column's type has it; ``None`` if it cannot be one."""
    python_type = sa_inspect(kind).columns["id"].type.python_type
    try:
        key = python_type(text)
    except (ValueError, TypeError):
        return None
    # int(" 7 ") and UUID("{…}") read what str() never wrote: one key has one spelling.
    if str(key) != text or (isinstance(key, int) and not -(2**63) <= key < 2**63):
        return None
    return key
