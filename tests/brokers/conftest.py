"""Brokers of two processes, as it were, on a real Valkey and a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from opencode_async.brokers.broker import EventBroker
from opencode_async.brokers.memory import MemoryBroker
from opencode_async.brokers.postgres import PostgresBroker
from opencode_async.brokers.redis import RedisBroker
from tests.support.brokers import Frames, with_frames
from tests.support.hosts import Reports
from tests.support.postgres import new_database


@pytest.fixture(params=["memory", "redis", "postgres"])
async def brokers(
    request: pytest.FixtureRequest,
) -> AsyncIterator[tuple[EventBroker, EventBroker]]:
    """Two that run, of the same kind and on the same server; memory's is one."""
    reports = Reports()
    async with AsyncExitStack() as stack:
        one: EventBroker
        other: EventBroker
        if request.param == "memory":
            one = other = MemoryBroker()
        elif request.param == "redis":
            url = request.getfixturevalue("valkey").url
            one, other = RedisBroker(url), RedisBroker(url)
        else:
            server = request.getfixturevalue("postgres_url")
            url = await stack.enter_async_context(new_database(server))
            engines = [await stack.enter_async_context(with_frames(url)) for _ in range(2)]
            one, other = (PostgresBroker(engine, Frames) for engine in engines)
        for broker in (one, other):
            await stack.enter_async_context(broker.running(reports))
        yield one, other
    assert reports.errors == []
