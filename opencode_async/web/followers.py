"""How many streams are open at once: in all, of one conversation, to one caller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
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

    @contextmanager
    def one(self, conversation_id: Any, caller: str | None) -> Iterator[None]:
        """One stream is open while the block lasts; raises ``TooManyFollowers``."""
        limits = self._limits
        places = [("process", "", limits.process)]
        places.append(("conversation", str(conversation_id), limits.conversation))
        if caller is not None:
            places.append(("caller", caller, limits.caller))
        for of, which, most in places:
            if self._open[of, which] >= most:
                raise TooManyFollowers(of, most)
        keys = [(of, which) for of, which, _ in places]
        self._open.update(keys)
        try:
            yield
        finally:
            for key in keys:
                self._open[key] -= 1
                if not self._open[key]:
                    del self._open[key]
