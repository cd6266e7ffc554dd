"""The in-memory broker: what followers at their own pace read of a shared log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from opencode_async.brokers import log
from opencode_async.brokers.broker import CursorExpired, Feed, Frame
from opencode_async.brokers.memory import MemoryBroker


def frame(seq: int) -> Frame:
    return Frame(f"m.1.{seq}", seq, "part.delta", f'{{"seq":{seq}}}')


def frames(first: int, last: int) -> list[Frame]:
    return [frame(seq) for seq in range(first, last + 1)]


async def seqs(feed: Feed) -> list[int]:
    """The numbers of the next batch; a test that would wait for ever fails."""
    frames = await feed.batch(10)
    assert frames is not None
    return [frame.seq for frame in frames]


async def is_silent(feed: Feed) -> bool:
    """Whether the feed has nothing to give as long as nothing happens."""
    reading = asyncio.ensure_future(feed.batch(10))
    await turn_of_the_loop()
    silent = not reading.done()
    reading.cancel()
    await asyncio.wait([reading])
    return silent


async def turn_of_the_loop() -> None:
    """Let every task that can go on do so, up to where it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


async def test_a_follower_reads_what_is_there_and_then_what_comes(broker: MemoryBroker) -> None:
    await broker.publish("m", 1, frames(1, 3), stored=0)
    async with broker.follow("m", 1, 0) as feed:
        assert await seqs(feed) == [1, 2, 3]
        assert await is_silent(feed)
        await broker.publish("m", 1, frames(4, 4), stored=0)
        await broker.publish("m", 1, frames(5, 6), stored=0)
        assert await seqs(feed) == [4, 5, 6]


async def test_a_follower_may_come_before_the_publisher(broker: MemoryBroker) -> None:
    async with broker.follow("m", 1, 0) as feed:
        reading = asyncio.ensure_future(seqs(feed))
        await turn_of_the_loop()
        assert not feed.live
        await broker.publish("m", 1, frames(1, 2), stored=0)
        assert feed.live
        assert await reading == [1, 2]


async def test_followers_at_different_places_each_read_what_they_lack(broker: MemoryBroker) -> None:
    await broker.publish("m", 1, frames(1, 5), stored=0)
    async with (
        broker.follow("m", 1, 0) as from_the_start,
        broker.follow("m", 1, 3) as in_the_middle,
        broker.follow("m", 1, 5) as at_the_end,
        broker.follow("m", 1, 0) as slow,
    ):
        assert await seqs(from_the_start) == [1, 2, 3, 4, 5]
        assert await seqs(in_the_middle) == [4, 5]
        assert await is_silent(at_the_end)
        await broker.publish("m", 1, frames(6, 7), stored=0)
        for feed in (from_the_start, in_the_middle, at_the_end):
            assert await seqs(feed) == [6, 7]
        assert await seqs(slow) == [1, 2, 3, 4, 5, 6, 7]


async def test_all_followers_are_given_the_same_frames_not_copies(broker: MemoryBroker) -> None:
    published = frames(1, 3)
    async with broker.follow("m", 1, 0) as one, broker.follow("m", 1, 2) as other:
        await broker.publish("m", 1, published, stored=0)
        assert [id(f) for f in await one.batch(10) or ()] == [id(f) for f in published]
        assert [id(f) for f in await other.batch(10) or ()] == [id(published[2])]


async def test_topics_do_not_hear_each_other(broker: MemoryBroker) -> None:
    async with broker.follow("m", 1, 0) as feed, broker.follow("n", 1, 0) as other:
        await broker.publish("n", 1, frames(1, 1), stored=0)
        await broker.end("n", 1)
        assert await is_silent(feed)
        assert await seqs(other) == [1]
        assert await seqs(other) == []


async def test_a_new_epoch_expires_the_followers_of_the_older(broker: MemoryBroker) -> None:
    await broker.publish("m", 1, frames(1, 3), stored=0)
    async with broker.follow("m", 1, 3) as feed:
        reading = asyncio.ensure_future(feed.batch(10))
        await turn_of_the_loop()
        await broker.publish("m", 2, frames(1, 1), stored=0)
        with pytest.raises(CursorExpired):
            await reading
    async with broker.follow("m", 1, 3) as late:
        with pytest.raises(CursorExpired):
            await late.batch(10)
    async with broker.follow("m", 2, 0) as feed:
        assert await seqs(feed) == [1]


