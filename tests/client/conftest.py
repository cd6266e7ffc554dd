"""The hub in its laboratory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from opencode_async.client.hub import EventHub
from opencode_async.observability.error_reporter import Severity
from opencode_async.observability.events import Event
from tests.client.hub_lab import Lab, Streams


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    reported: list[tuple[BaseException, Severity]] = []

    def report(error: BaseException, *, severity: Severity, context: dict[str, str]) -> None:
        assert context.keys() == {"during"}
        reported.append((error, severity))

    streams = Streams()
    async with asyncio.TaskGroup() as tasks:
        told: list[Event] = []
        hub = EventHub(streams.open, tasks, report, told.append, server="http://server")
        lab = Lab(hub, streams, tasks, reported, told)
        yield lab
        for task in lab.started:
            task.cancel()
        hub.close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """The ranges the hub drew its waits from, none of which it waits."""
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return 0.0

    monkeypatch.setattr("opencode_async.client.hub.random.uniform", uniform)
    return drawn


@pytest.fixture
def endless_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that has to wait before it reconnects waits longer than any test does."""
    monkeypatch.setattr("opencode_async.client.hub.random.uniform", lambda low, high: 3600.0)
