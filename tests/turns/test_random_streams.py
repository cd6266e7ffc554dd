"""Turns whose event streams are tampered with at random: each ends as REST says, and leaks nothing.

The choices come from a seed, which a failure shows. How the turns' events interleave does not.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from opencode_async import OpencodeConnectionError, Timings
from opencode_async.models import TERMINAL
from opencode_async.protocol.parts import KINDS
from opencode_async.protocol.wire import Malformed, clean
from opencode_async.testing import Impostor
from opencode_async.testing.impostor.serving import serving
from opencode_async.turns.message import message_json
from tests.protocol.random_events import LITERALS, MISSING, UNKNOWN, paths, replaced, wire_text
from tests.support.hosts import host, nowhere
from tests.support.impostor import LATENCY, SuiteClock
from tests.support.proxy import Proxy
from tests.support.replay import assert_replay_is
from tests.turns.ended import Ended, ended, said_by, texts

TIMINGS = Timings(lease=9.0, look=0.5, settle=0.2, snapshot=0.1)
SCRIPTS = (
    "SCRIPT:text",
    "SCRIPT:nul",
    "SCRIPT:reasoning",
    'SCRIPT:slow {"n": 6, "delay": 0.05}',
    "SCRIPT:bash",
    "SCRIPT:todo",
    "SCRIPT:task",
    'SCRIPT:task {"prompt": "SCRIPT:loop 2"}',
    "SCRIPT:loop 3",
    'SCRIPT:streamerror {"times": 1}',
    "SCRIPT:unknowntool",
    "SCRIPT:length",
)
AT_ONCE = 10  # turns that share a stream, and what happens to it
STREAMS = 5  # of a test
WRONG: tuple[object, ...] = (
    *(None, True, 0, -1, 1.5, 2**70, "", "x", "a\x00b", "\ud800", [], [[]], {}, {"id": 7}),
    *(MISSING, *LITERALS),
)
GARBAGE = ("{", "null", "[1]", '"text"', '{"type": 7}', "NaN", "", '{"type": "session.idle"}')
FAULTS = ("cut", "duplicate", "duplicate", "reorder", "reorder")
EVENTS = 250  # about as many as so many turns send
CHANCE = 0.05  # of each kind of tampering, at each event
Json = dict[str, Any]


class Tampering:
    """An ``Edit`` of event streams that does to each event what the dice say."""

    def __init__(self, dice: Random) -> None:
        self.done: set[str] = set()
        self._dice = dice
        self._late: list[str] = []

    def __call__(self, raw: bytes) -> Iterable[bytes]:
        text = raw.decode().removeprefix("data: ")
        event = json.loads(text)
        if event["type"].startswith("server."):
            return [raw]
        return [b"data: " + told.encode() for told in self._told(event, text)]

    def _told(self, event: Json, text: str) -> list[str]:
        told = [text]
        if self._happens("mistyped"):
            told = [self._mistyped(event)]
        if self._happens("mistyped as well"):
            told.insert(self._dice.randint(0, 1), self._mistyped(event))
        if self._happens("unknown"):
            told.insert(0, wire_text({**event, "type": self._dice.choice(UNKNOWN)}))
        if self._happens("garbage"):
            told.append(self._dice.choice(GARBAGE))
        if self._happens("lost"):
            told.clear()
        if self._happens("twice"):
            told += told
        if self._happens("late"):
            self._late += told
            return []
        if self._late and self._dice.random() < 0.3:
            told += self._late
            self._late = []
        return told

    def _happens(self, what: str) -> bool:
        if self._dice.random() >= CHANCE:
            return False
        self.done.add(what)
        return True

    def _mistyped(self, event: Json) -> str:
        changed = json.loads(json.dumps(event))
        way = self._dice.choice(list(paths(changed)))
        replaced(changed, way, self._dice.choice(WRONG))
        return wire_text(changed)


def endanger(impostor: Impostor, dice: Random) -> set[str]:
    """Have the server do to its streams what the dice say; what that is."""
    kinds = dice.choices(FAULTS, k=6)
    if dice.random() < 0.4:
        kinds.append("stall")
    for kind in kinds:
        getattr(impostor.faults, kind)(dice.randint(1, EVENTS))
    return set(kinds)


async def tampered(url: str, folder: Path, dice: Random) -> tuple[list[Ended], set[str]]:
    """Some turns at once over one stream that is tampered with, and how it was."""
    before = asyncio.all_tasks()
    edit = Tampering(dice)
    async with (
        Impostor(folder, clock=SuiteClock(), latency=LATENCY) as impostor,
        serving(impostor) as server,
    ):
        proxy = Proxy(server, edit)
        faults = endanger(impostor, dice)
        async with (
            proxy.running() as between,
            host(url, between, timings=TIMINGS, dispatch=nowhere) as app,
        ):
            async with asyncio.TaskGroup() as tasks:
                prompts = [{"text": dice.choice(SCRIPTS)} for _ in range(AT_ONCE)]
                turns = [tasks.create_task(ended(app, prompt)) for prompt in prompts]
            await app.holds_no_connection()
    assert asyncio.all_tasks() == before
    unexpected = [
        error
        for error in app.reports.errors
        if not isinstance(error, (Malformed, OpencodeConnectionError))
    ]
    assert not unexpected, unexpected
    return [turn.result() for turn in turns], edit.done | faults


def as_rest_says(turn: Ended) -> None:
    """The turn is at its end, stored as the server has it and as its follower was told."""
    row = turn.row
    assert row.status in TERMINAL
    assert (row.status, row.error_code) == ("completed", None)
    assert row.finish in ("stop", "length")
    assert said_by(None, row) == [*map(clean, texts(turn.answers))]
    theirs = [part["content"] for part in row.parts if part.get("subagent") and "content" in part]
    assert theirs == [*map(clean, texts(turn.children))]
    own = [part["id"] for part in row.parts if not part.get("subagent")]
    assert own == [p["id"] for m in turn.answers for p in m["parts"] if p["type"] in KINDS]
    assert_replay_is(turn.changes, message_json(row))


@pytest.mark.slow("fifty turns each, under load")
@pytest.mark.parametrize("number", range(4))
async def test_turns_end_as_rest_says_whatever_becomes_of_their_streams(
    number: int, tmp_path: Path
) -> None:
    done: set[str] = set()
    for stream in range(STREAMS):
        seed = f"{number}.{stream}"
        print(f"seed {seed}")
        url = f"sqlite+aiosqlite:///{tmp_path / f'{stream}.db'}"
        folder = tmp_path / str(stream)
        folder.mkdir()
        turns, happened = await tampered(url, folder, Random(seed))  # noqa: S311
        assert len(turns) == AT_ONCE
        for turn in turns:
            as_rest_says(turn)
        done |= happened
    assert done >= {"mistyped", "mistyped as well", "unknown", "garbage", "lost", "twice", "late"}
    assert done >= {*FAULTS}
