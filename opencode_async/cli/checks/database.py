"""The database: reachable, with the columns and indexes that the library relies on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import Connection, Table, inspect, select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from opencode_async.cli.checks.clocks import check_clock
from opencode_async.cli.checks.finding import Finding
from opencode_async.database_time import database_time
from opencode_async.models import LibraryRow
from opencode_async.tables import Tables

MIGRATE = "`alembic revision --autogenerate` sees what is missing; then `alembic upgrade head`"


async def check_database(
    sessionmaker: async_sessionmaker[AsyncSession], tables: Tables[Any, Any]
) -> AsyncIterator[Finding]:
    """Look at the tables and the settings; nothing is written."""
    try:
        async with sessionmaker() as db:
            connection = await db.connection()
            dialect = connection.dialect.name
            yield Finding("ok", f"{dialect} answers")
            for kind in tables.all:
                for finding in await connection.run_sync(_table, kind):
                    yield finding
            if dialect == "sqlite":
                for finding in await _sqlite(db):
                    yield finding
            else:
                yield _skew(await db.scalar(select(database_time())))
    except Exception as error:  # SQLAlchemy 2.0 passes on what asyncpg raises while connecting
        reason = str(getattr(error, "orig", None) or error) or type(error).__name__
        remedy = "look at the engine's URL, and whether the database runs"
        yield Finding("error", f"the database does not answer: {reason}", remedy)


def _table(connection: Connection, kind: type[LibraryRow]) -> list[Finding]:
    mapper = inspect(kind)
    table = cast(Table, mapper.local_table)
    name, schema = table.name, table.schema
    database = inspect(connection)
    if not database.has_table(name, schema=schema):
        return [Finding("error", f"there is no table {table}", MIGRATE)]
    there = {column["name"] for column in database.get_columns(name, schema=schema)}
    missing = [column.name for column in table.columns if column.name not in there]
    indexes = database.get_indexes(name, schema=schema)
    lacking = []
    for index in kind.indexes:
        columns = [mapper.columns[attribute].name for attribute in index.attributes]
        partial = f"{connection.dialect.name}_where" if index.status else None
        if not any(
            found["column_names"] == columns
            and bool(found["unique"]) == index.unique
            and (partial in found.get("dialect_options", {})) == (partial is not None)
            for found in indexes
        ):
            lacking.append(f"{name}_{index.suffix}")
    lacks = {"columns": missing, "indexes": lacking}
    findings = [
        Finding("error", f"{table} lacks the {what} {', '.join(names)}", MIGRATE)
        for what, names in lacks.items()
        if names
    ]
    return findings or [Finding("ok", f"{table} has its columns and indexes")]


async def _sqlite(db: AsyncSession) -> list[Finding]:
    mode = await db.scalar(text("PRAGMA journal_mode"))
    patience = await db.scalar(text("PRAGMA busy_timeout")) or 0
    remedy = "on each connection: `PRAGMA journal_mode = wal`, `PRAGMA busy_timeout = 10000`"
    findings = []
    if mode != "wal":
        findings.append(
            Finding("warning", f"journal_mode is {mode}: readers block writers", remedy)
        )
    if patience < 1000:
        what = f"busy_timeout is {patience} ms: two writers at once are an error"
        findings.append(Finding("warning", what, remedy))
    return findings or [Finding("ok", f"journal_mode is wal, busy_timeout {patience} ms")]


def _skew(now: datetime | None) -> Finding:
    ahead = (now - datetime.now(UTC)).total_seconds() if now else 0.0
    return check_clock(ahead, "leases are in the database's time")
