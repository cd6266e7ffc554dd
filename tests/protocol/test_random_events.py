"""Event streams as they should not be, thousands of them: nothing escapes, followers stay right."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from opencode_async.protocol.changes import (
    PartAdded,
    ReplyChange,
    TodosChanged,
    UsageChanged,
    change_from_json,
)
from opencode_async.protocol.events import Event, SessionCreated, event_from_wire
from opencode_async.protocol.exchange import Exchange
from opencode_async.protocol.messages import Usage, WireMessage
from opencode_async.protocol.parts import Part, ToolPart, part_from_json
from opencode_async.protocol.reply import Reply, reply_json
from opencode_async.protocol.subagents import is_task
from opencode_async.protocol.todos import Todo, todos_from_wire
from opencode_async.protocol.wire import UNSTORABLE, Malformed, loads
from tests.protocol.random_events import Stream, invented_streams, recorded_streams, wire_text
from tests.protocol.wire_events import replayed

GREATEST = 2**63 - 1  # what PostgreSQL's BIGINT holds
# Of 1,700 streams each, for a test has 60 s, also on a slow machine. `make random` tries 10,200.
SLICES = range(6 if int(os.environ.get("SEQUENCES", "0")) >= 10_000 else 1)
Json = dict[str, Any]
MIDWAY = ("look", "gap", "takeover", "accept")
# What a worker does in between: at which event, and how much of REST it sees by then.
interventions = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from(MIDWAY), st.integers(0, 90)), max_size=3
)


class Follower:
    """What somebody has who is told every change, as text, from the turn's beginning."""

    def __init__(self) -> None:
        self.parts: tuple[Part, ...] = ()
        self.todos: tuple[Todo, ...] = ()
        self.usage = Usage()

    def told(self, reply: Reply, changes: Sequence[ReplyChange] | None) -> None:
        """Take in the changes, or a snapshot where there are none, and be as the reply is."""
        if changes is None:
            self.parts = tuple(part_from_json(sent(part.to_json())) for part in reply.result())
            self.todos, self.usage = reply.todos, reply.usage
        for change in changes or ():
            again = change_from_json(change.event, sent(change.to_json()))
            assert again == change
            if isinstance(change, PartAdded):
                assert change.index == len(self.parts)
            self.parts = replayed([change], self.parts)
            match change:
                case TodosChanged(todos):
                    self.todos = todos
                case UsageChanged(usage):
                    self.usage = usage
        assert self.parts == reply.result()
        assert [part.to_json() for part in self.parts] == [p.to_json() for p in reply.result()]
        assert self.todos == reply.todos
        assert self.usage == reply.usage
        assert len({part.id for part in self.parts}) == len(self.parts)


def sent(value: object) -> Any:
    """The value behind the wire; PostgreSQL can store it as it is."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    assert not UNSTORABLE.search(text)
    assert "\\u0000" not in text
    return json.loads(text)


def is_storable(reply: Reply) -> bool:
    """Whether the reply's columns can be stored, its numbers being such that may be added up."""
    columns = reply_json(reply)
    assert sent(columns) == columns
    ledger = [charge.to_json() for charge in reply.ledger]
    assert sent(ledger) == ledger
    usage = reply.usage.to_json()
    assert all(type(value) is int for key, value in usage.items() if key != "cost")
    costs = [usage["cost"], *(charge["cost"] for charge in ledger)]
    counts = [v for c in (usage, *ledger) for k, v in c.items() if k.endswith("_tokens")]
    return all(math.isfinite(cost) and cost >= 0 for cost in costs) and all(
        0 <= count <= GREATEST for count in counts
    )


def parsed(frame: object) -> Event | None:
    """The event in a frame, as the hub has it: what is malformed is read over."""
    try:
        return event_from_wire(loads(wire_text(frame)))
    except Malformed:
        return None


