"""Somebody who follows a turn or a conversation, as operators are told of them."""

from __future__ import annotations

from typing import Any, Self

from opencode_async.observability.events import FollowerJoined, FollowerLeft, FollowerStalled
from opencode_async.observability.instrumentation import Instrumentation


class Follower:
    """Follows while the block lasts; ``of`` is ``turn`` or ``conversation``, ``key`` says which."""

    __slots__ = ("_key", "_of", "_tell")

    def __init__(self, tell: Instrumentation, of: str, key: Any) -> None:
        self._tell = tell
        self._of = of
        self._key = key

    def __enter__(self) -> Self:
        self._tell(FollowerJoined(of=self._of, id=str(self._key)))
        return self

    def __exit__(self, *_: object) -> None:
        self._tell(FollowerLeft(of=self._of, id=str(self._key)))

    def stalled(self) -> None:
        """Its browser takes nothing any more."""
        self._tell(FollowerStalled(of=self._of, id=str(self._key)))
