"""How many streams are open at once: in all, of one conversation, to one caller."""

from __future__ import annotations

from collections import Counter
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
        return Place(self, conversation_id, caller)

    def take(self, conversation_id: Any, caller: str | None) -> None:
        """One more stream is open. Raises ``TooManyFollowers``."""
        kinds = self._kinds(conversation_id, caller)
        for (of, which), most in kinds.items():
            if self._open[of, which] >= most:
                raise TooManyFollowers(of, most)
        self._open.update(kinds.keys())

    def give_back(self, conversation_id: Any, caller: str | None) -> None:
        """One of them is no more."""
        for kind in self._kinds(conversation_id, caller):
            self._open[kind] -= 1
            if not self._open[kind]:
                del self._open[kind]

    def _kinds(self, conversation_id: Any, caller: str | None) -> dict[tuple[str, str], int]:
        """What such a stream counts as, and how many of that may be open."""
        limits = self._limits
        kinds = {
            ("process", ""): limits.process,
            ("conversation", str(conversation_id)): limits.conversation,
        }
        return kinds if caller is None else {**kinds, ("caller", caller): limits.caller}


class Place:
    """The place of one stream."""

    __slots__ = ("_among", "_whose")

    def __init__(self, among: Followers, *whose: Any) -> None:
        self._among = among
        self._whose = whose

    def __enter__(self) -> None:
        self._among.take(*self._whose)

    def __exit__(self, *_: object) -> None:
        self._among.give_back(*self._whose)