async def test_a_follower_of_an_epoch_that_is_still_to_come_waits_for_it(
    broker: MemoryBroker,
) -> None:
    await broker.publish("m", 1, frames(1, 3), stored=0)
    async with broker.follow("m", 2, 0) as feed:
        assert await is_silent(feed)
        await broker.publish("m", 2, frames(1, 1), stored=0)
        assert await seqs(feed) == [1]


async def test_a_publisher_of_an_older_epoch_is_not_heard(broker: MemoryBroker) -> None:
    async with broker.follow("m", 2, 0) as feed:
        await broker.publish("m", 2, frames(1, 1), stored=0)
        await broker.publish("m", 1, frames(7, 9), stored=0)
        assert await seqs(feed) == [1]
        assert await is_silent(feed)


async def test_a_follower_behind_the_beginning_of_a_cut_off_log_is_told(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "RETAINED", 10)
    async with broker.follow("m", 1, 0) as slow, broker.follow("m", 1, 0) as quick:
        for last in range(10, 101, 10):
            await broker.publish("m", 1, frames(last - 9, last), stored=last)
            assert await seqs(quick) == list(range(last - 9, last + 1))
        with pytest.raises(CursorExpired):
            await slow.batch(10)
    assert len(broker._logs["m"].frames) <= 20
    async with broker.follow("m", 1, 95) as late:
        assert await seqs(late) == [96, 97, 98, 99, 100]


async def test_only_frames_that_the_row_has_are_ever_dropped(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "RETAINED", 10)
    for last in range(10, 101, 10):
        await broker.publish("m", 1, frames(last - 9, last), stored=42)
    assert [frame.seq for frame in broker._logs["m"].frames] == list(range(43, 101))
    async with broker.follow("m", 1, 42) as feed:
        assert await seqs(feed) == list(range(43, 101))
    async with broker.follow("m", 1, 41) as feed:
        with pytest.raises(CursorExpired):
            await feed.batch(10)


def large(first: int, last: int) -> list[Frame]:
    """Frames of 100 characters."""
    return [Frame(f"m.1.{seq}", seq, "part.delta", "x" * 100) for seq in range(first, last + 1)]


async def test_large_frames_that_the_row_has_are_dropped_sooner(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "RETAINED_SIZE", 1000)
    async with broker.follow("m", 1, 0) as slow:
        for last in range(10, 101, 10):
            await broker.publish("m", 1, large(last - 9, last), stored=last)
        kept = broker._logs["m"]
        assert sum(len(frame.data) for frame in kept.frames) == kept.size <= 2000
        with pytest.raises(CursorExpired):
            await slow.batch(10)
    await broker.publish("m", 1, large(101, 150), stored=100)
    assert [frame.seq for frame in kept.frames] == list(range(101, 151))
    huge = Frame("m.1.151", 151, "snapshot", "x" * 10_000)
    await broker.publish("m", 1, [huge], stored=151)
    assert kept.frames == [huge]  # the newest stays, or nobody would see that others lack
    await broker.publish("m", 1, large(152, 152), stored=152)
    assert kept.size == 100
    await broker.publish("m", 2, frames(1, 1), stored=0)
    assert kept.size == len(frame(1).data)


async def test_large_frames_come_in_several_batches(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "BATCH_SIZE", 250)
    await broker.publish("m", 1, large(1, 7), stored=0)
    async with broker.follow("m", 1, 1) as feed:
        assert [await seqs(feed) for _ in range(2)] == [[2, 3, 4], [5, 6, 7]]
        assert await is_silent(feed)


async def test_what_is_no_news_does_not_make_a_follower_wait_longer(broker: MemoryBroker) -> None:
    await broker.publish("m", 2, frames(1, 2), stored=0)
    async with broker.follow("m", 2, 2) as feed:
        log = broker._logs["m"]
        waiting = asyncio.ensure_future(feed.batch(0.1))
        while not waiting.done():
            log.wake()
            await asyncio.sleep(0)
        assert await waiting is None


