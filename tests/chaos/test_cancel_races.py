"""A stop that comes just as the turn ends, or just as another worker takes it over."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import select

from opencode_async import Change, LeaseLost, Timings, TurnResult
from opencode_async.testing import ScriptedServer
from tests.chaos.scale import SEED, some
from tests.chaos.verdict import (
    Follower,
    assert_told_the_end_once,
    begun,
    conversation,
    settled,
    stored,
)
from tests.support.hosts import Host, host, nowhere
from tests.support.postgres import new_database
from tests.support.replay import replay
from tests.turns.ended import rest_of, texts

QUICK = Timings(lease=30.0, look=2.0, settle=0.3, stop=4.0, snapshot=0.1, poll=0.2)
# Lost turns are looked for ten times in a lease, of which a POST may take two thirds.
TAKING_OVER = replace(QUICK, lease=6.0)
ELSEWHERE = Timings(lease=1200.0, poll=0.1)  # for who follows and runs nothing
RACES, CONVERSATIONS = 500, 10
TAKEOVERS, AT_ONCE = 100, 20
TICKS = 6
SHORT = f'SCRIPT:slow {{"n": {TICKS}, "delay": 0.03}}'
LONG = 'SCRIPT:slow {"n": 16, "delay": 0.15}'


class Moments:
    """When to say stop: mostly so long behind the last word that it may be just too late."""

    def __init__(self) -> None:
        self._chance = random.Random(SEED)  # noqa: S311
        self._behind = 0.05  # s between the last word and the end, as far as is known

    def next(self) -> tuple[int, float]:
        """Behind how many words, and how long behind them."""
        if not self._chance.randrange(5):
            return self._chance.randrange(TICKS), self._chance.uniform(0.0, 0.03)
        return TICKS, self._behind * self._chance.uniform(0.5, 1.5)

    def learn(self, words: int, *, in_time: bool) -> None:
        """Be later where that was in time, else earlier: machines are not equally fast."""
        if words == TICKS:
            self._behind *= 1.25 if in_time else 0.8


async def stop(app: Host[Any, Any], key: object, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await app.agent.turns.cancel(key)


def heard_by(changes: list[Change]) -> str:
    return "".join(part["content"] for part in replay(changes)[0].get("parts", ()))


async def assert_one_end(app: Host[Any, Any], key: object, changes: list[Change]) -> str:
    """How the turn ended, in all places alike, with all that was said and nobody at work."""
    row = await settled(app, key)
    how = (row.status, row.finish, row.stop_requested)
    assert how in (("completed", "stop", None), ("cancelled", "cancelled", "cancelled")), how
    assert_told_the_end_once(changes, row)
    said = "".join(texts(await rest_of(app, row)))
    assert row.content == said, (how, row.content, said)
    words = iter(row.content.split())
    # Behind a takeover a follower may miss some for a while, but none is taken from it.
    assert all(word in words for word in heard_by(changes).split()), row.content
    assert not await app.agent.client.busy(await app.session_id(row))
    status: str = row.status
    return status


async def all_at_rest(app: Host[Any, Any]) -> None:
    """Wait until no session of this app's is at work."""
    async with app.sessions() as db:
        ids = await db.scalars(select(app.agent.tables.conversation.opencode_session_id))
        ours = set(ids.all())
    async with asyncio.timeout(20):
        for session_id in ours:
            while await app.agent.client.busy(session_id):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def assert_nothing_changes(app: Host[Any, Any], rows: dict[Any, dict[str, Any]]) -> None:
    """Once nobody is at work any more, and lost turns were looked for again."""
    await all_at_rest(app)
    assert await app.agent.turns.recover() == []
    assert {key: await stored(app, key) for key in rows} == rows


async def raced(
    app: Host[Any, Any], place: Any, words: int, seconds: float
) -> tuple[Any, list[Change]]:
    """A turn that is told to stop at that moment, and what its follower was told."""
    message = await app.agent.turns.start(place, SHORT)
    changes: list[Change] = []
    stopping: asyncio.Task[None] | None = None
    async with asyncio.TaskGroup() as tasks, app.agent.turns.follow(message.id) as following:
        async for change in following:
            changes.append(change)
            if stopping is None and heard_by(changes).count("tick") >= words:
                stopping = tasks.create_task(stop(app, message.id, seconds))
    return message.id, changes


