"""A host's observers of a reply, and how they are fed without being waited for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import ParamSpec

from opencode_async.observability.error_reporter import ErrorReporter, Severity
from opencode_async.protocol.changes import Change, PartAdded, PartDelta, PartUpdated
from opencode_async.protocol.parts import Part
from opencode_async.turns.message import TurnResult

DRAIN = 5.0  # s an observer has, after the turn ended, for what it was not told yet
HEED = 1.0  # s it has to clean up when it is cancelled; one that goes on regardless is left alone
MOST_ERRORS = 100  # an observer is told of, if it lags: the newest; the reporter has them all
Told = ParamSpec("Told")


class ReplyObserver:
    """Override what you want to hear of a turn; each method is awaited in order, off the hot path.

    A part that changed several times before its turn came is told once, as it then is; one of a
    subagent's has its session as ``subagent``. Each worker that runs the turn has an observer of
    its own: that of one which takes it over is first told of the parts that are stored. What a
    method raises goes to the ``ErrorReporter`` and changes nothing; one that takes long is told
    less often, and is left 5 s behind the end of the turn.
    """

    async def on_part_appended(self, part: Part) -> None:
        """A part is new."""

    async def on_part_updated(self, part: Part, index: int) -> None:
        """The part at that place has changed: text grew or was withdrawn, a tool went on."""

    async def on_error(self, error: BaseException, *, severity: Severity) -> None:
        """Something failed that the turn may go on after."""

    async def on_finalized(self, result: TurnResult) -> None:
        """The turn has ended and is stored."""


class ObserverFeed:
    """Feeds one observer; its backlog is bounded: by the number of parts, and ``MOST_ERRORS``."""

    def __init__(
        self, observer: ReplyObserver, part: Callable[[int], Part], report: ErrorReporter
    ) -> None:
        self._observer = observer
        self._part = part
        self._report = report
        self._due: dict[int, bool] = {}  # index -> whether it is new; in the order they came up
        self._errors: deque[tuple[BaseException, Severity]] = deque(maxlen=MOST_ERRORS)
        self._arrived = asyncio.Event()
        self._result: TurnResult | None = None
        self._deadline = 0.0
        self._telling: asyncio.Task[None] | None = None

    @property
    def backlog(self) -> int:
        """How much it is yet to be told."""
        return len(self._due) + len(self._errors)

    def take(self, changes: Iterable[Change]) -> None:
        """Note what has changed."""
        for change in changes:
            if isinstance(change, PartAdded):
                self._due[change.index] = True
            elif isinstance(change, (PartDelta, PartUpdated)):
                self._due.setdefault(change.index, False)
        self._arrived.set()

    def reset(self, parts: int) -> None:
        """The parts are other ones now, so many: each is told as new."""
        self._due = dict.fromkeys(range(parts), True)
        self._arrived.set()

    def error(self, error: BaseException, severity: Severity) -> None:
        """Note an error."""
        self._errors.append((error, severity))
        self._arrived.set()

    def start(self) -> None:
        """Begin to tell the observer; from then on this is to be closed.

        In no task group: that would wait for ever for an observer that swallows its cancellation.
        """
        self._telling = asyncio.create_task(self._run())

    def finish(self, result: TurnResult) -> None:
        """The turn has ended: that is the last it is told, within a deadline from now."""
        self._result = result
        self._deadline = asyncio.get_running_loop().time() + DRAIN
        self._arrived.set()

    async def drained(self) -> None:
        """Wait until it was told all, or until the deadline; not unless the turn has ended."""
        if self._telling is None or self._result is None:
            return
        left = self._deadline - asyncio.get_running_loop().time()
        await asyncio.wait([self._telling], timeout=max(0.0, left))
        if not self._telling.done():
            self._failed(TimeoutError(f"observer not done {DRAIN} s after the end of its turn"))

    async def close(self) -> None:
        """Tell it no more; one that does not heed that is left alone, and reported."""
        if self._telling is None:
            return
        self._telling.cancel()
        await asyncio.wait([self._telling], timeout=HEED)
        if not self._telling.done():
            self._failed(TimeoutError(f"observer goes on {HEED} s after it was cancelled"))
        elif not self._telling.cancelled() and (error := self._telling.exception()) is not None:
            self._failed(error)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            await self._tell()
            if self._result is not None and not self.backlog:
                await self._call(self._observer.on_finalized, self._result)
                return

    async def _tell(self) -> None:
        while self._due:
            index = next(iter(self._due))
            new = self._due.pop(index)
            try:
                part = self._part(index)
            except IndexError:
                continue  # the parts are other ones now, and will be told as such
            if new:
                await self._call(self._observer.on_part_appended, part)
            else:
                await self._call(self._observer.on_part_updated, part, index)
        while self._errors:
            error, severity = self._errors.popleft()
            await self._call(self._observer.on_error, error, severity=severity)

    async def _call(
        self, method: Callable[Told, Awaitable[None]], *args: Told.args, **kwargs: Told.kwargs
    ) -> None:
        task = asyncio.current_task()
        try:
            await method(*args, **kwargs)
        except asyncio.CancelledError as error:
            if task is None or task.cancelling():
                raise
            self._failed(error)  # a task of its own was cancelled, not this one
        except Exception as error:
            self._failed(error)
        if task is not None and task.cancelling():
            raise asyncio.CancelledError  # which it kept to itself

    def _failed(self, error: BaseException) -> None:
        self._report(error, severity="warning", context={"during": "observer"})
