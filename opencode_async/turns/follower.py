"""Somebody who follows a turn or a conversation, as operators are told of them."""

from __future__ import annotations

from typing import Self

from opencode_async.observability.events import FollowerJoined, FollowerLeft, FollowerStalled
from opencode_async.observability.instrumentation import Instrumentation


class Follower:
    """Follows while the block lasts; ``of`` is ``turn`` or ``conversation``, ``id`` its key."""

    __slots__ = ("_id", "_of", "_tell")

    def __init__(self, tell: Instrumentation, of: str, id_: str) -> None:
        self._tell = tell
        self._of = of
        self._id = id_

    def __enter__(self) -> Self:
        self._tell(FollowerJoined(of=self._of, id=self._id))
        return self

    def __exit__(self, *_: object) -> None:
        self._tell(FollowerLeft(of=self._of, id=self._id))

    def stalled(self) -> None:
        """Its browser takes nothing any more."""
        self._tell(FollowerStalled(of=self._of, id=self._id))
