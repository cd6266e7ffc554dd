"""A real PostgreSQL for the tests, and databases in it."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from examples.scaled.parts import postgres
from examples.scaled.parts.postgres import KEEPING
from examples.scaled.parts.postgres import PostgresServer as PostgresServer
from tests.support.parts import skipped_where_missing

FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=300")


@contextmanager
def postgres_server() -> Iterator[str]:
    """The SQLAlchemy URL of a database server, the one of TEST_POSTGRES_URL if that is set.

    Otherwise one is started (0.6 s) and, at the end, removed with all its files.
    """
    if given := os.environ.get("TEST_POSTGRES_URL"):
        yield given
        return
    with private_server(FAST) as (_, url):
        yield url


@contextmanager
def private_server(settings: Sequence[str] = KEEPING) -> Iterator[tuple[PostgresServer, str]]:
    """A database server to stop, to crash and to start again, and its SQLAlchemy URL."""
    with skipped_where_missing(), postgres.private_server(settings) as server:
        yield server


@asynccontextmanager
async def new_database(server_url: str) -> AsyncIterator[str]:
    """The URL of an empty database on that server; it is dropped at the end (together 50 ms)."""
    name = f"test_{secrets.token_hex(8)}"
    await execute(server_url, f"CREATE DATABASE {name} TEMPLATE template1")
    try:
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
    finally:
        await execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


async def execute(url: str, statement: str) -> None:
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.execute(text(statement))