@pytest.mark.timeout(240)
async def test_a_stop_just_as_the_turn_ends_leaves_one_end(
    postgres_url: str, opencode: ScriptedServer
) -> None:
    began = time.monotonic()
    due, moments = iter(some(range(RACES), 50)), Moments()
    ends: Counter[str] = Counter()
    rows: dict[Any, dict[str, Any]] = {}
    async with (
        new_database(postgres_url) as url,
        host(url, opencode, timings=QUICK, pool_size=20) as app,
    ):

        async def one_after_the_other() -> None:
            place = await conversation(app)
            for _ in due:
                words, seconds = moments.next()
                key, changes = await raced(app, place, words, seconds)
                end = await assert_one_end(app, key, changes)
                assert (await app.row(key)).content.startswith(heard_by(changes))
                moments.learn(words, in_time=end == "cancelled")
                rows[key] = await stored(app, key)
                ends[end] += 1

        async with asyncio.TaskGroup() as tasks:
            for _ in range(CONVERSATIONS):
                tasks.create_task(one_after_the_other())
        await assert_nothing_changes(app, rows)
        assert app.reports.errors == []
        await app.holds_no_connection()
    print(f"{dict(ends)} of {ends.total()} races, in {time.monotonic() - began:.0f} s")
    assert min(ends["completed"], ends["cancelled"]) > ends.total() / 10


@dataclass(frozen=True)
class Takeover:
    """How its worker loses a turn, and how long behind its first word; and when it is stopped.

    ``None`` is behind its end.
    """

    gives_up: bool
    lost: float
    stopped: float | None


def takeovers() -> list[Takeover]:
    """Stopped before, while nobody runs the turn, while the next worker does, and too late."""
    chance = random.Random(SEED)  # noqa: S311
    return [
        Takeover(
            chance.random() < 0.5,
            chance.uniform(0.0, 0.5),
            chance.uniform(0.0, 3.0) if chance.randrange(4) else None,
        )
        for _ in range(TAKEOVERS)
    ]


async def lose(
    app: Host[Any, Any], key: object, running: asyncio.Task[TurnResult], case: Takeover
) -> None:
    await asyncio.sleep(case.lost)
    if case.gives_up:
        running.cancel()
    else:
        await app.lose_worker(key, 0.2)


async def taken_over(
    first: Host[Any, Any], elsewhere: Host[Any, Any], case: Takeover
) -> tuple[Any, list[Change]]:
    """A turn that its worker loses and somebody stops, and what a third process was told."""
    message = await elsewhere.agent.turns.start(await conversation(elsewhere), LONG)
    async with asyncio.TaskGroup() as tasks:
        follower = Follower(tasks, elsewhere, message.id)
        running = asyncio.create_task(first.agent.turns.run(message.id))
        await begun(elsewhere, message.id)
        tasks.create_task(lose(elsewhere, message.id, running, case))
        if case.stopped is not None:
            tasks.create_task(stop(elsewhere, message.id, case.stopped))
        changes = await follower.finished()
    await elsewhere.agent.turns.cancel(message.id)
    await asyncio.wait([running])
    assert running.cancelled() or isinstance(running.exception(), LeaseLost | None)
    return message.id, changes


@pytest.mark.timeout(240)
async def test_a_stop_just_as_another_worker_takes_the_turn_over_leaves_one_end(
    postgres_url: str, opencode: ScriptedServer
) -> None:
    began = time.monotonic()
    cases = some(takeovers(), 12)
    due = iter(cases)
    ends: Counter[tuple[str, int]] = Counter()
    rows: dict[Any, dict[str, Any]] = {}
    async with (
        new_database(postgres_url) as url,
        host(url, opencode, timings=ELSEWHERE, dispatch=nowhere, pool_size=20) as elsewhere,
        host(url, opencode, timings=ELSEWHERE, dispatch=nowhere, pool_size=20) as first,
        host(url, opencode, timings=TAKING_OVER, pool_size=20) as second,
    ):
        first.agent.timings = TAKING_OVER  # its turns have short leases, and it takes over none

        async def one_after_the_other() -> None:
            for case in due:
                key, changes = await taken_over(first, elsewhere, case)
                end = await assert_one_end(elsewhere, key, changes)
                rows[key] = await stored(elsewhere, key)
                ends[end, rows[key]["epoch"]] += 1

        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(one_after_the_other())
        await assert_nothing_changes(second, rows)
        # Who is told that its turn was taken over when it is about to stop it says so.
        assert all(isinstance(error, LeaseLost) for error in first.reports.errors)
        assert second.reports.errors == []
        for app in (first, second, elsewhere):
            await app.holds_no_connection()
    shown = {f"{end} by worker {epoch}": count for (end, epoch), count in sorted(ends.items())}
    print(f"{shown} of {len(cases)} takeovers, in {time.monotonic() - began:.0f} s")
    assert {("completed", 2), ("cancelled", 2)} <= ends.keys()
    assert {epoch for _, epoch in ends} <= {1, 2}
