"""The tasks of one process that run turns: started, joined, stopped, and owned by nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from opencode_async.errors import LeaseHeld, LeaseLost, MessageNotFound
from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.turns.message import TurnResult

Execute = Callable[[Any, Callable[[Callable[[], None]], None]], Awaitable[TurnResult]]


class Runner:
    """Runs each turn in a task of its own; one that fails takes no other along."""

    def __init__(self, tasks: asyncio.TaskGroup, execute: Execute, report: ErrorReporter) -> None:
        self._tasks = tasks
        self._execute = execute
        self._report = report
        self._running: dict[str, asyncio.Task[TurnResult | None]] = {}
        self._stops: dict[str, Callable[[], None]] = {}

    def start(self, key: Any) -> None:
        """Run the turn unless it is running here already."""
        name = str(key)
        if name not in self._running:
            task = self._tasks.create_task(self._run(key), name=f"opencode turn {name}")
            self._running[name] = task
            task.add_done_callback(lambda _: self._forget(name))

    def stop(self, key: Any) -> None:
        """Tell a turn that runs here that its row says stop."""
        if (stop := self._stops.get(str(key))) is not None:
            stop()

    async def join(self, key: Any) -> None:
        """Wait until the turn no longer runs here; the waiter's cancellation does not touch it."""
        if (task := self._running.get(str(key))) is not None:
            await asyncio.wait([task])

    def cancel(self) -> None:
        """Give every turn up; each releases its lease."""
        for task in list(self._running.values()):
            task.cancel()

    async def _run(self, key: Any) -> TurnResult | None:
        try:
            return await self._execute(key, lambda stop: self._stops.__setitem__(str(key), stop))
        except (LeaseHeld, LeaseLost, MessageNotFound):
            return None  # another worker's turn, or nobody's any more: nothing is wrong
        except Exception as error:
            context = {"during": "turn", "message_id": str(key)}
            self._report(error, severity="error", context=context)
            return None

    def _forget(self, name: str) -> None:
        self._running.pop(name, None)
        self._stops.pop(name, None)
