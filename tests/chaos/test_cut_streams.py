"""The event stream breaks, stalls or falls silent at every one of a turn's events.

The proxy counts only the events of the turn's session and of its subagents' sessions: OpenCode
sends every stream the events of all sessions.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from opencode_async import Change, OpencodeClient, Timings
from opencode_async.client.hub import Disconnected, Gap, Subscription
from opencode_async.testing import ScriptedServer
from opencode_async.turns.message import message_json
from opencode_async.turns.snapshots import happens
from tests.chaos.scale import some
from tests.client.test_hub_real import turn
from tests.support.hosts import Host, host, nowhere
from tests.support.postgres import new_database
from tests.support.proxy import Fate, Proxy
from tests.support.replay import assert_replay_is, replay
from tests.turns.ended import assert_all_said_is_stored, run

# A silent stream is noticed soon.
TIMINGS = Timings(lease=30.0, look=0.5, settle=0.3, snapshot=0.1)
SCRIPTS = (
    "SCRIPT:text",
    "SCRIPT:reasoning",
    "SCRIPT:multi",
    "SCRIPT:loop 5",
    "SCRIPT:task",
    'SCRIPT:slow {"n": 8, "delay": 0.1}',  # the client is back before it is over
)
MODES = {"cut": Fate.LAST, "delayed": Fate.HELD, "silent": Fate.SILENCED}
# s that a delayed stream is held, at even events and at odd ones: REST is asked between the two.
HOLDS = (0.3, 0.8)
BREAKING = (Fate.LAST, Fate.SILENCED)
HOSTS = 8
LIMIT = 40.0  # s for a turn that takes three
Json = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A turn, and what becomes of its stream at which of its events."""

    script: str
    index: int
    mode: str


class Trouble:
    """The fate of one turn's stream: ``fate`` at the event ``index``, if any."""

    def __init__(self, session_id: str, fate: Fate = Fate.PASSED, index: int | None = None) -> None:
        self.count = 0
        self.happened = asyncio.Event()
        self._sessions = {session_id}
        self._fate = fate
        self._index = index

    def __call__(self, frame: bytes) -> Fate:
        if not any(session_id.encode() in frame for session_id in self._sessions):
            return Fate.PASSED
        event = json.loads(frame.removeprefix(b"data: "))
        properties = event["properties"]
        if event["type"] == "session.created":
            if properties["info"].get("parentID") not in self._sessions:
                return Fate.PASSED  # the turn's own, from before the turn
            self._sessions.add(properties["info"]["id"])
        if properties.get("sessionID") not in self._sessions:
            return Fate.PASSED
        self.count += 1
        if self.count - 1 != self._index:
            return Fate.PASSED
        self.happened.set()
        return self._fate


@dataclass
class Desk:
    """A host with a stream of its own, on which one turn runs after the other."""

    app: Host[Any, Any]
    proxy: Proxy
    direct: OpencodeClient
    """A client of the server itself, past the proxy."""

    async def untouched(self, script: str) -> int:
        """How many events a turn has until it is over."""
        conversation, session_id = await self._conversation()
        trouble = self.proxy.fate = Trouble(session_id)
        row, changes = await run(self.app, conversation, script)
        count = trouble.count
        await self._check(row, changes, session_id)
        return count

    async def broken(self, job: Job) -> tuple[int, bool]:
        """A turn with this trouble; how much its follower was told, and whether it had it.

        Not every turn of a script has as many events as the first had: some of those behind its end
        come together.
        """
        conversation, session_id = await self._conversation()
        fate, self.proxy.hold = MODES[job.mode], HOLDS[job.index % 2]
        trouble = self.proxy.fate = Trouble(session_id, fate, job.index)
        async with asyncio.timeout(LIMIT), self.app.agent.client.hub.subscribe(session_id) as told:
            row, changes = await run(self.app, conversation, job.script)
            struck = await happens(trouble.happened, within=5.0)  # or is behind the turn's end
            if struck and fate is Fate.SILENCED:
                self.proxy.cut()
            if struck and fate in BREAKING:
                await mended(told)
        await self._check(row, changes, session_id)
        return len(changes), struck

    async def _conversation(self) -> tuple[Any, str]:
        """A new one and its session, whose id must be known before its first event."""
        key = await self.app.conversation()
        async with self.app.sessions() as db:
            row = await db.get_one(self.app.agent.tables.conversation, key)
            return key, await self.app.agent.session(db, row).ensure()

    async def _check(self, row: Any, changes: Sequence[Change], session_id: str) -> None:
        """The turn is whole, in its row and for its follower, and was asked for once."""
        path = f"/session/{session_id}/message"
        messages: list[Json] = (await self.direct.http.request("GET", path)).json()
        answers = [m for m in messages if m["info"].get("parentID") == row.prompt_id]
        assert (row.status, row.finish, row.epoch) == ("completed", "stop", 1)
        await assert_all_said_is_stored(self.direct, row, answers)
        assert [m["info"]["id"] for m in messages if m["info"]["role"] == "user"] == [row.prompt_id]
        assert [change.event for change in changes].count("finished") == 1
        assert_replay_is(changes, message_json(row))
        assert_texts_only_grew(changes, row)


