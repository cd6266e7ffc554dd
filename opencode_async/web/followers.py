"""How many streams are open at once: in all, of one conversation, to one caller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opencode_async.errors import OpencodeError

RETRY_AFTER = 5  # s


class TooManyFollowers(OpencodeError):
    """``most`` streams are open already: of this process, of the conversation, or to the caller."""

    def __init__(self, of: str, most: int) -> None:
        super().__init__(f"{most} streams of this {of} are open already")
        self.of = of
        self.most = most
        self.retry_after = RETRY_AFTER


@dataclass(frozen=True)
class FollowerLimits:
    """How many streams one process serves at once, of one router.

    Of one ``conversation``, whoever follows it and its turns, and to one ``caller``, who is told by
    ``Access.by``; callers without are not counted each. One more is answered 429.
    """

    process: int = 5000
    conversation: int = 100
    caller: int = 50


class Followers:
    """Counts the streams that are open."""

    def __init__(self, limits: FollowerLimits) -> None:
        self._limits = limits
        self._open: Counter[tuple[str, str]] = Counter()

    def one(self, conversation_id: Any, caller: str | None) -> Place:
        """A place for one stream while the block lasts; entering raises ``TooManyFollowers``."""
        limits = self._limits
        wanted = [("process", "", limits.process)]
        wanted.append(("conversation", str(conversation_id), limits.conversation))
        if caller is not None:
            wanted.append(("caller", caller, limits.caller))
        return Place(self._open, wanted)


class Place:
    """A place among those that are open, of each of several kinds."""

    __slots__ = ("_open", "_wanted")

    def __init__(
        self, streams: Counter[tuple[str, str]], wanted: Sequence[tuple[str, str, int]]
    ) -> None:
        self._open = streams
        self._wanted = wanted

    def __enter__(self) -> None:
        for of, which, most in self._wanted:
            if self._open[of, which] >= most:
                raise TooManyFollowers(of, most)
        for of, which, _most in self._wanted:
            self._open[of, which] += 1

    def __exit__(self, *_: object) -> None:
        for of, which, _most in self._wanted:
            self._open[of, which] -= 1
            if not self._open[of, which]:
                del self._open[of, which]
