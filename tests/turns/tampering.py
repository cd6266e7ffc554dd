"""Turns on an Impostor, and what is done to each of their event streams on its way."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.protocol.random_events import lengths, places, tamper, tampered, wire_text

# Each with how it ends: status, finish, and the error's code.
COMPLETED = ("completed", "stop", None)
SCRIPTS: dict[str, tuple[str, str | None, str | None]] = {
    "SCRIPT:text": COMPLETED,
    "SCRIPT:nul": COMPLETED,
    "SCRIPT:reasoning": COMPLETED,
    'SCRIPT:slow {"n": 6, "delay": 0.05}': COMPLETED,
    "SCRIPT:bash": COMPLETED,
    "SCRIPT:todo": COMPLETED,
    "SCRIPT:task": COMPLETED,
    'SCRIPT:task {"prompt": "SCRIPT:loop 2"}': COMPLETED,
    "SCRIPT:loop 3": COMPLETED,
    'SCRIPT:streamerror {"times": 1}': COMPLETED,
    "SCRIPT:unknowntool": COMPLETED,
    "SCRIPT:question": ("completed", "rejected", None),
    'SCRIPT:read {"path": "/etc/none"}': COMPLETED,
    "SCRIPT:length": ("completed", "length", None),
    "SCRIPT:error401": ("error", None, "provider_error"),
    "SCRIPT:contentfilter": ("error", "content_filter", "content_filter"),
}
GARBAGE = ("{", "null", "[1]", '"text"', '{"type": 7}', "NaN", "", '{"type": "session.idle"}')
# What is done to events that follow one another; see `tamper`.
FAULTS = (
    *("cut", "double", "move", "turn around", "weave", "unknown", "garbage"),
    *("mistype", "lose", "spoil", "rehome", "cross"),
)
FIRST = 30  # events of a turn, at which something may begin: about as many as most have
Json = dict[str, Any]
Tampering = tuple[str, int, int, int, object]


@dataclass(frozen=True)
class Plan:
    """A prompt, and what is done to the events of its turn: at which of them, and what."""

    prompt: str
    tamperings: Sequence[tuple[int, Tampering]]


@dataclass(frozen=True)
class Breaks:
    """Behind how many events the stream of several turns is cut, and from which on it is silent."""

    cuts: Sequence[int]
    stall: int | None


plans = st.builds(
    Plan,
    st.sampled_from(list(SCRIPTS)),
    st.lists(
        st.tuples(
            st.integers(0, FIRST),
            st.tuples(st.sampled_from(FAULTS), places, places, lengths, tampered),
        ),
        min_size=2,
        max_size=8,
    ),
)


def breaks(events: int) -> st.SearchStrategy[Breaks]:
    """What becomes of the stream of so many events."""
    at = st.integers(1, events)
    return st.builds(Breaks, st.lists(at, max_size=2), st.none() | at)


def drawn(strategy: st.SearchStrategy[Any], count: int, nth: int) -> list[Any]:
    """So many of them, each other than the rest: the ``nth`` lot, the same each time."""
    found: dict[str, Any] = {}

    @seed(nth)
    @settings(
        max_examples=count + count // 4,  # some come twice
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(value: Any) -> None:
        if len(found) < count:
            found[repr(value)] = value

    draw()
    assert len(found) == count
    return list(found.values())


class TurnStream:
    """The events of one turn, some of which are held back until enough are there to tamper with."""

    def __init__(self, plan: Plan, done: Counter[str]) -> None:
        self._due = sorted(plan.tamperings, key=lambda each: each[0])
        self._done = done
        self._seen = 0
        self._held: list[Json] = []

    def told(self, event: Json, *, last: bool) -> list[str]:
        """What arrives in the place of an event; the last one is not held back."""
        self._seen += 1
        if not self._due or self._seen <= self._due[0][0]:
            return [wire_text(event)]
        self._held.append(event)
        length = self._due[0][1][3]
        if len(self._held) < length and not last:
            return []
        _, tampering = self._due.pop(0)
        held, self._held = self._held, []
        return self._tampered(held, tampering)

    def broken(self) -> None:
        """What is held back was never sent."""
        self._held = []

    def _tampered(self, events: list[Json], tampering: Tampering) -> list[str]:
        what, one, other, *_ = tampering
        before = [wire_text(event) for event in events]
        if what == "garbage":
            place = one % (len(before) + 1)
            after = [*before[:place], GARBAGE[other % len(GARBAGE)], *before[place:]]
        else:
            tamper(events, tampering)
            after = [wire_text(event) for event in events]
        self._done[what] += before != after
        return after


class TamperingTransport(httpx.AsyncBaseTransport):
    """An Impostor's, behind which each turn gets its events as one of the plans has it.

    ``plans`` are those of the sessions, ``done`` how often what was done.
    """

    def __init__(
        self, transport: httpx.AsyncBaseTransport, plans: Sequence[Plan], breaks: Breaks
    ) -> None:
        self.plans: dict[str, Plan] = {}
        self.done: Counter[str] = Counter()
        self._transport = transport
        self._waiting = list(plans)
        self._breaks = breaks
        self._events = 0
        self._stalled = False
        self._turns: dict[str, TurnStream] = {}
        self._roots: dict[str, str] = {}  # of subagents' sessions

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See ``httpx``."""
        path = request.url.path
        if path.endswith("/prompt_async"):
            self._expect(path.split("/")[2], json.loads(request.content))
        response = await self._transport.handle_async_request(request)
        if path == "/event":
            assert isinstance(response.stream, httpx.AsyncByteStream)
            self._stalled = False
            for turn in self._turns.values():
                turn.broken()
            response.stream = EditedStream(response.stream, self._edit)
        return response

    def _expect(self, session_id: str, body: Json) -> None:
        if session_id not in self.plans:
            text = body["parts"][0]["text"]
            plan = next(plan for plan in self._waiting if plan.prompt == text)
            self._waiting.remove(plan)
            self.plans[session_id] = plan
            self._turns[session_id] = TurnStream(plan, self.done)

    def _edit(self, frame: bytes) -> list[bytes]:
        self._events += 1
        if self._events in self._breaks.cuts:
            self.done["the stream cut"] += 1
            raise httpx.ReadError("cut")
        if self._events == self._breaks.stall:
            self.done["the stream stalled"] += 1
            self._stalled = True
        if self._stalled:
            return []
        event = json.loads(frame.removeprefix(b"data: "))
        properties = event["properties"]
        session_id = properties.get("sessionID", "")
        parent = properties.get("info", {}).get("parentID")
        if parent and event["type"] == "session.created":
            self._roots[session_id] = self._roots.get(parent, parent)
        root = self._roots.get(session_id, session_id)
        if root not in self._turns:
            return [frame]
        last = session_id == root and event["type"] == "session.idle"
        told = self._turns[root].told(event, last=last)
        return [f"data: {text}\n\n".encode() for text in told]


class EditedStream(httpx.AsyncByteStream):
    """A stream whose pieces, one event each, are edited."""

    def __init__(self, stream: httpx.AsyncByteStream, edit: Callable[[bytes], list[bytes]]) -> None:
        self._stream = stream
        self._edit = edit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            for edited in self._edit(piece):
                yield edited

    async def aclose(self) -> None:
        await self._stream.aclose()
