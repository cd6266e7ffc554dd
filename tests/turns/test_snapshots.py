"""The snapshot writer ends when told to, whatever it is doing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from opencode_async.brokers.memory import MemoryBroker
from opencode_async.turns.frames import FramePublisher
from opencode_async.turns.snapshots import SnapshotWriter, happens
from tests.support.hosts import Reports


class Rows:
    """A lease that remembers what was written."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.failures = 0
        self.stored = asyncio.Event()

    async def store(self, values: dict[str, Any]) -> str | None:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise OSError("the database is restarting")
        self.written.append(values["content"])
        self.stored.set()
        return None


def writer_of(rows: Rows, text: list[str], interval: float, reports: Reports) -> SnapshotWriter:
    publisher = FramePublisher(MemoryBroker(), "test", "m", 1, reports)
    lease: Any = rows
    return SnapshotWriter(
        lease,
        publisher,
        lambda: {"content": "".join(text), "reasoning": "", "cursor": len(text)},
        interval=interval,
        on_stop=lambda: None,
        report=reports,
    )


@pytest.mark.parametrize("steps", range(8))
async def test_a_writer_ends_at_whatever_step_it_is_told_to(steps: int) -> None:
    writer = writer_of(Rows(), ["a"], 0.0, Reports())
    running = asyncio.create_task(writer.run())
    writer.changed()
    for _ in range(steps):
        await asyncio.sleep(0)
    writer.end()
    async with asyncio.timeout(5):
        await running


async def test_a_writer_told_to_end_in_the_moment_its_pause_is_over_ends() -> None:
    writer = writer_of(Rows(), ["a"], 0.01, Reports())
    running = asyncio.create_task(writer.run())
    writer.changed()
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.01, writer.end)
    async with asyncio.timeout(5):
        await running


async def test_what_could_not_be_written_at_once_is_written_later() -> None:
    rows, reports = Rows(), Reports()
    rows.failures = 1
    writer = writer_of(rows, ["a"], 0.001, reports)
    with pytest.raises(OSError, match="restarting"):
        await writer.write()
    running = asyncio.create_task(writer.run())
    await rows.stored.wait()
    writer.end()
    await running
    assert rows.written == ["a"]


async def test_changes_are_written_together_and_a_failing_database_is_tried_again() -> None:
    rows, text, reports = Rows(), ["a"], Reports()
    rows.failures = 1
    writer = writer_of(rows, text, 0.001, reports)
    running = asyncio.create_task(writer.run())
    writer.changed()
    text.append("b")
    writer.changed()
    await rows.stored.wait()
    writer.end()
    await running
    assert rows.written == ["ab"]
    assert [str(error) for error in reports.errors] == ["the database is restarting"]


async def test_happens_tells_an_event_from_a_time_that_is_up() -> None:
    event = asyncio.Event()
    assert not await happens(event, within=0)
    event.set()
    assert await happens(event, within=0)
