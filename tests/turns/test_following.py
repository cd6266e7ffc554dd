"""How the row of a turn is looked at for those who follow it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from opencode_async.turns import following
from opencode_async.turns.following import GRID, Following, on_grid
from tests.support.hosts import host, nowhere

FOLLOWERS = 20


class Looks:
    """The looks at a row that reach the database, the first of which waits until it may go on."""

    def __init__(self, turns: Following[Any, Any]) -> None:
        self.number = 0
        self.failures = 0
        self.hangs = False
        self.begun = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self._look = turns.place_of
        turns.place_of = self.look  # type: ignore[method-assign]

    async def look(self, key: Any) -> Any:
        self.number += 1
        number = self.number
        self.begun.set()
        await self.may_go_on.wait()
        if self.hangs and number == 1:
            await asyncio.Event().wait()
        if number <= self.failures:
            raise OSError("the database is restarting")
        return await self._look(key)


@asynccontextmanager
async def following_a_turn(tmp_path: Path) -> AsyncIterator[tuple[Looks, list[asyncio.Task[Any]]]]:
    """Followers of one turn who look at its row at once."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'test.db'}"
    async with host(url, "http://127.0.0.1:1", dispatch=nowhere) as app:
        message = await app.agent.turns.start(await app.conversation(), "Hello.")
        turns = app.agent.turns.following
        looks = Looks(turns)
        waiting = [asyncio.create_task(turns.glance(message.id)) for _ in range(FOLLOWERS)]
        await looks.begun.wait()
        yield looks, waiting


async def test_those_who_look_at_once_are_answered_by_one_query(tmp_path: Path) -> None:
    async with following_a_turn(tmp_path) as (looks, waiting):
        looks.may_go_on.set()
        places = await asyncio.gather(*waiting)
        assert {place.status for place in places} == {"pending"}
        assert looks.number == 1


async def test_when_the_one_who_looks_leaves_another_looks(tmp_path: Path) -> None:
    async with following_a_turn(tmp_path) as (looks, waiting):
        first, *others = waiting
        first.cancel()
        looks.may_go_on.set()
        places = await asyncio.gather(*others)
        assert {place.status for place in places} == {"pending"}
        assert first.cancelled()
        assert looks.number == 2


async def test_when_one_who_waits_leaves_the_others_are_answered(tmp_path: Path) -> None:
    async with following_a_turn(tmp_path) as (looks, waiting):
        *others, last = waiting
        last.cancel()
        looks.may_go_on.set()
        assert len(await asyncio.gather(*others)) == FOLLOWERS - 1
        assert last.cancelled()
        assert looks.number == 1


async def test_when_a_look_fails_whoever_waits_for_it_looks_again(tmp_path: Path) -> None:
    async with following_a_turn(tmp_path) as (looks, waiting):
        looks.failures = 3
        looks.may_go_on.set()
        told = await asyncio.gather(*waiting, return_exceptions=True)
        errors = [error for error in told if isinstance(error, OSError)]
        places = [place for place in told if not isinstance(place, BaseException)]
        assert len({id(error) for error in errors}) == 3  # each has one of its own
        assert [place.status for place in places] == ["pending"] * (FOLLOWERS - 3)
        assert looks.number == 4


async def test_when_a_look_hangs_whoever_waits_for_it_looks_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "PATIENCE", 0.01)
    async with following_a_turn(tmp_path) as (looks, waiting):
        looks.hangs = True
        looks.may_go_on.set()
        first, *others = waiting
        places = await asyncio.gather(*others)
        assert {place.status for place in places} == {"pending"}
        assert not first.done()
        first.cancel()


@pytest.mark.parametrize("now", [0.0, 0.04, 12345.6789])
@pytest.mark.parametrize("within", [0.3, 1.0, 15.0])
def test_looks_fall_together_and_are_not_much_too_early(within: float, now: float) -> None:
    waits = on_grid(now, within)
    assert within - GRID < waits <= within
    assert (now + waits) / GRID == pytest.approx(round((now + waits) / GRID))


@pytest.mark.parametrize("within", [0.0, 0.02, 0.1, 0.25])
def test_looks_that_are_to_be_frequent_are(within: float) -> None:
    assert on_grid(12345.6789, within) == within
