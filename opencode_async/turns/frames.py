"""From changes to numbered frames, and on to the broker."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from opencode_async.brokers.broker import EventBroker, Frame, turn_topic
from opencode_async.models import MessageMixin
from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.protocol.changes import (
    Change,
    Finished,
    MessageAdded,
    Snapshot,
    change_from_json,
    merged,
)
from opencode_async.turns.beside import NOTHING, Beside
from opencode_async.turns.message import message_json

encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
CURSOR_NUMBERS = re.compile(r"[0-9]{1,18}\.[0-9]{1,18}")  # what a BIGINT can hold


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a turn's stream: ``<message id>.<epoch>.<seq>``."""

    message_id: str
    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.message_id}.{self.epoch}.{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """The cursor in a ``Last-Event-ID``; ``None`` for anything else."""
        message_id, _, rest = text.rpartition(".")
        message_id, _, epoch = message_id.rpartition(".")
        numbers = CURSOR_NUMBERS.fullmatch(f"{epoch}.{rest}")
        return cls(message_id, int(epoch), int(rest)) if message_id and numbers else None

    @classmethod
    def of(cls, row: MessageMixin, message_id: str) -> Cursor:
        """The last place that the row contains."""
        return cls(message_id, row.epoch, row.cursor)


def frame_of(change: Change, cursor: Cursor) -> Frame:
    """The change as a frame at that place."""
    data = {"message_id": cursor.message_id, **change.to_json()}
    return Frame(str(cursor), cursor.seq, change.event, encode(data))


def frame_with(frame: Frame, event: str, data: dict[str, Any]) -> Frame:
    """Another event at the same place."""
    return Frame(frame.id, frame.seq, event, encode(data))


def change_of(frame: Frame) -> Change:
    """The change in a frame."""
    data: dict[str, Any] = json.loads(frame.data)
    return change_from_json(frame.event, data)


def row_frame(
    row: MessageMixin,
    kind: type[Snapshot | MessageAdded | Finished],
    beside: Beside = NOTHING,
) -> Frame:
    """The whole row as a frame, at the place the row has reached."""
    message = message_json(row, beside)
    return frame_of(kind(message), Cursor.of(row, message["id"]))


async def wake(broker: EventBroker, topic: str, report: ErrorReporter) -> None:
    """Have the followers of a topic look at the rows; that it fails is reported."""
    try:
        await broker.publish(topic, 0, [], stored=0)
    except Exception as error:
        report(error, severity="warning", context={"during": "publishing", "topic": topic})


class FramePublisher:
    """Numbers the frames of one epoch of a turn and hands them to the broker.

    A broker that fails is reported and not asked again in this epoch: followers then read the row.
    """

    def __init__(
        self, broker: EventBroker, name: str, message_id: str, epoch: int, report: ErrorReporter
    ) -> None:
        self.seq = 0
        self.stored = 0
        self._broker: EventBroker | None = broker
        self._message_id = message_id
        self._topic = turn_topic(name, message_id)
        self._epoch = epoch
        self._report = report

    def numbered(self, changes: Iterable[Change]) -> list[Frame]:
        """The changes as frames, which are to be published in the order of these calls."""
        frames = []
        for change in merged(changes):
            self.seq += 1
            frames.append(frame_of(change, Cursor(self._message_id, self._epoch, self.seq)))
        return frames

    async def publish(self, frames: Sequence[Frame]) -> None:
        """Hand the frames to the broker."""
        if frames and self._broker is not None:
            try:
                await self._broker.publish(self._topic, self._epoch, frames, stored=self.stored)
            except Exception as error:
                self._broken(error)

    async def end(self) -> None:
        """Tell followers to look at the row. Nothing is published behind it."""
        broker, self._broker = self._broker, None
        if broker is not None:
            try:
                await broker.end(self._topic, self._epoch)
            except Exception as error:
                self._broken(error)

    def _broken(self, error: Exception) -> None:
        self._broker = None
        context = {"during": "publishing", "message_id": self._message_id}
        self._report(error, severity="warning", context=context)
