"""The seam between the worker that runs a turn and those who follow it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from opencode_async.observability.error_reporter import ErrorReporter


@dataclass(slots=True)
class Frame:
    """One event for followers: its SSE ``id`` and ``event``, and its ``data`` as JSON text.

    ``seq`` numbers the frames of one epoch of a turn from 1. ``encoded`` is filled by the first
    follower that sends the frame, so that it is encoded once, not once per follower.
    """

    id: str
    seq: int
    event: str
    data: str
    encoded: bytes | None = field(default=None, compare=False)


def turn_topic(name: str, message_id: object) -> str:
    """The topic of a turn's frames; ``name`` is the agent's, for several may share a broker."""
    return f"{name}:message:{message_id}"


def conversation_topic(name: str, conversation_id: object) -> str:
    """The topic of a conversation's news."""
    return f"{name}:conversation:{conversation_id}"


class CursorExpired(Exception):
    """The log does not hold, or no longer, what comes after that cursor: the row does."""


class Feed(Protocol):
    """The frames of one topic after a cursor."""

    @property
    def live(self) -> bool:
        """Whether this log has frames and is being written to, so that the row can wait."""

    @property
    def heard(self) -> bool:
        """Whether what any process publishes of this topic wakes this feed, as far as is known.

        A feed that is heard no more wakes.
        """

    async def batch(self, within: float) -> Sequence[Frame] | None:
        """Frames since the last call, in order; waits for some, ``None`` after so many seconds.

        None of them: look at the row. Not all of them at once, where they are large. Raises
        ``CursorExpired``.
        """


class EventBroker(Protocol):
    """An ordered, replayable log per topic: a turn, or a conversation's news.

    Called from the event loop by any number of publishers and followers; one publisher per topic
    and epoch. An error in it must not fail the turn: what was published is only ever a hint, the
    row is the truth. It keeps frames for minutes at most behind a turn's end (those that come with
    the library: ten, on PostgreSQL until the next frames are published), so it need not be told
    that a turn was erased.
    """

    def running(self, report: ErrorReporter) -> AbstractAsyncContextManager[None]:
        """What it does by itself, it does in this block, once for all agents that share it.

        What goes wrong there goes to ``report``, the first agent's.
        """

    async def publish(
        self, topic: str, epoch: int, frames: Sequence[Frame], *, stored: int
    ) -> None:
        """Append frames in their order and wake the followers.

        A new epoch replaces the log. Frames up to ``stored`` are in the row: they may be dropped,
        later ones may not. Publishing none only wakes.
        """

    async def end(self, topic: str, epoch: int) -> None:
        """Nothing more comes in this epoch: wake the followers, who then look at the row.

        Nothing ends where a newer epoch has begun.
        """

    def follow(self, topic: str, epoch: int, after: int) -> AbstractAsyncContextManager[Feed]:
        """Follow from behind frame ``after`` of ``epoch``; inside the block no frame is missed.

        It is entered once the feed has what was published before, unless that takes too long.
        """
