"""What the broker leaves in Redis, and whose clients it works with."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from opencode_async.brokers import redis, shared
from opencode_async.brokers.broker import Frame
from opencode_async.brokers.redis import RedisBroker
from opencode_async.testing import check_event_broker
from opencode_async.testing.event_brokers import frames, must_expire, must_read, must_wake
from tests.support.hosts import Reports
from tests.support.valkey import ValkeyServer


@pytest.mark.parametrize("decodes", [False, True])
async def test_a_client_of_the_hosts_is_used_and_left_open(
    valkey: ValkeyServer, decodes: bool
) -> None:
    reports = Reports()
    async with Redis.from_url(valkey.url, decode_responses=decodes) as client:
        one, other = RedisBroker(client), RedisBroker(client)
        async with one.running(reports), other.running(reports):
            await check_event_broker(one, other)
        assert await client.ping()
    assert reports.errors == []


async def test_streams_are_bounded_and_expire(
    valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "KEPT", 100)
    reports = Reports()
    async with Redis.from_url(valkey.url) as client:
        broker = RedisBroker(valkey.url, prefix="bounded", retention=60)
        async with broker.running(reports):
            for first in range(1, 1000, 10):
                await broker.publish("m", 1, frames("m", first, first + 9), stored=0)
            await broker.end("m", 1)
        assert await client.keys("bounded*") == [b"bounded:m"]
        assert await client.xlen("bounded:m") <= 200  # in whole nodes of the stream's
        assert 0 < await client.ttl("bounded:m") <= 60
    assert reports.errors == []


async def test_a_stream_of_large_frames_is_bounded_by_their_size(
    valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "KEPT_SIZE", 10_000)
    reports = Reports()
    async with Redis.from_url(valkey.url) as client:
        broker = RedisBroker(valkey.url, prefix="large")
        async with broker.running(reports):
            told = [Frame(f"m.1.{n}", n, "part.delta", "x" * 1000) for n in range(1, 101)]
            await broker.publish("m", 1, told, stored=0)
        assert 1 <= await client.xlen("large:m") <= 20  # in whole nodes of the stream's
    assert reports.errors == []


async def test_a_huge_frame_is_a_gap_elsewhere(
    valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "LARGEST", 1000)
    reports = Reports()
    one, other = RedisBroker(valkey.url), RedisBroker(valkey.url)
    async with (
        one.running(reports),
        other.running(reports),
        one.follow("huge", 1, 0) as near,
        other.follow("huge", 1, 0) as far,
    ):
        await one.publish("huge", 1, frames("huge", 1, 1), stored=0)
        await must_read(far, 1, 1)
        await one.publish("huge", 1, [Frame("m.1.2", 2, "snapshot", "x" * 1001)], stored=2)
        await must_wake(far, "a frame that it is not given")
        await one.publish("huge", 1, frames("huge", 3, 3), stored=2)
        await must_expire(far)
        await must_read(near, 1, 3)
    assert reports.errors == []


async def test_agents_may_share_a_broker_and_stop_one_after_the_other(
    valkey: ValkeyServer,
) -> None:
    reports = Reports()
    broker, far = RedisBroker(valkey.url), RedisBroker(valkey.url)
    async with far.running(reports), far.follow("shared", 1, 0) as feed:
        first = broker.running(reports)
        await first.__aenter__()
        async with broker.running(reports):
            await broker.publish("shared", 1, frames("shared", 1, 1), stored=0)
            await must_read(feed, 1, 1)
            await first.__aexit__(None, None, None)
            await broker.publish("shared", 1, frames("shared", 2, 2), stored=0)
            await must_read(feed, 2, 2)
        async with broker.running(reports):  # and begins anew
            await broker.publish("shared", 1, frames("shared", 3, 3), stored=0)
            await must_read(feed, 3, 3)
    assert reports.errors == []


async def test_what_was_published_last_is_handed_over_at_the_end(valkey: ValkeyServer) -> None:
    reports = Reports()
    async with RedisBroker(valkey.url).running(reports):
        pass
    broker, far = RedisBroker(valkey.url), RedisBroker(valkey.url)
    async with broker.running(reports):
        await broker.publish("last", 1, frames("last", 1, 500), stored=0)
    async with far.running(reports), far.follow("last", 1, 0) as feed:
        await must_read(feed, 1, 500)
    assert reports.errors == []


async def test_topics_that_nobody_follows_leave_nothing_in_the_process(
    valkey: ValkeyServer,
) -> None:
    reports = Reports()
    broker = RedisBroker(valkey.url)
    async with broker.running(reports):

        async def follow(number: int) -> None:
            async with broker.follow(f"gone{number % 100}", 1, number % 7) as feed:
                await feed.batch(60)

        followers = [asyncio.create_task(follow(number)) for number in range(1000)]
        await asyncio.sleep(0)
        assert len(broker._logs) == 100
        for follower in followers:
            follower.cancel()
        await asyncio.wait(followers)
        assert broker._logs == {}
        assert broker._bell._topics == set()
    assert reports.errors == []


async def test_who_begins_while_another_stops_is_heard(valkey: ValkeyServer) -> None:
    reports = Reports()
    broker, far = RedisBroker(valkey.url), RedisBroker(valkey.url)
    async with far.running(reports), far.follow("begun", 1, 0) as feed:
        first = broker.running(reports)
        await first.__aenter__()
        await broker.publish("begun", 1, frames("begun", 1, 1), stored=0)
        stopping = asyncio.ensure_future(first.__aexit__(None, None, None))
        await asyncio.sleep(0)
        assert not stopping.done()
        async with broker.running(reports):
            await stopping
            await broker.publish("begun", 1, frames("begun", 2, 2), stored=0)
            await must_read(feed, 1, 2)
            async with broker.follow("back", 1, 0) as back:
                await far.publish("back", 1, frames("back", 1, 1), stored=0)
                await must_read(back, 1, 1)
    assert reports.errors == []


async def test_a_stop_that_is_cancelled_leaves_no_task(valkey: ValkeyServer) -> None:
    before = asyncio.all_tasks()
    broker = RedisBroker(valkey.url)
    running = broker.running(Reports())
    await running.__aenter__()
    await broker.publish("m", 1, frames("m", 1, 1), stored=0)
    stopping = asyncio.ensure_future(running.__aexit__(None, None, None))
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.wait([stopping])
    assert stopping.cancelled()
    assert asyncio.all_tasks() == before


async def test_what_others_leave_in_redis_disturbs_nobody(valkey: ValkeyServer) -> None:
    reports = Reports()
    one, other = RedisBroker(valkey.url), RedisBroker(valkey.url)
    async with (
        one.running(reports),
        other.running(reports),
        Redis.from_url(valkey.url) as client,
    ):
        await client.set("opencode_async:text", "no stream")
        await client.xadd("opencode_async:stream", {"foreign": "entry"}, id="1-1")
        async with (
            other.follow("text", 1, 0),
            other.follow("stream", 1, 0) as stream,
            other.follow("good", 1, 0) as good,
        ):
            for foreign in (b"nonsense", b"[1]", b"\xff", b'{"text": 1, "good": 1}'):
                await client.publish("opencode_async", foreign)
            await one.publish("good", 1, frames("good", 1, 3), stored=0)
            await must_read(good, 1, 3)
            await one.publish("stream", 1, frames("stream", 2, 3), stored=0)
            await must_expire(stream)  # of the first nobody knows what it was
    assert reports.errors == []
