"""What end users may see of a reply: a host's ``show``, wherever a part leaves the app.

A hidden part keeps its place as ``{id, type: "hidden"}``, so the indexes of a stream stay true.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from opencode_async.brokers.broker import Frame
from opencode_async.models import LIVE
from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.protocol.changes import PartDelta, PartUpdated
from opencode_async.protocol.parts import Part, ToolPart, part_from_json
from opencode_async.turns.following import Batches
from opencode_async.turns.frames import frame_with

Show = Callable[[Part], Part | None]
Json = dict[str, Any]


class Shown:
    """Applies ``show`` to messages and streams; a part for which it raises is hidden."""

    def __init__(self, show: Show, report: ErrorReporter) -> None:
        self._show = show
        self._report = report

    def part(self, part: Part) -> Seen:
        """The part, as it is and as it may be seen."""
        hidden = {"id": part.id, "type": "hidden"}
        try:
            shown = self._show(part)
            return Seen(part, hidden if shown is None else shown.to_json())
        except Exception as error:
            self._report(error, severity="error", context={"during": "show", "part_id": part.id})
            return Seen(part, hidden)

    def message(self, message: Mapping[str, Any]) -> Json:
        """The message with its parts as they may be seen, and only their texts."""
        return with_parts(message, self.seen(message))

    def seen(self, message: Mapping[str, Any]) -> list[Seen]:
        """The message's parts, each as it is and as it may be seen."""
        return [self.part(part_from_json(part)) for part in message["parts"]]

    async def batches(self, batches: Batches) -> Batches:
        """One follower's stream; of each message it must bring a whole state first."""
        follower = _Follower(self)
        async with aclosing(batches):
            async for frames in batches:
                shown = [follower.shown(frame) for frame in frames]
                if left := [frame for frame in shown if frame is not None]:
                    yield left


@dataclass(frozen=True, slots=True)
class Seen:
    """A part as it is, and what the follower has of it."""

    part: Part
    shown: Json


class _Follower:
    """Knows the parts of the messages that are being streamed to one follower."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._messages: dict[str, list[Seen]] = {}

    def shown(self, frame: Frame) -> Frame | None:
        """The frame as it may be seen; ``None`` if nothing of it may."""
        data: Json = json.loads(frame.data)
        if "message" in data:
            return self._whole(frame, data)
        if "index" not in data:
            secret = "todos" in data and hides_plan(self._messages[data["message_id"]])
            return None if secret else frame
        parts, index = self._messages[data["message_id"]], data["index"]
        if index == len(parts):
            seen = self._shown.part(part_from_json(data["part"]))
            parts.append(seen)
            return frame_with(frame, frame.event, {**data, "part": seen.shown})
        was = parts[index]
        now = parts[index] = self._shown.part(
            _grown(was.part, data["delta"]) if "delta" in data else part_from_json(data["part"])
        )
        if now.shown == was.shown:
            return None
        place = {"message_id": data["message_id"], "index": index}
        delta = _growth(was.shown, now.shown)
        if delta is None:
            return frame_with(frame, PartUpdated.event, {**place, "part": now.shown})
        if delta == data.get("delta"):
            return frame  # encoded once for all who see it
        return frame_with(frame, PartDelta.event, {**place, "delta": delta})

    def _whole(self, frame: Frame, data: Json) -> Frame:
        message_id, message = data["message_id"], data["message"]
        seen = self._shown.seen(message)
        if message["status"] in LIVE:
            self._messages[message_id] = seen
        else:
            self._messages.pop(message_id, None)
        shown = with_parts(message, seen)
        return frame_with(frame, frame.event, {**data, "message": shown})


def with_parts(message: Mapping[str, Any], seen: list[Seen]) -> Json:
    """The message with its parts as they may be seen, and nothing that hidden ones hold."""
    if message["role"] == "user":
        return dict(message)
    parts = [part.shown for part in seen]
    texts = {"content": _joined(parts, "text"), "reasoning": _joined(parts, "reasoning")}
    todos = [] if hides_plan(seen) else message["todos"]
    return {**message, "parts": parts, **texts, "todos": todos}


def hides_plan(seen: Iterable[Seen]) -> bool:
    """Whether the todo list is hidden, which is what a hidden ``todowrite`` call wrote."""
    calls = (s for s in seen if isinstance(s.part, ToolPart) and s.part.tool == "todowrite")
    return any(call.shown["type"] == "hidden" for call in calls)


def _grown(part: Part, delta: str) -> Part:
    return part if isinstance(part, ToolPart) else replace(part, content=part.content + delta)


def _growth(was: Json, now: Json) -> str | None:
    """What was appended to a text, if that is all that happened."""
    if "content" not in was or was["type"] != now["type"]:
        return None
    before, after = was["content"], now["content"]
    return after[len(before) :] if after.startswith(before) else None


def _joined(parts: Iterable[Json], kind: str) -> str:
    return "\n\n".join(p["content"] for p in parts if p["type"] == kind and p["content"])
