"""The turns that run in one process: started, joined, stopped, given up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from opencode_async.errors import LeaseHeld, LeaseLost, MessageNotFound
from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.turns.message import TurnResult


@dataclass
class _Running:
    """A turn that runs here: in which task, whether it is over, how to tell it to stop."""

    task: asyncio.Task[Any] | None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    stop: Callable[[], None] | None = None


class Runner:
    """Runs each turn in a task of its own; one that fails takes no other along."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        execute: Callable[[Any], Awaitable[TurnResult]],
        report: ErrorReporter,
    ) -> None:
        self._tasks = tasks
        self._execute = execute
        self._report = report
        self._running: dict[str, _Running] = {}
        self._closed = False

    def start(self, key: Any) -> None:
        """Run the turn, unless it runs here already or this process is about to end."""
        name = str(key)
        if name not in self._running and not self._closed:
            task = self._tasks.create_task(self._run(key), name=f"opencode turn {name}")
            running = self._running[name] = _Running(task)
            task.add_done_callback(lambda _: self._forget(name, running))

    @contextmanager
    def here(self, key: Any, stop: Callable[[], None]) -> Iterator[None]:
        """The turn runs in this task: it can be stopped and waited for while the block lasts."""
        name, task = str(key), asyncio.current_task()
        running = self._running.get(name)
        if running is None or running.task is not task:
            running = self._running[name] = _Running(task)
        running.stop = stop
        try:
            yield
        finally:
            self._forget(name, running)

    def stop(self, key: Any) -> None:
        """Tell a turn that runs here that its row says stop."""
        running = self._running.get(str(key))
        if running is not None and running.stop is not None:
            running.stop()

    async def join(self, key: Any) -> None:
        """Wait until the turn no longer runs here; from within the turn itself, not at all."""
        running = self._running.get(str(key))
        if running is not None and running.task is not asyncio.current_task():
            await running.over.wait()

    def close(self) -> None:
        """Start no more, and give up what was started here: each turn releases its lease."""
        self._closed = True
        for running in list(self._running.values()):
            if running.task is not None:
                running.task.cancel()

    async def _run(self, key: Any) -> None:
        try:
            await self._execute(key)
        except (LeaseHeld, LeaseLost, MessageNotFound):
            pass  # another worker's turn, or nobody's any more: nothing is wrong
        except Exception as error:
            context = {"during": "turn", "message_id": str(key)}
            self._report(error, severity="error", context=context)

    def _forget(self, name: str, running: _Running) -> None:
        running.over.set()
        if self._running.get(name) is running:
            del self._running[name]
