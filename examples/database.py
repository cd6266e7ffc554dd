"""The engine that the examples have: PostgreSQL as it comes, SQLite as an agent needs it."""

from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

# Readers and writers let each other be; a commit need not wait for the disk; writers queue.
PRAGMAS = (
    "journal_mode = wal",
    "synchronous = normal",
    "busy_timeout = 10000",
    "foreign_keys = on",
)


def create_engine(url: str) -> AsyncEngine:
    """An engine for the URL; each connection to SQLite is given the PRAGMAs."""
    engine = create_async_engine(url)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine.sync_engine, "connect")
        def configure(connection: Any, record: object) -> None:
            for pragma in PRAGMAS:
                connection.execute(f"PRAGMA {pragma}").close()

    return engine
