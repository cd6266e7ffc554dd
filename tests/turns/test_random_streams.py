"""Turns whose event streams are tampered with at random: each ends as REST says, and leaks nothing.

What happens to each is chosen beforehand. How the events of several interleave is not.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from opencode_async import Finished, OpencodeConnectionError, Snapshot, Timings
from opencode_async.protocol.parts import KINDS
from opencode_async.protocol.wire import Malformed, clean
from opencode_async.testing import Impostor
from opencode_async.turns.message import message_json
from tests.support.hosts import host, nowhere
from tests.support.impostor import LATENCY, SuiteClock
from tests.support.replay import STREAMED, assert_replay_is, replay
from tests.turns.ended import Ended, ended, said_by, texts
from tests.turns.tampering import (
    FAULTS,
    SCRIPTS,
    Breaks,
    Plan,
    TamperingTransport,
    breaks,
    drawn,
    plans,
)

SEQUENCES = int(os.environ.get("SEQUENCES", "200"))  # `make random` tries 10,000
AT_ONCE = 25  # turns that share a stream; more of them leave followers behind
LOT = 1000  # that are chosen at once, as many as take some seconds
EVENTS = 30  # of a turn, about
HEAD_START = 0.6  # s before a prompt arrives, so that its turn's follower is there first
# The others are short, a lease is long enough for a machine that is busy with all of them.
TIMINGS = Timings(lease=60.0, look=1.0, settle=0.4, snapshot=0.3, poll=0.3)


@cache
def lot(nth: int) -> list[tuple[list[Plan], Breaks]]:
    """What is tried in some of the tests: the turns that share a stream, and how that breaks."""
    count = min(SEQUENCES, LOT) // AT_ONCE
    turns, broken = drawn(plans, count * AT_ONCE, nth), drawn(breaks(EVENTS * AT_ONCE), count, nth)
    return [(turns[n::count], broken[n]) for n in range(count)]


class Figures:
    """What was tried, and how it ended."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.endings: Counter[str] = Counter()
        self.tried: set[str] = set()
        self.late = 0
        self._began = time.monotonic(), time.process_time()

    def __str__(self) -> str:
        took, worked = time.monotonic() - self._began[0], time.process_time() - self._began[1]
        return (
            f"\n{self.endings.total():,} sequences, {len(self.tried):,} of them different,"
            f" in {took:.0f} s, {worked:.0f} s of CPU"
            f"\n  done to them: {listed(self.done)}\n  turns ended: {listed(self.endings)}"
            f"\n  followers that came too late to be told more than rows: {self.late}"
        )


def listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common())


@pytest.fixture(scope="module")
def figures() -> Iterator[Figures]:
    found = Figures()
    yield found
    print(found)
    assert found.late <= found.endings.total() / 2
    if found.endings.total() == SEQUENCES:
        # Few turns have events of a subagent that could be taken for another's.
        assert {*FAULTS} - found.done.keys() <= ({"rehome"} if SEQUENCES < LOT else set())


async def tampered(
    folder: Path, chosen: Sequence[Plan], broken: Breaks
) -> tuple[list[tuple[Plan, Ended]], Counter[str]]:
    """The turns of these plans at once, over one stream, and what was done to it how often."""
    before = asyncio.all_tasks()
    async with Impostor(folder, clock=SuiteClock(), latency=LATENCY) as impostor:
        assert impostor.server.transport is not None
        transport = TamperingTransport(impostor.server.transport, chosen, broken)
        impostor.faults.slow(HEAD_START, path="/prompt_async", times=len(chosen))
        server = replace(impostor.server, transport=transport)
        url = f"sqlite+aiosqlite:///{folder / 'test.db'}"
        async with host(url, server, timings=TIMINGS, dispatch=nowhere, inline=True) as app:
            async with asyncio.TaskGroup() as tasks:
                turns = [tasks.create_task(ended(app, {"text": p.prompt})) for p in chosen]
            sessions = [await app.session_id(turn.result().row) for turn in turns]
            await app.holds_no_connection()
    assert asyncio.all_tasks() == before
    unexpected = [
        error
        for error in app.reports.errors
        if not isinstance(error, (Malformed, OpencodeConnectionError))
    ]
    assert not unexpected, unexpected
    plans_of = [transport.plans[session] for session in sessions]
    return list(zip(plans_of, (turn.result() for turn in turns), strict=True)), transport.done


def as_rest_says(turn: Ended, ending: tuple[str, str | None, str | None]) -> None:
    """The turn is at its end, stored as the server has it and as its follower was told."""
    row = turn.row
    assert (row.status, row.finish, row.error_code) == ending
    assert said_by(None, row) == [*map(clean, texts(turn.answers))]
    theirs = [part["content"] for part in row.parts if part.get("subagent") and "content" in part]
    assert theirs == [*map(clean, texts(turn.children))]
    own = [part["id"] for part in row.parts if not part.get("subagent")]
    assert own == [p["id"] for m in turn.answers for p in m["parts"] if p["type"] in KINDS]
    if came_late(turn):
        assert replay(turn.changes)[1] == message_json(row)
    else:
        assert_replay_is(turn.changes, message_json(row))


def came_late(turn: Ended) -> bool:
    """Whether its follower was too slow for what happened, and had the row's words alone."""
    state, finished = replay(turn.changes)
    assert finished is not None
    told = all(isinstance(change, (Snapshot, Finished)) for change in turn.changes)
    return told and any(state.get(key) != finished[key] for key in STREAMED)


@pytest.mark.timeout(180)  # 4 s for itself, but it shares the machine
@pytest.mark.slow("hundreds of turns, under load")
@pytest.mark.parametrize("nth", range(SEQUENCES // AT_ONCE))
async def test_turns_end_as_rest_says_whatever_becomes_of_their_streams(
    nth: int, tmp_path: Path, figures: Figures
) -> None:
    chosen, broken = lot(nth * AT_ONCE // LOT)[nth % (LOT // AT_ONCE)]
    turns, done = await tampered(tmp_path, chosen, broken)
    assert len(turns) == AT_ONCE
    for plan, turn in turns:
        try:
            as_rest_says(turn, SCRIPTS[plan.prompt])
        except AssertionError as error:
            error.add_note(f"{plan}, {broken}")
            raise
        figures.tried.add(repr(plan))
        figures.late += came_late(turn)
        figures.endings[turn.row.finish or turn.row.error_code] += 1
    figures.done += done
