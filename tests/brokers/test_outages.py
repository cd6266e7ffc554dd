"""Brokers whose server hangs, dies and comes back: publishing never waits, followers are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import pytest

from opencode_async.brokers import shared
from opencode_async.brokers.broker import CursorExpired, Feed, Frame
from opencode_async.brokers.postgres import PostgresBroker
from opencode_async.brokers.redis import RedisBroker
from opencode_async.brokers.shared import SharedBroker
from opencode_async.testing.event_brokers import frames, must_read, must_wake
from tests.support.brokers import Frames, with_frames
from tests.support.hosts import Reports
from tests.support.postgres import new_database, private_server
from tests.support.valkey import valkey_server


@dataclass
class Shared:
    """Two brokers on one server, and what becomes of that."""

    one: SharedBroker
    other: SharedBroker
    dies: Callable[[], None]
    comes_back: Callable[[], None]
    reports: Reports

    alive: bool = True

    async def loses_its_server(self) -> None:
        self.alive = False
        await asyncio.to_thread(self.dies)

    async def has_it_back(self) -> None:
        if not self.alive:
            await asyncio.to_thread(self.comes_back)
        self.alive = True


@asynccontextmanager
async def on_redis() -> AsyncIterator[Shared]:
    with valkey_server() as server:
        one, other, reports = RedisBroker(server.url), RedisBroker(server.url), Reports()
        async with one.running(reports), other.running(reports):
            yield Shared(one, other, server.kill, server.start, reports)


@asynccontextmanager
async def on_postgres() -> AsyncIterator[Shared]:
    with private_server() as (server, server_url):
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(new_database(server_url))
            engines = [await stack.enter_async_context(with_frames(url)) for _ in range(2)]
            one, other = (PostgresBroker(engine, Frames) for engine in engines)
            reports = Reports()
            for broker in (one, other):
                await stack.enter_async_context(broker.running(reports))
            yield Shared(one, other, server.crash, server.start, reports)


@pytest.fixture(params=[on_redis, on_postgres], ids=["redis", "postgres"])
async def brokers(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shared]:
    monkeypatch.setattr(shared, "AGAIN", 0.2)
    async with request.param() as brokers:
        for broker in (brokers.one, brokers.other):
            await broker._bell.connected.wait()
        yield brokers
        await brokers.has_it_back()


async def comes_to_life(feed: Feed, alive: bool) -> None:
    """Wait until the feed says that it can be relied upon, or that it cannot."""
    async with asyncio.timeout(10):
        while feed.live is not alive:
            await feed.batch(60)


async def expires(feed: Feed) -> None:
    """Wait for the answer that frames are missing; no frame comes before."""
    with suppress(CursorExpired):
        async with asyncio.timeout(10):
            while True:
                assert await feed.batch(60) == []


async def test_followers_are_told_of_an_outage_and_then_hear_what_comes(brokers: Shared) -> None:
    async with brokers.other.follow("m", 1, 0) as feed:
        await brokers.one.publish("m", 1, frames("m", 1, 5), stored=0)
        await must_read(feed, 1, 5)
        assert feed.live
        await brokers.loses_its_server()
        await comes_to_life(feed, False)
        await brokers.one.publish("m", 1, frames("m", 6, 9), stored=0)
        await brokers.has_it_back()
        await comes_to_life(feed, True)
        # 6 to 9 were lost, and nobody pretends otherwise. The first ones behind may be, too.
        expired = asyncio.ensure_future(expires(feed))
        seq = 10
        while not expired.done():
            await brokers.one.publish("m", 1, frames("m", seq, seq), stored=9)
            seq += 1
            await asyncio.wait([expired], timeout=0.2)
        expired.result()
    async with brokers.other.follow("m", 1, seq) as feed:
        await brokers.one.publish("m", 1, frames("m", seq + 1, seq + 2), stored=9)
        await must_read(feed, seq + 1, seq + 2)
    kinds = {type(error).__name__ for error in brokers.reports.errors}
    assert kinds  # and of each kind of trouble one report, not one a second
    assert len(brokers.reports.errors) <= 6


async def test_publishing_does_not_wait_for_a_server_that_is_gone(brokers: Shared) -> None:
    async with brokers.one.follow("m", 1, 0) as near:
        await brokers.loses_its_server()
        began = time.monotonic()
        for seq in range(1, 20_001):
            await brokers.one.publish("m", 1, frames("m", seq, seq), stored=0)
        await brokers.one.end("n", 1)
        assert time.monotonic() - began < 5
        await must_read(near, 1, 20_000)  # who follows in the same process needs no server
        assert near.live


async def test_what_waits_for_a_server_is_bounded(
    brokers: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "WAITING", 100)
    await brokers.loses_its_server()
    for seq in range(1, 1001):
        await brokers.one.publish("m", 1, frames("m", seq, seq), stored=0)
        assert len(brokers.one._entries) <= 101
    monkeypatch.setattr(shared, "WAITING_SIZE", 10_000)
    for seq in range(1001, 1101):
        await brokers.one.publish("m", 1, [Frame("m", seq, "snapshot", "x" * 1000)], stored=0)
        assert brokers.one._size <= 11_000


async def test_following_does_not_wait_for_a_server_that_is_gone(brokers: Shared) -> None:
    await brokers.loses_its_server()
    async with asyncio.timeout(5), brokers.other.follow("m", 1, 0) as feed:
        assert not feed.live


async def test_news_is_heard_again(brokers: Shared) -> None:
    async with brokers.other.follow("news", 0, 0) as feed:
        await brokers.loses_its_server()
        await must_wake(feed, "the loss")
        await brokers.has_it_back()
        await must_wake(feed, "the connection")
        await brokers.one.publish("news", 0, [], stored=0)
        await must_wake(feed, "news")


async def test_a_redis_that_hangs_holds_nobody_up() -> None:
    reports = Reports()
    with valkey_server() as server:
        one, other = RedisBroker(server.url), RedisBroker(server.url)
        async with (
            one.running(reports),
            other.running(reports),
            other.follow("m", 1, 0) as feed,
        ):
            await one.publish("m", 1, frames("m", 1, 2), stored=0)
            await must_read(feed, 1, 2)
            server.pause()
            began = time.monotonic()
            for seq in range(3, 1000):
                await one.publish("m", 1, frames("m", seq, seq), stored=0)
            assert time.monotonic() - began < 1
            server.go_on()
            await must_read(feed, 3, 999)
    assert reports.errors == []
