"""How often those who hear one stream are woken: together, and no more often than is borne.

Where hundreds of turns hear something all the time, each round of the event loop takes as long as
all they do with it. What needs several rounds, a transaction say, would then take seconds, and
leases would run out: of 500 turns at 20 deltas a second in one process all did (measured). So the
loop is left to others for a while whenever a waking kept it busy.
"""

from __future__ import annotations

import asyncio

from opencode_async.timed_event import TimedEvent

QUICK = 0.005  # s that may be taken without giving way
SHARE = 0.5  # of the time that was taken is given to others
LONGEST = 0.25  # s given at most: something else may have kept the loop


class Pace:
    """Sets events when it is time to."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: dict[TimedEvent, None] = {}  # a set that keeps their order
        self._resting = False

    def set(self, event: TimedEvent) -> None:
        """Set this one with all others that are to be set by then, at once or in a moment."""
        self._due[event] = None
        if not self._resting:
            self._resting = True
            self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        due, self._due = self._due, {}
        for event in due:
            event.set()
        # In one round the turns take in what came, in the next their followers are sent it.
        self._loop.call_soon(self._loop.call_soon, self._passed, self._loop.time())

    def _passed(self, since: float) -> None:
        took = self._loop.time() - since
        if took < QUICK:
            self._rested()
        else:
            self._loop.call_later(min(took * SHARE, LONGEST), self._rested)

    def _rested(self) -> None:
        if self._due:
            self._wake()
        else:
            self._resting = False
