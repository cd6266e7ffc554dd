"""A worker that stood still for longer than its lease writes nothing over what another one did."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import text

from opencode_async import Timings
from opencode_async.testing import ScriptedServer
from tests.chaos.scale import some
from tests.chaos.verdict import (
    Follower,
    assert_said_once_and_completed,
    assert_told_the_end_once,
    begun,
    conversation,
    settled,
    stored,
    watched,
)
from tests.support.hosts import Host, host, nowhere
from tests.support.postgres import new_database
from tests.support.proxy import Proxy
from tests.support.trap import Moment, Trap
from tests.support.workers import Worker, worker

QUICK = Timings(lease=6.0, accept=8.0, reconnect=5.0, look=2.0, settle=0.5, stop=3.0, snapshot=0.2)
ELSEWHERE = Timings(lease=1200.0, poll=0.2)  # for who follows and runs nothing

# Each takes longer than it takes another worker to notice, a lease and a half.
LONG = 'SCRIPT:slow {"n": 45, "delay": 0.2}'
STEP = '{"name": "bash", "args": {"command": "sleep 1", "description": "Sleeps"}}'
SCRIPTS = (
    'SCRIPT:slow {"n": 15, "delay": 0.6}',
    'SCRIPT:bash {"command": "sleep 9"}',
    f"SCRIPT:tools [{', '.join([STEP] * 9)}]",
)
# Of the long turn, which is started when the others are in the midst of theirs.
MOMENTS = {
    "its request stored": Moment(b"GET /event"),
    "a prompt in hand": Moment(b"/prompt_async"),
    "a prompt posted": Moment(b'"messageID"'),
    **{f"event {event}": Moment(event=event) for event in (4, 12, 20)},
}
RUNS, ENDED, NEXT = "while the other runs them", "when the other ended them", "when the next run"
AT_ONCE = 6  # pairs of workers beside each other


@dataclass(frozen=True)
class Case:
    """When the worker is stopped, and when it goes on."""

    stopped: str
    goes_on: str


# Stopped behind its check whether it may post, or in the midst of posting, a worker posts as soon
# as it goes on, and no check prevents it. Into the turn that was taken over this is the same
# prompt again; into the next turn it would not be.
UNCHECKED = ("its request stored", "a prompt in hand")
CASES = [
    Case(stopped, goes_on)
    for stopped in MOMENTS
    for goes_on in (RUNS, ENDED, NEXT)
    if not (stopped in UNCHECKED and goes_on == NEXT)
]


class Pair:
    """An app with two workers, of which the first is stopped in the middle of its turns."""

    def __init__(
        self, app: Host[Any, Any], first: Worker, second: Worker, tasks: asyncio.TaskGroup
    ) -> None:
        self.app = app
        self.first = first
        self.second = second
        self._tasks = tasks
        self._followers: dict[Any, Follower] = {}

    async def start(self, conversation: Any, script: str, runner: Worker) -> Any:
        """A turn that this worker runs, followed in each process."""
        key = (await self.app.agent.turns.start(conversation, script)).id
        for each in (self.first, self.second):
            each.follow(key)
        runner.run(key)
        self._followers[key] = Follower(self._tasks, self.app, key)
        return key

    async def assert_ended_well(self, key: Any) -> int:
        """Completed, and so everybody was told, in whichever process; in which epoch.

        Each was claimed once, and no third worker was needed.
        """
        row = await settled(self.app, key)
        claims = self.first.claims(key) + self.second.claims(key)
        assert sorted(claims) == list(range(1, row.epoch + 1))
        assert row.epoch <= 2
        await assert_said_once_and_completed(self.app, row)
        for told in (
            await self.first.heard(key),
            await self.second.heard(key),
            await self._followers[key].finished(),
        ):
            assert_told_the_end_once(told, row)
        return len(claims)


async def stopped_outside_transactions(app: Host[Any, Any], first: Worker) -> None:
    """Let a stopped worker leave the transaction it is in: the locks in it would stay."""
    states = text("SELECT state FROM pg_stat_activity WHERE application_name = :name")
    quiet = 0
    while quiet < 2:
        async with app.sessions() as db:
            found = set(await db.scalars(states, {"name": first.application}))
        quiet = quiet + 1 if found <= {"idle"} else 0
        if "idle in transaction" in found:
            first.go_on()
            # Not at its own pace, or it were in the next one each time.
            await asyncio.sleep(random.uniform(0.01, 0.15))  # noqa: S311
            first.stop()
        await asyncio.sleep(0.1)


async def paused(
    case: Case, postgres_url: str, opencode: ScriptedServer, ready: asyncio.Barrier
) -> int:
    """One case, from the start of two workers to the end of all turns; how many were taken over."""
    stopped = asyncio.Event()

    def stop() -> None:
        first.stop()
        stopped.set()

    trap = Trap(MOMENTS[case.stopped], stop, is_set=False)
    proxy = Proxy(opencode, trap.edit, trap.asked)
    async with (
        new_database(postgres_url) as url,
        host(url, opencode, timings=ELSEWHERE, dispatch=nowhere) as app,
        proxy.running() as server,
        worker(url, server, QUICK) as first,
        worker(url, opencode, QUICK) as second,
        asyncio.TaskGroup() as tasks,
    ):
        await ready.wait()
        pair = Pair(app, first, second, tasks)
        # The stream is opened once, so whoever is to be stopped at that has one turn.
        scripts = () if case.stopped == "its request stored" else SCRIPTS
        ids = [await conversation(app) for _ in (LONG, *scripts)]
        keys = [await pair.start(*each, first) for each in zip(ids[1:], scripts, strict=True)]
        for key in keys:
            await begun(app, key)
        async with app.sessions() as db:
            place = await db.get_one(app.agent.tables.conversation, ids[0])
        trap.set_for(place.opencode_session_id)
        keys.append(await pair.start(ids[0], LONG, first))
        async with asyncio.timeout(20):
            await stopped.wait()
            await stopped_outside_transactions(app, first)
        # A short turn may have been over before.
        keys = [key for key in keys if (await app.row(key)).status == "pending"]
        for key in keys:
            await second.says("claimed", key)
        if case.goes_on == RUNS:
            first.go_on()
            await asyncio.gather(*(watched(app, key) for key in keys))
        else:
            for key in keys:
                await settled(app, key)
        before = [await stored(app, key) for key in keys]
        following = []
        if case.goes_on == NEXT:
            following += [await pair.start(each, SCRIPTS[0], second) for each in ids]
            for key in following:
                await begun(app, key)
        first.go_on()
        for key in keys:
            await first.says("over", key)
        # It is well, and has looked for lost turns again.
        another = await pair.start(await app.conversation(), "SCRIPT:bash", first)
        for key in (another, *following):
            assert await pair.assert_ended_well(key) == 1
        epochs = [await pair.assert_ended_well(key) for key in keys]
        assert [second.claims(key)[-1:] for key in keys] == [[epoch] for epoch in epochs]
        assert [await stored(app, key) for key in keys] == before
        assert first.complaints == second.complaints == []
        return epochs.count(2)


async def all_paused(cases: Sequence[Case], postgres_url: str, opencode: ScriptedServer) -> int:
    """Cases beside each other; how many turns were taken over in them."""
    ready = asyncio.Barrier(len(cases))

    async def one(case: Case) -> int:
        try:
            return await paused(case, postgres_url, opencode, ready)
        except BaseException as error:
            error.add_note(str(case))
            raise

    async with asyncio.TaskGroup() as tasks:
        each = [tasks.create_task(one(case)) for case in cases]
    return sum(task.result() for task in each)


@pytest.mark.timeout(400)
async def test_a_worker_that_was_paused_changes_nothing_of_turns_another_took_over(
    postgres_url: str, opencode: ScriptedServer
) -> None:
    began = time.monotonic()
    cases = some(CASES, 3)
    taken = 0
    for start in range(0, len(cases), AT_ONCE):
        taken += await all_paused(cases[start : start + AT_ONCE], postgres_url, opencode)
    seconds = time.monotonic() - began
    print(f"{len(cases)} pauses, {taken} turns taken over in them, in {seconds:.0f} s")
    assert taken > 2 * len(cases)