def exchange(stream: Stream, frames: Iterable[Json]) -> Exchange:
    """The turn as REST has it where those frames are what the server knows.

    Ids are keys there: no two messages have the same, and no two parts.
    """
    infos: dict[str, Json] = {}
    told: dict[str, Json] = {}
    children = {}
    for frame in frames:
        if isinstance(event := parsed(frame), SessionCreated) and event.subagent:
            children[event.session_id] = event.subagent
        properties = frame.get("properties")
        if not isinstance(properties, dict):
            continue
        info, part = properties.get("info"), properties.get("part")
        if isinstance(info, dict) and isinstance(info.get("id"), str):
            infos[info["id"]] = info
        if isinstance(part, dict) and isinstance(part.get("id"), str):
            told[part["id"]] = part
    found: list[WireMessage] = []
    for key, info in infos.items():
        own = [part for part in told.values() if part.get("messageID") == key]
        try:
            found.append(WireMessage.from_wire(loads(wire_text({"info": info, "parts": own}))))
        except Malformed:
            continue  # an error of that request, which is asked again
    ours = [message for message in found if message.info.session_id == stream.session_id]
    theirs: dict[str, list[WireMessage]] = {}
    for message in found:
        if message.info.session_id != stream.session_id and message.info.role == "assistant":
            theirs.setdefault(message.info.session_id, []).append(message)
    return Exchange.read(stream.prompt_id, ours, list(children.values()), theirs)


def in_order(parts: Iterable[Part]) -> list[Part]:
    """Each session's parts together: a gap may change the order between sessions."""
    return sorted(parts, key=lambda part: part.subagent or "")


def agrees(part: Part, truth: Part) -> Part:
    """The part; without its subagent where REST does not know it: the stream may."""
    if isinstance(truth, ToolPart) and is_task(truth) and truth.session_id is None:
        assert isinstance(part, ToolPart)
        return replace(part, session_id=None)
    return part


def check(stream: Stream, midway: Sequence[tuple[int, str, int]]) -> int:
    """One stream from its beginning to its end, by way of what a worker does in between.

    How many parts the reply had of the stream, before REST told of the rest.
    """
    reply = Reply(stream.session_id, stream.prompt_id)
    follower = Follower()
    for index, frame in enumerate(stream.frames):
        for _, what, known in (each for each in midway if each[0] == index):
            reply = intervene(reply, follower, what, stream, known)
        if (event := parsed(frame)) is not None:
            follower.told(reply, reply.apply(event))
    assert is_storable(reply)
    reached = len(reply.result())
    truth = exchange(stream, stream.rest)
    follower.told(reply, reply.reconcile(truth.final_parts, final=True))
    follower.told(reply, reply.charge(truth.ledger))
    result, final = in_order(reply.result()), in_order(truth.final_parts)
    assert [part.id for part in result] == [part.id for part in final]
    assert [agrees(p, t) for p, t in zip(result, final, strict=True)] == final
    assert reply.reconcile(truth.final_parts, final=True) == []
    assert {*truth.ledger} <= {*reply.ledger} or any(c.usage == Usage() for c in truth.ledger)
    assert is_storable(reply)
    truth.outcome(reply.error)
    assert todos_from_wire(sent([todo.to_json() for todo in reply.todos])) == reply.todos
    return reached


def intervene(reply: Reply, follower: Follower, what: str, stream: Stream, known: int) -> Reply:
    """Do what a worker does of its own accord; the reply from then on."""
    now = exchange(stream, stream.rest[:known])
    match what:
        case "accept":
            reply.accept()
        case "gap":
            reply.tear()
            follower.told(reply, reply.catch_up(now))
        case "look":
            follower.told(reply, reply.charge(now.ledger))
        case "takeover":
            parts = [part_from_json(sent(part.to_json())) for part in reply.result()]
            todos = reply.todos
            reply = Reply(reply.session_id, reply.prompt_id, parts, reply.ledger)
            reply.todos = todos
            follower.told(reply, reply.catch_up(now))
    return reply


def holds_for(streams: st.SearchStrategy[Stream], examples: int, nth: int) -> None:
    """Check so many streams, the ``nth`` lot of them, and that they are worth it."""
    reached: list[int] = []

    @seed(nth)
    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(streams, interventions)
    def holds(stream: Stream, midway: list[tuple[int, str, int]]) -> None:
        reached.append(check(stream, midway))

    holds()
    assert len(reached) == examples
    assert sum(parts >= 2 for parts in reached) > examples / 5


@pytest.mark.parametrize("nth", SLICES)
def test_recordings_that_were_tampered_with_break_nothing(nth: int) -> None:
    holds_for(recorded_streams(), 1000, nth)


@pytest.mark.parametrize("nth", SLICES)
def test_streams_that_nobody_would_send_break_nothing(nth: int) -> None:
    holds_for(invented_streams(), 700, nth)