async def test_the_end_wakes_followers_with_an_empty_batch(broker: MemoryBroker) -> None:
    await broker.publish("m", 1, frames(1, 1), stored=0)
    async with broker.follow("m", 1, 1) as waiting, broker.follow("m", 1, 0) as behind:
        reading = asyncio.ensure_future(seqs(waiting))
        await turn_of_the_loop()
        await broker.end("m", 1)
        assert await reading == []
        assert not waiting.live
        assert await seqs(behind) == [1]  # what came before the end is read first
        assert await seqs(behind) == []


async def test_who_comes_after_the_end_hears_nothing_and_asks_the_row(
    broker: MemoryBroker,
) -> None:
    await broker.publish("m", 1, frames(1, 1), stored=1)
    await broker.end("m", 1)
    async with broker.follow("m", 1, 1) as feed:
        assert await is_silent(feed)
        assert not feed.live


async def test_publishing_nothing_only_wakes(broker: MemoryBroker) -> None:
    async with broker.follow("news", 0, 0) as one, broker.follow("news", 0, 0) as other:
        readings = [asyncio.ensure_future(seqs(feed)) for feed in (one, other)]
        await turn_of_the_loop()
        await broker.publish("news", 0, [], stored=0)
        assert [await reading for reading in readings] == [[], []]
        assert await is_silent(one)  # the same news is none the second time
        await broker.publish("news", 0, [], stored=0)
        await broker.publish("news", 0, [], stored=0)
        assert await seqs(one) == []  # and is not lost while nobody waits
        assert await is_silent(one)


async def test_news_from_before_a_follower_came_is_none(broker: MemoryBroker) -> None:
    async with broker.follow("news", 0, 0):
        await broker.publish("news", 0, [], stored=0)
        async with broker.follow("news", 0, 0) as late:
            assert await is_silent(late)


async def test_news_without_followers_leaves_nothing(broker: MemoryBroker) -> None:
    for number in range(10):
        await broker.publish(f"conversation:{number}", 0, [], stored=0)
    assert broker._logs == {}


async def test_an_ended_log_is_forgotten_at_once(broker: MemoryBroker) -> None:
    await broker.publish("m", 1, frames(1, 3), stored=0)
    await broker.end("m", 1)
    assert broker._logs == {}


async def test_the_log_of_a_new_epoch_outlives_the_end_of_the_older(broker: MemoryBroker) -> None:
    await broker.publish("m", 1, frames(1, 3), stored=3)
    async with broker.follow("m", 1, 3):
        await broker.end("m", 1)
        await broker.publish("m", 2, frames(1, 2), stored=0)
    async with broker.follow("m", 2, 0) as feed:
        assert await seqs(feed) == [1, 2]


async def test_ending_what_nobody_knows_is_nothing(broker: MemoryBroker) -> None:
    await broker.end("m", 1)
    assert broker._logs == {}


async def test_a_live_log_stays_when_its_followers_leave(broker: MemoryBroker) -> None:
    async with broker.follow("m", 1, 0):
        await broker.publish("m", 1, frames(1, 2), stored=0)
    async with broker.follow("m", 1, 0) as feed:
        assert await seqs(feed) == [1, 2]


async def test_a_thousand_followers_that_leave_abruptly_leave_nothing(
    broker: MemoryBroker,
) -> None:
    read = 0
    all_have_read = asyncio.Event()

    async def follow(topic: str) -> Sequence[Frame]:
        nonlocal read
        async with broker.follow(topic, 1, 0) as feed:
            assert await seqs(feed) == [1]
            read += 1
            if read == 1000:
                all_have_read.set()
            return await feed.batch(10) or []

    tasks = [asyncio.create_task(follow(f"m{number % 10}")) for number in range(1000)]
    await turn_of_the_loop()
    for number in range(10):
        await broker.publish(f"m{number}", 1, frames(1, 1), stored=0)
    await all_have_read.wait()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    assert not any(log.feeds for log in broker._logs.values())
    async with broker.follow("waiting", 1, 0):
        pass
    assert len(broker._logs) == 10  # of the turns, which still run
    for number in range(10):
        await broker.end(f"m{number}", 1)
    assert broker._logs == {}
