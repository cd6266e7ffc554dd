"""The database's own clock: leases of several workers are compared on one clock, not on theirs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import DateTime
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
    # The offset is part of the SQL text, so expressions with different ones must not share a cache.
    inherit_cache = False

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = float(seconds)


@compiles(database_time, "postgresql")
def _postgresql(element: database_time, compiler: SQLCompiler, **kwargs: Any) -> str:
    if not element.seconds:
        return "clock_timestamp()"
    return f"clock_timestamp() + make_interval(secs => {element.seconds!r})"


@compiles(database_time, "sqlite")
def _sqlite(element: database_time, compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"strftime('%Y-%m-%d %H:%M:%f', 'now', '{element.seconds!r} seconds')"
