"""Brokers that processes of a test share, from what a job says of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from opencode_async import EventBroker
from opencode_async.brokers.postgres import FramesMixin, PostgresBroker
from opencode_async.brokers.redis import RedisBroker

Job = tuple[Literal["redis", "postgres"], str] | None


class Base(DeclarativeBase):
    pass


class Frames(FramesMixin, Base):
    __tablename__ = "agent_frames"


@asynccontextmanager
async def with_frames(url: str) -> AsyncIterator[AsyncEngine]:
    """An engine on a database that has the table."""
    engine = create_async_engine(url, pool_pre_ping=True)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def broker_of(job: Job) -> AsyncIterator[EventBroker | None]:
    """The broker of this process: on a Redis URL, or on the database of that URL."""
    match job:
        case None:
            yield None
        case "redis", url:
            yield RedisBroker(url)
        case _, url:
            async with with_frames(url) as engine:
                yield PostgresBroker(engine, Frames)
