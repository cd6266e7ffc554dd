"""A test suite that rolls back one connection, or keeps all rows in memory, is told what to do."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.pool import StaticPool

from opencode_async import Opencode, SharedConnection, Tables, TransactionOpen
from opencode_async.testing import ScriptedServer
from tests.support.hosts import Base, Conversation, Message, engine_for, host

ABSENT = "http://127.0.0.1:9"


async def refused(sessionmaker: async_sessionmaker[Any]) -> SharedConnection:
    """What an agent says that is started with it."""
    with pytest.raises(SharedConnection, match="delete the rows after each test") as error:
        async with Opencode(ABSENT, sessionmaker, Tables(Conversation, Message)):
            pass
    return error.value


@pytest.mark.parametrize("mode", ["conditional_savepoint", "create_savepoint", "control_fully"])
async def test_sessions_of_one_connection_are_refused(mode: Any, database_url: str) -> None:
    engine = engine_for(database_url)
    async with engine.connect() as connection:
        outer = await connection.begin()
        error = await refused(async_sessionmaker(connection, join_transaction_mode=mode))
        assert error.reason == "is bound to one connection, whose transaction another owns"
        await refused(async_sessionmaker(binds={Base: connection}))
        await outer.rollback()
    await engine.dispose()


@pytest.mark.parametrize("url", ["sqlite+aiosqlite://", "sqlite+aiosqlite:///:memory:"])
async def test_a_database_in_memory_is_refused(url: str) -> None:
    engine: AsyncEngine = create_async_engine(url)
    error = await refused(async_sessionmaker(engine))
    assert "StaticPool" in error.reason
    assert isinstance(error, TransactionOpen)
    await engine.dispose()


async def test_an_engine_that_keeps_one_connection_is_refused(database_url: str) -> None:
    engine = create_async_engine(database_url, poolclass=StaticPool)
    await refused(async_sessionmaker(engine))
    await engine.dispose()


async def test_a_turn_is_not_started_where_the_commit_is_not_the_end(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app:
        conversation = await app.conversation()
        async with app.engine.connect() as connection:
            outer = await connection.begin()
            options: Any = {"bind": connection, "join_transaction_mode": "create_savepoint"}
            async with app.sessions(**options) as db:
                with pytest.raises(SharedConnection, match="bound to one connection"):
                    await app.agent.turns.start(conversation, "SCRIPT:text Hi.", db=db)
            await outer.rollback()
        async with app.sessions() as db:
            assert await db.scalar(select(func.count()).select_from(Message)) == 0
