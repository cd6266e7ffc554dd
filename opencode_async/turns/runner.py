"""The turns that run in one process: started, joined, stopped, given up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from opencode_async.errors import LeaseHeld, LeaseLost, MessageNotFound
from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.turns.message import TurnResult


class Commanded(Protocol):
    """A turn that this process can tell to look at its rows."""

    def stop(self) -> None:
        """The row's ``stop_requested`` is set."""

    def heed_answers(self) -> None:
        """Something that the agent asked was answered."""


@dataclass(eq=False)
class _Running:
    """A turn that runs here: in which task, whether it is over, what to tell it."""

    key: Any
    task: asyncio.Task[Any] | None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    turn: Commanded | None = None


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
        # Several of one turn only where it was asked to run twice: the lease then refuses one.
        self._running: dict[str, list[_Running]] = {}
        self._closed = False

    def start(self, key: Any) -> None:
        """Run the turn, unless it runs here already or this process is about to end."""
        name = str(key)
        if name not in self._running and not self._closed:
            task = self._tasks.create_task(self._run(key), name=f"opencode turn {name}")
            running = self._note(key, task)
            task.add_done_callback(lambda _: self._forget(running))

    @contextmanager
    def here(self, key: Any, turn: Commanded) -> Iterator[None]:
        """The turn runs in this task: it can be told and waited for while the block lasts."""
        task = asyncio.current_task()
        known = (r for r in self._running.get(str(key), ()) if r.task is task)
        running = next(known, None) or self._note(key, task)
        running.turn = turn
        try:
            yield
        finally:
            self._forget(running)

    @property
    def keys(self) -> list[Any]:
        """The turns that run here."""
        return [running[0].key for running in self._running.values()]

    def stop(self, key: Any) -> None:
        """Tell a turn that runs here that its row says stop."""
        for turn in self._here(key):
            turn.stop()

    def heed_answers(self, key: Any) -> None:
        """Tell a turn that runs here that something it asks was answered."""
        for turn in self._here(key):
            turn.heed_answers()

    async def join(self, key: Any) -> None:
        """Wait until the turn no longer runs here; from within the turn itself, not at all."""
        for running in tuple(self._running.get(str(key), ())):
            if running.task is not asyncio.current_task():
                await running.over.wait()

    def close(self) -> None:
        """Start no more, and give up what was started here: each turn releases its lease."""
        self._closed = True
        for running in [each for several in self._running.values() for each in several]:
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

    def _here(self, key: Any) -> list[Commanded]:
        return [r.turn for r in self._running.get(str(key), ()) if r.turn is not None]

    def _note(self, key: Any, task: asyncio.Task[Any] | None) -> _Running:
        running = _Running(key, task)
        self._running.setdefault(str(key), []).append(running)
        return running

    def _forget(self, running: _Running) -> None:
        running.over.set()
        several = self._running.get(str(running.key), [])
        if running in several:
            several.remove(running)
        if not several:
            self._running.pop(str(running.key), None)
