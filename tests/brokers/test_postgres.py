"""What the broker has in PostgreSQL: an unlogged table, one connection, few notifications."""

from __future__ import annotations

import asyncio
import json

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from opencode_async.brokers import postgres
from opencode_async.brokers.journal import decoded, encoded
from opencode_async.brokers.postgres import PostgresBroker
from opencode_async.testing.event_brokers import frames, must_read, must_wake
from tests.support.brokers import Base, Frames, with_frames
from tests.support.hosts import Reports

PERSISTENCE = "SELECT relpersistence FROM pg_class WHERE relname = 'agent_frames'"
LISTENING = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'
"""


async def scalar(engine: AsyncEngine, query: str) -> object:
    async with engine.connect() as connection:
        return await connection.scalar(text(query))


async def test_the_table_is_unlogged_and_migrations_find_nothing_to_do(
    postgres_database: str,
) -> None:
    async with with_frames(postgres_database) as engine:
        assert await scalar(engine, PERSISTENCE) == b"u"
        async with engine.connect() as connection:
            differences = await connection.run_sync(
                lambda sync: compare_metadata(MigrationContext.configure(sync), Base.metadata)
            )
    assert differences == []


def test_other_databases_have_the_table_too() -> None:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    engine.dispose()


async def test_one_connection_listens_and_goes_with_the_broker(postgres_database: str) -> None:
    async with with_frames(postgres_database) as engine:
        broker = PostgresBroker(engine, Frames)
        async with broker.running(Reports()):
            await broker._bell.connected.wait()
            assert await scalar(engine, LISTENING) == 1
            assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            while await scalar(engine, LISTENING):  # noqa: ASYNC110
                await asyncio.sleep(0)


async def test_old_frames_are_deleted(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "SWEEP", 0.0)
    reports = Reports()
    async with with_frames(postgres_database) as engine:
        broker = PostgresBroker(engine, Frames)
        async with broker.running(reports), broker.follow("new", 1, 0):
            await broker.publish("old", 1, frames("old", 1, 10), stored=0)
        async with engine.begin() as connection:
            await connection.execute(
                text("UPDATE agent_frames SET created_at = created_at - interval '11 minutes'")
            )
        async with broker.running(reports):
            await broker.publish("new", 1, frames("new", 1, 10), stored=0)
        assert await scalar(engine, "SELECT string_agg(topic, ',') FROM agent_frames") == "new"
    assert reports.errors == []


async def test_without_a_connection_that_listens_the_table_is_looked_at(
    postgres_database: str,
) -> None:
    """As behind PgBouncer, whose transaction mode passes no notifications on."""
    near, far = Reports(), Reports()
    nobody = create_async_engine("postgresql+asyncpg://nobody:x@127.0.0.1:1/nowhere")
    async with with_frames(postgres_database) as engine:
        one = PostgresBroker(engine, Frames)
        other = PostgresBroker(engine, Frames, listen_on=nobody)
        async with one.running(near), other.running(far), other.follow("m", 1, 0) as feed:
            await one.publish("m", 1, frames("m", 1, 10), stored=0)
            await must_read(feed, 1, 10)
            assert not feed.live  # so followers look at the row meanwhile
    assert near.errors == []
    assert len(far.errors) == 1


async def test_a_thousand_topics_fit_into_notifications(postgres_database: str) -> None:
    reports = Reports()
    async with with_frames(postgres_database) as engine:
        one, other = PostgresBroker(engine, Frames), PostgresBroker(engine, Frames)
        async with one.running(reports), other.running(reports):
            await other._bell.connected.wait()
            name = "ü" * 100
            async with other.follow(f"{name}999", 0, 0) as news:
                for number in range(1000):
                    await one.publish(f"{name}{number}", 0, [], stored=0)
                await must_wake(news, "the last of a thousand")
    assert reports.errors == []


def test_pieces_of_what_rings_have_a_limit_and_lose_nothing() -> None:
    topics = [f'"{number}" — \n {"x" * (number % 300)}' for number in range(1000)]
    pieces = list(encoded([], topics, most=7900))
    assert all(len(piece.encode()) <= 7900 for piece in pieces)
    assert len(pieces) > 10
    found: dict[str, bool] = {}
    for piece in pieces:
        found |= decoded(piece)
    assert found == dict.fromkeys(topics, True)
    assert list(encoded([], [], most=10)) == []
    assert json.loads(next(encoded([], ["a"], most=1))) == {"a": 1}
