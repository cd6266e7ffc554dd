"""Subscribers are woken together, and the process is left to others for a while."""

from __future__ import annotations

import asyncio
import time

import pytest

from opencode_async.client import pace
from opencode_async.client.pace import Pace
from opencode_async.timed_event import TimedEvent

LONG = 3600.0


class Turn:
    """Something that is woken, and works so many seconds each time."""

    def __init__(self, name: str, heard: list[str], works: float = 0.0) -> None:
        self.event = TimedEvent()
        self.has_heard = asyncio.Event()
        self._name = name
        self._heard = heard
        self._works = works

    async def listen(self, times: int) -> None:
        for _ in range(times):
            assert await self.event.wait(self.event.now() + LONG)
            self._heard.append(self._name)
            end = time.perf_counter() + self._works
            while time.perf_counter() < end:
                pass
            self.has_heard.set()
        self.event.close()


class Rounds:
    """Counts the rounds of the event loop."""

    def __init__(self) -> None:
        self.passed = 0

    async def go_round(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.passed += 1


async def test_those_that_are_due_are_woken_in_one_round_and_in_their_order() -> None:
    pacing, heard = Pace(), list[str]()
    turns = [Turn(name, heard) for name in ("a", "b", "c")]
    listening = [asyncio.create_task(turn.listen(1)) for turn in turns]
    await asyncio.sleep(0)
    for turn in (*turns, *turns):  # a second time is once
        pacing.set(turn.event)
    assert heard == []
    for _ in range(2):
        await asyncio.sleep(0)
    assert heard == ["a", "b", "c"]
    await asyncio.gather(*listening)


async def woken_twice(works: float) -> int:
    """The rounds of the event loop between two wakings of one that works so long."""
    pacing, heard, rounds = Pace(), list[str](), Rounds()
    turn = Turn("a", heard, works)
    listening = asyncio.create_task(turn.listen(2))
    counting = asyncio.create_task(rounds.go_round())
    await asyncio.sleep(0)
    pacing.set(turn.event)
    await turn.has_heard.wait()
    first = rounds.passed
    pacing.set(turn.event)
    await listening
    counting.cancel()
    return rounds.passed - first


async def test_what_takes_long_gives_way_to_others_before_it_is_woken_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await woken_twice(0.02) > 50
    monkeypatch.setattr(pace, "SHARE", 0.0)
    assert await woken_twice(0.02) < 10


async def test_what_is_quick_is_woken_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "QUICK", LONG)  # whatever else this machine does just now
    assert await woken_twice(0.0) < 10


async def test_one_that_was_set_while_the_others_rest_is_not_forgotten() -> None:
    pacing, heard = Pace(), list[str]()
    slow, other = Turn("slow", heard, 0.02), Turn("other", heard)
    listening = [asyncio.create_task(turn.listen(1)) for turn in (slow, other)]
    await asyncio.sleep(0)
    pacing.set(slow.event)
    await listening[0]
    pacing.set(other.event)
    await listening[1]
    assert heard == ["slow", "other"]
