"""A worker killed at any point of its turn: another one ends the turn as if nothing had been."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from opencode_async import Timings
from opencode_async.testing import ScriptedServer
from tests.chaos.scale import EVERYTHING, some
from tests.chaos.verdict import (
    Follower,
    assert_said_once_and_completed,
    assert_told_the_end_once,
    settled,
)
from tests.support.hosts import Host, host, nowhere
from tests.support.postgres import new_database
from tests.support.proxy import Proxy
from tests.support.trap import Moment, Trap
from tests.support.workers import Worker, worker

QUICK = Timings(lease=4.0, accept=8.0, reconnect=5.0, look=2.0, settle=0.5, stop=3.0, snapshot=0.1)
# Who follows in the test's own process looks for lost turns before there are any, and then not.
ELSEWHERE = Timings(lease=1200.0, poll=0.2)
NEVER_AGAIN = 600.0  # s: victims take over nobody's turn, so that each turn loses one worker

TEXT = 'SCRIPT:slow {"n": 12, "delay": 0.2}'
# How many events such a turn has until it is idle (OpenCode 1.18.33, measured).
EVENTS = {TEXT: 31, "SCRIPT:bash": 43, "SCRIPT:loop 3": 79}
STEPS = 9  # of a turn's events, from one point to the next
REQUESTS = {
    "with its request stored": Moment(b"GET /event", arrives=False),
    "with its prompt in hand": Moment(b"/prompt_async", arrives=False),
    "with its prompt posted": Moment(b'"messageID"'),
    "at its last look": Moment(b"/message", arrives=False, behind_idle=True),
}
# The right to create a session is held for 45 s, so these take long.
CREATING = {
    "with a session to create": Moment(b"POST /session?", arrives=False),
    "with a session nobody knows": Moment(b'"metadata"'),
}
AT_ONCE = 10  # victims beside each other


@dataclass(frozen=True)
class Point:
    """Where in which turn its worker is killed."""

    script: str
    name: str
    moment: Moment


@dataclass(frozen=True)
class Lost:
    """A turn whose worker is dead, and who follows it all the same."""

    point: Point
    key: Any
    follower: Follower


def points() -> list[Point]:
    """Thirty and two points in three turns."""
    found = [
        Point(script, *named) for script in (TEXT, "SCRIPT:bash") for named in REQUESTS.items()
    ]
    for script, events in EVENTS.items():
        for step in range(1, STEPS):
            number = round(events * step / STEPS)
            found.append(Point(script, f"event {number} of {events}", Moment(event=number)))
    return found


async def lost(
    app: Host[Any, Any],
    url: str,
    opencode: ScriptedServer,
    point: Point,
    ready: asyncio.Barrier,
    tasks: asyncio.TaskGroup,
) -> Lost:
    """Start a turn in a worker of its own, which is killed at that point."""
    trap = Trap(point.moment, lambda: victim.kill())
    proxy = Proxy(opencode, trap.edit, trap.asked)
    async with (
        proxy.running() as server,
        worker(url, server, QUICK, recovers_every=NEVER_AGAIN) as victim,
    ):
        await ready.wait()
        message = await app.agent.turns.start(await app.conversation(), point.script)
        follower = Follower(tasks, app, message.id)
        await follower.begun()
        victim.run(message.id)
        assert await victim.ends(within=60), point
        assert victim.claims(message.id) == [1]
        assert not [line for line in victim.said if "finished" in line]
        assert not victim.complaints
    return Lost(point, message.id, follower)


async def all_lost(
    app: Host[Any, Any],
    url: str,
    opencode: ScriptedServer,
    batch: Sequence[Point],
    tasks: asyncio.TaskGroup,
) -> list[Lost]:
    """Turns lost beside each other, all started when the last of their workers is ready."""
    ready = asyncio.Barrier(len(batch))
    async with asyncio.TaskGroup() as losing:
        each = [
            losing.create_task(lost(app, url, opencode, point, ready, tasks)) for point in batch
        ]
    return [one.result() for one in each]


async def assert_ended_well(app: Host[Any, Any], turn: Lost, saviour: Worker) -> None:
    """A second worker, and no third, ended it with all that was said."""
    row = await settled(app, turn.key)
    await assert_said_once_and_completed(app, row)
    async with asyncio.timeout(10):
        assert_told_the_end_once(await turn.follower.finished(), row)
    assert row.epoch == 2, turn.point
    assert saviour.claims(turn.key) == [2], turn.point


async def all_ended_well(app: Host[Any, Any], turns: Sequence[Lost], saviour: Worker) -> None:
    for turn in turns:
        await assert_ended_well(app, turn, saviour)


def batches(points: Sequence[Point]) -> list[Sequence[Point]]:
    return [points[start : start + AT_ONCE] for start in range(0, len(points), AT_ONCE)]


@pytest.mark.timeout(300)
async def test_turns_of_killed_workers_are_taken_over_by_a_living_one(
    postgres_url: str, opencode: ScriptedServer
) -> None:
    async with (
        new_database(postgres_url) as url,
        host(url, opencode, timings=ELSEWHERE, dispatch=nowhere) as app,
        worker(url, opencode, QUICK) as living,
    ):
        chosen = some(points(), 6)
        if EVERYTHING:
            chosen += [Point(TEXT, *named) for named in CREATING.items()]
        began = time.monotonic()
        for batch in batches(chosen):
            async with asyncio.TaskGroup() as tasks:
                turns = await all_lost(app, url, opencode, batch, tasks)
                await all_ended_well(app, turns, living)
        seconds = time.monotonic() - began
        print(f"{len(chosen)} workers killed beside a living one, in {seconds:.0f} s")
        assert not living.complaints


@pytest.mark.timeout(300)
async def test_turns_of_killed_workers_wait_for_one_that_is_started_later(
    postgres_url: str, opencode: ScriptedServer
) -> None:
    async with (
        new_database(postgres_url) as url,
        host(url, opencode, timings=ELSEWHERE, dispatch=nowhere) as app,
    ):
        chosen = some(points(), 6)
        began = time.monotonic()
        for batch in batches(chosen):
            async with asyncio.TaskGroup() as tasks:
                turns = await all_lost(app, url, opencode, batch, tasks)
                async with worker(url, opencode, QUICK) as restarted:
                    await all_ended_well(app, turns, restarted)
                    assert not restarted.complaints
        seconds = time.monotonic() - began
        print(f"{len(chosen)} workers killed and one started, in {seconds:.0f} s")
