"""A trap for a worker: it springs at one moment of what passes between it and OpenCode."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

SESSION = re.compile(rb"/session/(ses_\w+)/")


@dataclass(frozen=True)
class Moment:
    """A request with that in it, or the event of that number in the turn's session, from 1.

    The request is passed on behind it or not, and may be meant behind ``session.idle`` only; an
    event is passed on behind it.
    """

    request: bytes = b""
    arrives: bool = True
    behind_idle: bool = False
    event: int = 0


class Trap:
    """``asked`` and ``edit`` are a ``Proxy``'s; ``spring`` is called once.

    The turn is the first that posts, or that of the session it is set for later.
    """

    def __init__(self, moment: Moment, spring: Callable[[], None], *, is_set: bool = True) -> None:
        self.sprung = False
        self._is_set = is_set
        self._events = 0
        self._moment = moment
        self._spring = spring
        self._session: bytes | None = None
        self._idle = False

    def set_for(self, session_id: str) -> None:
        self._session, self._is_set = session_id.encode(), True

    def asked(self, data: bytes) -> Iterable[bytes]:
        if not self._is_set:
            yield data
            return
        if found := SESSION.search(data):
            self._session = self._session or found[1]
        moment = self._moment
        if moment.request and moment.request in data and self._idle >= moment.behind_idle:
            self._now()
        if moment.arrives or not self.sprung:
            yield data

    def edit(self, frame: bytes) -> Iterable[bytes]:
        if self._session is not None and self._session in frame and not self._idle:
            self._events += 1
            self._idle = b'"session.idle"' in frame
            if self._events == self._moment.event:
                self._now()
        yield frame

    def _now(self) -> None:
        if not self.sprung:
            self.sprung = True
            self._spring()
