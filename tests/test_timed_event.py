"""An event that is waited for again and again, each time only for so long."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import suppress
from typing import Any

import pytest

from opencode_async.timed_event import TimedEvent

LONG = 3600.0


async def waited_for(event: TimedEvent, within: float) -> None:
    """Somebody waits so long at most, and it is set meanwhile."""
    waiting = asyncio.create_task(event.wait(event.now() + within))
    await asyncio.sleep(0)
    event.set()
    assert await waiting


async def test_what_was_set_before_anybody_waited_is_there_once() -> None:
    event = TimedEvent()
    event.set()
    assert await event.wait(event.now() + LONG)
    assert not await event.wait(event.now() + 0.01)
    event.close()


async def test_a_waiter_is_woken_when_it_is_set() -> None:
    event = TimedEvent()
    await waited_for(event, LONG)
    event.close()


async def test_it_does_not_ring_at_the_time_of_an_earlier_wait() -> None:
    event, loop = TimedEvent(), asyncio.get_running_loop()
    await waited_for(event, 0.02)
    began = loop.time()
    assert not await event.wait(event.now() + 0.1)
    assert loop.time() - began >= 0.1


async def test_a_wait_that_is_shorter_than_the_one_before_ends_in_time() -> None:
    event, loop = TimedEvent(), asyncio.get_running_loop()
    await waited_for(event, LONG)
    began = loop.time()
    assert not await event.wait(event.now() + 0.05)
    assert loop.time() - began < LONG


async def test_the_time_of_a_wait_that_was_cancelled_wakes_nobody() -> None:
    event = TimedEvent()
    waiting = asyncio.create_task(event.wait(event.now() + 0.02))
    await asyncio.sleep(0)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    assert not await event.wait(event.now() + 0.1)  # and the time of the first one passes meanwhile
    event.set()
    assert await event.wait(event.now() + LONG)
    event.close()


async def test_one_timer_is_enough_for_any_number_of_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    event, loop = TimedEvent(), asyncio.get_running_loop()
    timers, call_at = list[float](), loop.call_at

    def counted(when: float, *args: Any) -> asyncio.TimerHandle:
        timers.append(when)
        return call_at(when, *args)

    monkeypatch.setattr(loop, "call_at", counted)
    for _ in range(100):
        await waited_for(event, LONG)
    assert len(timers) == 1
    event.close()


async def test_nothing_is_left_of_one_that_is_closed() -> None:
    event = TimedEvent()
    await waited_for(event, LONG)
    event.close()
    gone = weakref.ref(event)
    del event
    gc.collect()
    assert gone() is None
