"""The seam between a broker that several processes share and what keeps its frames."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from opencode_async.brokers.broker import Frame

Place = tuple[int, int]
"""An epoch and a number in it: how far somebody has read."""

END = 2**63 - 1
"""The number of an epoch's end, behind every frame; the largest that a BIGINT holds."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept of a topic: a frame of an epoch, or with none, that the epoch has ended."""

    topic: str
    epoch: int
    frame: Frame | None

    @property
    def place(self) -> Place:
        return self.epoch, END if self.frame is None else self.frame.seq


class Bell:
    """What a process wants to hear of, and what rang since it last looked."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()
        self._topics: set[str] = set()
        self._rung: dict[str, bool] = {}
        self._ringing = asyncio.Event()

    def want(self, topic: str) -> None:
        """Hear of a topic; what it has already is to be read, so it rings."""
        self._topics.add(topic)
        self.ring({topic: False})

    def leave(self, topic: str) -> None:
        """Hear of it no more."""
        self._topics.discard(topic)

    def ring(self, topics: Mapping[str, bool]) -> None:
        """These have new entries, or news: something that only a row tells."""
        for topic, news in topics.items():
            if topic in self._topics:
                self._rung[topic] = self._rung.get(topic, False) or news
                self._ringing.set()

    def ring_all(self) -> None:
        """Whatever is wanted may have new entries."""
        self.ring(dict.fromkeys(self._topics, False))

    async def rung(self) -> Mapping[str, bool]:
        """Wait until something rings; what did, and whether there is news."""
        await self._ringing.wait()
        self._ringing.clear()
        rung, self._rung = self._rung, {}
        return rung


class Journal(Protocol):
    """Keeps the entries of every topic for some minutes, and says where there are new ones."""

    async def append(self, entries: Sequence[Entry], news: Collection[str]) -> None:
        """Keep these, in order, and ring for their topics and for those of ``news``.

        One that is there already, or behind whose place there is something, is left out.
        """

    async def read(self, behind: Mapping[str, Place]) -> Mapping[str, Sequence[Entry]]:
        """What is kept of each of these topics behind its place, in order."""

    async def listen(self, bell: Bell) -> None:
        """Ring for ever whenever another process, or this one, appends.

        Sets ``bell.connected`` once nothing can be missed, and raises when something might be.
        """

    async def close(self) -> None:
        """Close what was opened."""


def encoded(entries: Sequence[Entry], news: Collection[str], *, most: int) -> Iterator[str]:
    """The topics to ring for, and whether with news, as JSON of at most so many bytes a piece."""
    piece: list[str] = []
    size = 2
    for topic, told in ({entry.topic: 0 for entry in entries} | dict.fromkeys(news, 1)).items():
        item = f"{json.dumps(topic)}:{told}"
        if piece and size + len(item) + 1 > most:
            yield f"{{{','.join(piece)}}}"
            piece, size = [], 2
        piece.append(item)
        size += len(item) + 1
    if piece:
        yield f"{{{','.join(piece)}}}"


def decoded(text: str | bytes) -> dict[str, bool]:
    """What ``encoded`` wrote; nothing where somebody else wrote it."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return {topic: bool(news) for topic, news in found.items()} if isinstance(found, dict) else {}
