"""What followers are told and what the row holds go together, whoever is slow."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import make_transient_to_detached

from opencode_async.brokers.broker import Frame
from opencode_async.observability.instrumentation import log_event
from opencode_async.observability.tracer import NoTracer
from opencode_async.protocol.changes import PermissionAsked
from opencode_async.protocol.parts import TextPart
from opencode_async.timings import Timings
from opencode_async.turns.audience import Audience, Wiring
from opencode_async.turns.beside import Besides
from opencode_async.turns.observer import ObserverFeed, ReplyObserver
from tests.protocol.replies import T1, answering
from tests.protocol.wire_events import delta, text
from tests.support.hosts import Message, Reports


class SlowBroker:
    """Takes frames when it is let."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.let = asyncio.Event()

    async def publish(
        self, topic: str, epoch: int, frames: Sequence[Frame], *, stored: int
    ) -> None:
        await self.let.wait()
        self.frames += frames


class Rows:
    """A lease that remembers what was written."""

    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []
        self.stored = asyncio.Event()

    async def store(self, values: dict[str, Any]) -> None:
        self.written.append(values)
        self.stored.set()


async def hold() -> None:
    """The lease is there."""


async def test_a_row_written_while_a_broker_is_slow_says_how_much_of_the_stream_it_holds() -> None:
    broker, rows, reports = SlowBroker(), Rows(), Reports()
    wiring: Any = Wiring(
        broker=broker,  # type: ignore[arg-type]
        observer_factory=None,
        on_turn_finished=None,
        may_spend=None,
        promoted=None,
        report=reports,
        instrumentation=log_event,
        tracer=NoTracer(),
        timings=Timings(snapshot=0.05),  # behind all that is begun here
        name="test",
        besides=Besides(),
        artifacts=None,
        decide=None,
    )
    lease: Any = rows
    row: Any = Message(id="m", epoch=1)
    make_transient_to_detached(row)
    audience = Audience(lease, row, wiring, lease)
    reply = answering(text(T1))
    audience.begin(reply)
    async with (
        asyncio.timeout(5),
        asyncio.TaskGroup() as tasks,
        audience.growing(tasks, lambda: None),
    ):
        broker.let.set()
        await audience.publish(reply.apply(delta("One. ", T1)), hold)
        broker.let.clear()
        asking = tasks.create_task(audience.publish([PermissionAsked({"id": "1"})], hold))
        await asyncio.sleep(0)  # it waits for the broker
        telling = tasks.create_task(audience.publish(reply.apply(delta("Two. ", T1)), hold))
        await rows.stored.wait()
        broker.let.set()
        await asyncio.wait([asking, telling])
    stored = next(values for values in rows.written if "Two." in values["content"])
    behind = [frame for frame in broker.frames if frame.seq > stored["cursor"]]
    assert "Two." not in str([frame.data for frame in behind])
    assert [frame.seq for frame in broker.frames] == [1, 2, 3]
    assert reports.errors == []


async def test_an_observer_is_not_told_of_parts_that_are_no_more() -> None:
    told: list[str] = []

    class Observer(ReplyObserver):
        async def on_part_appended(self, part: Any) -> None:
            told.append(part.id)

    parts = [TextPart("prt_1", "One.")]
    reports = Reports()
    feed = ObserverFeed(Observer(), parts.__getitem__, reports)
    feed.reset(2)
    result: Any = object()
    async with asyncio.timeout(5):
        feed.start()
        await asyncio.sleep(0)
        feed.reset(1)
        feed.finish(result)
        await feed.drained()
    assert set(told) == {"prt_1"}
    assert reports.errors == []
