"""What end users may see of a reply: a host's ``show``, wherever a part leaves the app.

A hidden part keeps its place as ``{id, type: "hidden"}``, so the indexes of a stream stay true. A
hidden call hides all that its subagent said.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Self

from opencode_async.brokers.broker import Frame
from opencode_async.models import LIVE
from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.protocol.changes import PartAdded, PartDelta, PartUpdated
from opencode_async.protocol.parts import Part, ToolPart, part_from_json
from opencode_async.protocol.subagents import child_of
from opencode_async.protocol.tool_display import with_display
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
        """The part, as it is and as it may be seen by itself."""
        try:
            shown = self._show(part)
            return Seen.hidden(part) if shown is None else Seen(part, with_display(shown.to_json()))
        except Exception as error:
            self._report(error, severity="error", context={"during": "show", "part_id": part.id})
            return Seen.hidden(part)

    def message(self, message: Mapping[str, Any]) -> Json:
        """The message with its parts as they may be seen, and only their texts."""
        return with_parts(message, self.parts(message))

    def parts(self, message: Mapping[str, Any]) -> Parts:
        """The message's parts, each as it is and as it may be seen."""
        parts = Parts(self)
        for index, part in enumerate(message["parts"]):
            parts.put(index, part_from_json(part))
        return parts

    async def batches(self, batches: Batches) -> Batches:
        """One follower's stream; of each message it must bring a whole state first."""
        follower = _Follower(self)
        async with aclosing(batches):
            async for frames in batches:
                if left := [shown for frame in frames for shown in follower.shown(frame)]:
                    yield left
                    del left  # a snapshot may be large, and the next may be long in coming
                del frames


@dataclass(frozen=True, slots=True)
class Seen:
    """A part as it is, and what the follower has of it."""

    part: Part
    shown: Json

    @classmethod
    def hidden(cls, part: Part) -> Self:
        return cls(part, {"id": part.id, "type": "hidden"})

    @property
    def is_hidden(self) -> bool:
        return bool(self.shown["type"] == "hidden")


class Parts:
    """One message's parts; what a subagent says may be seen where the call that started it may."""

    def __init__(self, shown: Shown) -> None:
        self.seen: list[Seen] = []
        self._shown = shown
        self._calls: dict[str, int] = {}

    def put(self, index: int, part: Part) -> list[int]:
        """Take in a part, new or changed; the places of those that are seen otherwise now."""
        seen = self._seen(part)
        if index == len(self.seen):
            self.seen.append(seen)
        elif self.seen[index].shown == seen.shown:
            self.seen[index] = seen
            return self._under(index, part)
        else:
            self.seen[index] = seen
        return [index, *self._under(index, part)]

    def _seen(self, part: Part) -> Seen:
        call = None if part.subagent is None else self._calls.get(part.subagent)
        if call is not None and self.seen[call].is_hidden:
            return Seen.hidden(part)
        return self._shown.part(part)

    def _under(self, index: int, part: Part) -> list[int]:
        """Judge anew what the part's subagent said, if it may be seen now, or no more."""
        child = child_of(part)
        if child is None:
            return []
        self._calls[child] = index
        hides = self.seen[index].is_hidden
        return [
            place
            for at, seen in enumerate(self.seen)
            if seen.part.subagent == child and (hides or seen.is_hidden)
            for place in self.put(at, seen.part)
        ]


class _Follower:
    """Knows the parts of the messages that are being streamed to one follower."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._messages: dict[str, Parts] = {}

    def shown(self, frame: Frame) -> list[Frame]:
        """The frames that the follower gets for this one: often it, none if it must not be seen."""
        data: Json = json.loads(frame.data)
        if "message" in data:
            return [self._whole(frame, data)]
        if "index" not in data:
            secret = "todos" in data and hides_plan(self._messages[data["message_id"]])
            return [] if secret else [frame]
        parts, index = self._messages[data["message_id"]], data["index"]
        before = [seen.shown for seen in parts.seen]
        changed = parts.put(
            index,
            _grown(parts.seen[index].part, data["delta"])
            if "delta" in data
            else part_from_json(data["part"]),
        )
        return [self._change(frame, data, at, before, parts.seen[at].shown) for at in changed]

    def _change(self, frame: Frame, data: Json, index: int, before: list[Json], now: Json) -> Frame:
        place = {"message_id": data["message_id"], "index": index}
        if index == len(before):
            return frame_with(frame, PartAdded.event, {**place, "part": now})
        delta = _growth(before[index], now)
        if delta is None:
            return frame_with(frame, PartUpdated.event, {**place, "part": now})
        if delta == data.get("delta"):
            return frame  # encoded once for all who see it
        return frame_with(frame, PartDelta.event, {**place, "delta": delta})

    def _whole(self, frame: Frame, data: Json) -> Frame:
        message_id, message = data["message_id"], data["message"]
        parts = self._shown.parts(message)
        if message["status"] in LIVE:
            self._messages[message_id] = parts
        else:
            self._messages.pop(message_id, None)
        return frame_with(frame, frame.event, {**data, "message": with_parts(message, parts)})


def with_parts(message: Mapping[str, Any], parts: Parts) -> Json:
    """The message with its parts as they may be seen, and nothing that hidden ones hold."""
    if message["role"] == "user":
        return dict(message)
    shown = [seen.shown for seen in parts.seen]
    texts = {"content": _joined(parts, "text"), "reasoning": _joined(parts, "reasoning")}
    todos = [] if hides_plan(parts) else message["todos"]
    return {**message, "parts": shown, **texts, "todos": todos}


def hides_plan(parts: Parts) -> bool:
    """Whether the todo list is hidden, which is what a hidden ``todowrite`` call wrote."""
    own = (seen for seen in parts.seen if seen.part.subagent is None and seen.is_hidden)
    return any(isinstance(s.part, ToolPart) and s.part.tool == "todowrite" for s in own)


def _grown(part: Part, delta: str) -> Part:
    return part if isinstance(part, ToolPart) else replace(part, content=part.content + delta)


def _growth(was: Json, now: Json) -> str | None:
    """What was appended to a text, if that is all that happened."""
    if "content" not in was or was["type"] != now["type"]:
        return None
    before, after = was["content"], now["content"]
    return after[len(before) :] if after.startswith(before) else None


def _joined(parts: Parts, kind: str) -> str:
    own = (s.shown for s in parts.seen if s.part.subagent is None and s.shown["type"] == kind)
    return "\n\n".join(part["content"] for part in own if part["content"])
