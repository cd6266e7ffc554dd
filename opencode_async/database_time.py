"""The database's own clock: leases of several workers are compared on one clock, not on theirs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import DateTime, Double, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class database_time(FunctionElement[datetime]):
    """The time now, or in ``seconds`` from now (negative: ago), as an SQL expression.

    PostgreSQL: ``clock_timestamp()``, because ``now()`` stands still within a transaction.
    SQLite: ``strftime`` to the millisecond in UTC, in the format SQLAlchemy stores times in.
    """

    name = "database_time"
    type = DateTime(timezone=True)
    # The offset is bound, not part of the SQL text: a statement is compiled once for all of them.
    inherit_cache = True

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(*([literal(float(seconds), Double)] if seconds else []))


@compiles(database_time, "postgresql")
def _postgresql(element: database_time, compiler: SQLCompiler, **kwargs: Any) -> str:
    if not element.clauses.clauses:
        return "clock_timestamp()"
    seconds = compiler.process(element.clauses, **kwargs)
    return f"clock_timestamp() + make_interval(secs => {seconds})"


@compiles(database_time, "sqlite")
def _sqlite(element: database_time, compiler: SQLCompiler, **kwargs: Any) -> str:
    if not element.clauses.clauses:
        return "strftime('%Y-%m-%d %H:%M:%f', 'now', '0.0 seconds')"
    seconds = compiler.process(element.clauses, **kwargs)
    return f"strftime('%Y-%m-%d %H:%M:%f', 'now', printf('%+f seconds', {seconds}))"
