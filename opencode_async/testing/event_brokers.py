"""What every event broker must do, for the tests of one of the host's own.

One line of a test runs all of it, with two brokers that share what they are made on, as two
processes have them, or with one as both::

    async with one.running(report), other.running(report):
        await check_event_broker(one, other)
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence

from opencode_async.brokers.broker import CursorExpired, EventBroker, Feed, Frame

Check = Callable[[EventBroker, EventBroker, str], Awaitable[None]]

WITHIN = 10.0  # s until what was published must be read
SILENCE = 0.2  # s that a feed is asked to wait
MANY = 10_000
TEXTS = ("", "plain", '{"a": "b\\"c"}', "two\nlines\r\n", "täglich 語 🙂", "\u2028", "x" * 100_000)


async def check_event_broker(one: EventBroker, other: EventBroker) -> None:
    """Try everything with two brokers that run: what one publishes, followers of the other read.

    Raises ``AssertionError``, which says what is amiss, or what a broker raises and must not.
    """
    for check in CHECKS:
        await run_check(check, one, other)


async def run_check(check: Check, one: EventBroker, other: EventBroker) -> None:
    """Try one of ``CHECKS``, on topics of its own; raises what ``check_event_broker`` does."""
    await check(one, other, f"conformance:{secrets.token_hex(16)}")


async def what_is_published_is_read_in_order(
    one: EventBroker, other: EventBroker, topic: str
) -> None:
    for broker in (one, other):
        async with broker.follow(topic, 1, 0) as feed:
            await one.publish(topic, 1, [frame(topic, 1)], stored=0)
            await must_read(feed, 1, 1)
            await one.publish(topic, 1, frames(topic, 2, 50), stored=0)
            for seq in range(51, 101):
                await one.publish(topic, 1, [frame(topic, seq)], stored=0)
            await must_read(feed, 2, 100)
        topic += "-too"


async def frames_come_as_they_were(one: EventBroker, other: EventBroker, topic: str) -> None:
    told = [Frame(f"m.1.{n}", n, "part.delta", text) for n, text in enumerate(TEXTS, start=1)]
    async with other.follow(topic, 1, 0) as feed:
        await one.publish(topic, 1, told, stored=0)
        read = await must_read(feed, 1, len(told))
    must([plain(frame) for frame in read] == [plain(frame) for frame in told], "other frames came")


async def who_comes_later_reads_from_its_place(
    one: EventBroker, other: EventBroker, topic: str
) -> None:
    await one.publish(topic, 1, frames(topic, 1, 20), stored=0)
    for broker in (one, other):
        async with (
            broker.follow(topic, 1, 15) as late,
            broker.follow(topic, 1, 0) as whole,
            broker.follow(topic, 1, 7) as resumed,
        ):
            await must_read(late, 16, 20)
            await must_read(whole, 1, 20)
            await must_read(resumed, 8, 20)
            must(late.live, "a feed with frames that has not ended is not live")


async def all_read_what_comes(one: EventBroker, other: EventBroker, topic: str) -> None:
    await one.publish(topic, 1, frames(topic, 1, 3), stored=0)

    async def follow(broker: EventBroker, after: int) -> None:
        async with broker.follow(topic, 1, after) as feed:
            ready.release()
            await must_read(feed, after + 1, 40)

    ready = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as tasks:
        for number in range(40):
            tasks.create_task(follow((one, other)[number % 2], number % 4))
        for _ in range(40):
            await ready.acquire()
        for seq in range(4, 41):
            await one.publish(topic, 1, [frame(topic, seq)], stored=seq - 1)


async def topics_do_not_hear_each_other(one: EventBroker, other: EventBroker, topic: str) -> None:
    near = f"{topic}0"
    async with other.follow(topic, 1, 0) as feed, other.follow(near, 1, 0) as follower:
        await one.publish(near, 1, frames(near, 1, 3), stored=0)
        await one.publish(topic, 1, frames(topic, 1, 2), stored=0)
        await must_read(follower, 1, 3)
        await must_read(feed, 1, 2)


async def a_new_epoch_expires_the_older(one: EventBroker, other: EventBroker, topic: str) -> None:
    await one.publish(topic, 1, frames(topic, 1, 3), stored=0)
    async with other.follow(topic, 1, 0) as feed:
        await must_read(feed, 1, 3)
        await other.publish(topic, 2, frames(topic, 1, 2), stored=0)
        await must_expire(feed)
    # Who follows beside the publisher that was replaced is told by that one, once it notices.
    await one.end(topic, 1)
    for broker in (one, other):
        async with broker.follow(topic, 2, 0) as feed:
            await must_read(feed, 1, 2)


async def a_replaced_publisher_is_not_heard(
    one: EventBroker, other: EventBroker, topic: str
) -> None:
    await one.publish(topic, 1, frames(topic, 1, 3), stored=0)
    await other.publish(topic, 2, frames(topic, 1, 2), stored=0)
    async with other.follow(topic, 2, 0) as feed:
        await must_read(feed, 1, 2)
        await one.publish(topic, 1, frames(topic, 4, 9), stored=0)
        await one.end(topic, 1)
        await other.publish(topic, 2, frames(topic, 3, 4), stored=0)
        await must_read(feed, 3, 4)


async def an_end_wakes_all(one: EventBroker, other: EventBroker, topic: str) -> None:
    await one.publish(topic, 1, frames(topic, 1, 3), stored=0)
    async with one.follow(topic, 1, 3) as near, other.follow(topic, 1, 2) as far:
        await must_read(far, 3, 3)
        await one.publish(topic, 1, frames(topic, 4, 4), stored=0)
        await one.end(topic, 1)
        for feed in (near, far):
            await must_read(feed, 4, 4)
            await must_wake(feed, "an end")
            must(not feed.live, "a feed that has ended is live")


async def publishing_nothing_wakes_all(one: EventBroker, other: EventBroker, topic: str) -> None:
    for broker in (one, other):
        async with broker.follow(topic, 0, 0) as feed:
            for _ in range(3):
                await one.publish(topic, 0, [], stored=0)
                await must_wake(feed, "publishing nothing")


async def what_is_too_old_is_said_so(one: EventBroker, other: EventBroker, topic: str) -> None:
    for first in range(1, MANY, 100):
        await one.publish(topic, 1, frames(topic, first, first + 99), stored=first)
    for broker in (one, other):
        async with broker.follow(topic, 1, 0) as feed:
            try:
                await must_read(feed, 1, MANY)
            except CursorExpired:
                continue
    async with one.follow(topic, 1, MANY - 10) as feed:
        await must_read(feed, MANY - 9, MANY)


async def what_was_lost_is_not_passed_over(
    one: EventBroker, other: EventBroker, topic: str
) -> None:
    await one.publish(topic, 1, frames(topic, 1, 5), stored=0)
    await one.publish(topic, 1, frames(topic, 8, 9), stored=7)
    for broker in (one, other):
        async with broker.follow(topic, 1, 0) as whole, broker.follow(topic, 1, 7) as behind:
            await must_expire(whole)
            await must_read(behind, 8, 9)


async def the_newest_are_kept(one: EventBroker, other: EventBroker, topic: str) -> None:
    await one.publish(topic, 1, frames(topic, 1, 500), stored=500)
    async with other.follow(topic, 1, 0) as feed:
        await must_read(feed, 1, 500)


async def leaving_leaves_others_alone(one: EventBroker, other: EventBroker, topic: str) -> None:
    async with other.follow(topic, 1, 0) as stays:
        async with other.follow(topic, 1, 0) as leaves:
            await one.publish(topic, 1, frames(topic, 1, 2), stored=0)
            await must_read(leaves, 1, 2)
        waiting = asyncio.ensure_future(follow_for_ever(other, topic))
        await one.publish(topic, 1, frames(topic, 3, 4), stored=0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await must_read(stays, 1, 4)
    async with other.follow(topic, 1, 2) as again:
        await must_read(again, 3, 4)


async def silence_ends_in_time(one: EventBroker, other: EventBroker, topic: str) -> None:
    await one.publish(topic, 1, frames(topic, 1, 2), stored=0)
    for broker in (one, other):
        async with broker.follow(topic, 1, 0) as feed:
            await must_read(feed, 1, 2)
            await must_be_silent(feed)
    async with other.follow(topic, 1, 2) as feed:
        await must_be_silent(feed)
        await one.publish(topic, 1, frames(topic, 3, 4), stored=0)
        await must_read(feed, 3, 4)


CHECKS: tuple[Check, ...] = (
    what_is_published_is_read_in_order,
    frames_come_as_they_were,
    who_comes_later_reads_from_its_place,
    all_read_what_comes,
    topics_do_not_hear_each_other,
    a_new_epoch_expires_the_older,
    a_replaced_publisher_is_not_heard,
    an_end_wakes_all,
    publishing_nothing_wakes_all,
    what_is_too_old_is_said_so,
    what_was_lost_is_not_passed_over,
    the_newest_are_kept,
    leaving_leaves_others_alone,
    silence_ends_in_time,
)


def frame(topic: str, seq: int) -> Frame:
    return Frame(f"m.1.{seq}", seq, "part.delta", f'{{"topic": "{topic}", "delta": "{seq}"}}')


def frames(topic: str, first: int, last: int) -> list[Frame]:
    return [frame(topic, seq) for seq in range(first, last + 1)]


def plain(frame: Frame) -> tuple[str, int, str, str]:
    return frame.id, frame.seq, frame.event, frame.data


async def follow_for_ever(broker: EventBroker, topic: str) -> None:
    async with broker.follow(topic, 1, 0) as feed:
        while True:
            await feed.batch(WITHIN)


async def must_read(feed: Feed, first: int, last: int) -> Sequence[Frame]:
    """Exactly these frames come next; batches without any may come between."""
    read: list[Frame] = []
    try:
        async with asyncio.timeout(WITHIN):
            while len(read) <= last - first:
                read += await feed.batch(WITHIN) or []
    except TimeoutError:
        raise AssertionError(f"of {first} to {last}, {len(read)} frames came in time") from None
    seqs = [frame.seq for frame in read]
    must(seqs == list(range(first, last + 1)), f"for {first} to {last} came {seqs[:20]}…")
    return read


async def must_wake(feed: Feed, what: str) -> None:
    try:
        async with asyncio.timeout(WITHIN + 1):
            frames = await feed.batch(WITHIN)
    except TimeoutError:
        frames = None
    if frames is None:
        raise AssertionError(f"{what} did not wake a follower")
    must(not frames, f"{what} came as {len(frames)} frames")


async def must_be_silent(feed: Feed) -> None:
    """Nothing comes, which is said in time; that there may be news of the row is no frame."""
    try:
        async with asyncio.timeout(WITHIN):
            while (frames := await feed.batch(SILENCE)) is not None:
                must(not frames, "frames came twice")
    except TimeoutError:
        raise AssertionError("batch(within) waited for longer than that") from None


async def must_expire(feed: Feed) -> None:
    try:
        async with asyncio.timeout(WITHIN):
            while True:
                frames = await feed.batch(WITHIN)
                must(not frames, "frames of an older epoch came")
    except CursorExpired:
        return
    except TimeoutError:
        raise AssertionError("a follower of an older epoch was not told") from None


def must(condition: bool, otherwise: str) -> None:
    if not condition:
        raise AssertionError(otherwise)