def assert_texts_only_grew(changes: Sequence[Change], row: Any) -> None:
    """At no time did a follower read a word twice, or one that is not in the answer."""
    whole = {part["id"]: part["content"] for part in row.parts if "content" in part}
    for count in range(1, len(changes)):
        state, _ = replay(changes[:count])
        for part in state["parts"]:
            if "content" in part:
                assert whole[part["id"]].startswith(part["content"]), changes[:count]


async def mended(told: Subscription) -> None:
    """Wait until the stream is whole again."""
    while not any(isinstance(item, Gap) for item in await told.batch(60)):
        pass


@asynccontextmanager
async def desk(url: str, server: ScriptedServer, direct: OpencodeClient) -> AsyncIterator[Desk]:
    """A host whose stream is open."""
    proxy = Proxy(server)
    async with (
        proxy.running() as through,
        host(url, through, pool_size=5, timings=TIMINGS, dispatch=nowhere) as app,
    ):
        async with app.agent.client.hub.subscribe("ses_nobody"):
            pass
        yield Desk(app, proxy, direct)


async def all_jobs(desks: Sequence[Desk]) -> list[Job]:
    """Every mode at every event of every script, or once in every script."""
    async with asyncio.TaskGroup() as tasks:
        counts = [
            tasks.create_task(desk.untouched(script))
            for desk, script in zip(desks, SCRIPTS, strict=False)
        ]
    jobs: list[Job] = []
    for script, count in zip(SCRIPTS, (count.result() for count in counts), strict=True):
        for number, mode in enumerate(MODES):
            first = number * count // len(MODES)  # so that a sample has each mode elsewhere
            cases = [Job(script, (first + place) % count, mode) for place in range(count)]
            jobs += some(cases, 1)
    return jobs


async def test_all_that_came_before_a_cut_arrives(opencode: ScriptedServer) -> None:
    proxy, deltas = Proxy(opencode), 0

    def third_delta_is_the_last(frame: bytes) -> Fate:
        nonlocal deltas
        is_delta = b'"message.part.delta"' in frame
        deltas += is_delta
        return Fate.LAST if is_delta and deltas == 3 else Fate.PASSED

    proxy.fate = third_delta_is_the_last
    async with (
        proxy.running() as server,
        OpencodeClient(server) as client,
        turn(client, "SCRIPT:text One. Two. Three. Four. Five.") as listener,
    ):
        while not any(isinstance(item, Disconnected) for item in listener.told):
            await listener.listen()
        assert listener.deltas == ["One. ", "Two. ", "Three. "]
        await client.abort(listener.session_id)


@pytest.mark.timeout(900)
async def test_a_turn_is_whole_wherever_its_stream_breaks_stalls_or_falls_silent(
    postgres_url: str, opencode: ScriptedServer
) -> None:
    failures: list[str] = []
    spared: list[Job] = []
    told = 0

    async def work(desk: Desk, jobs: Iterator[Job]) -> None:
        nonlocal told
        for job in jobs:
            try:
                changes, struck = await desk.broken(job)
                told += changes
                spared.extend([] if struck else [job])
            except (AssertionError, TimeoutError) as error:
                failures.append(f"{job}: {type(error).__name__} {error}")

    async with (
        new_database(postgres_url) as url,
        OpencodeClient(opencode) as direct,
        AsyncExitStack() as stack,
    ):
        desks = [await stack.enter_async_context(desk(url, opencode, direct)) for _ in range(HOSTS)]
        jobs = await all_jobs(desks)
        begun, todo = time.monotonic(), iter(jobs)
        async with asyncio.TaskGroup() as tasks:
            for one in desks:
                tasks.create_task(work(one, todo))
        seconds = time.monotonic() - begun
        streams = sum(desk.proxy.streams for desk in desks)
        reported = [error for desk in desks for error in desk.app.reports.errors]
    modes = Counter(job.mode for job in jobs)
    events = Counter(job.script.split()[0] for job in jobs)
    print(f"{len(jobs)} turns in {seconds:.0f} s: {dict(modes)}, {dict(events)}")
    print(f"{streams} streams upstream, {told} changes told to followers")
    assert not failures, f"{len(failures)} of {len(jobs)}:\n" + "\n".join(failures)
    print(f"{len(spared)} turns had fewer events: {spared}")
    assert len(spared) <= 1 + len(jobs) / 20
    broken = [job for job in jobs if MODES[job.mode] in BREAKING and job not in spared]
    assert streams == HOSTS + len(broken)
    assert reported == []
