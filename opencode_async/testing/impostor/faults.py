"""What goes wrong, and when: said beforehand by a test, and it happens once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

At = int | str
PromptFault = Literal["lose", "drop_answer"]


@dataclass
class StreamFault:
    """One on the event stream, at the ``at``-th event from now or at the first of that type."""

    kind: Literal["cut", "stall", "duplicate", "reorder"]
    at: At
    seen: int = 0

    def due(self, event: dict[str, Any]) -> bool:
        """Whether this event is the one."""
        self.seen += 1
        return event["type"] == self.at if isinstance(self.at, str) else self.seen >= self.at


@dataclass
class Refusing:
    """An answer in place of the server's, to requests whose path has that in it."""

    status: int | None
    """``None`` is a broken connection."""
    path: str
    method: str | None
    times: int
    seconds: float = 0.0


class Faults:
    """What is to go wrong; each is used up when it has happened.

    ``at`` counts events from 1, from now on and over all streams, heartbeats left out; or it is a
    type, such as ``"message.part.delta"``: the first of it.
    """

    def __init__(self) -> None:
        self._stream: list[StreamFault] = []
        self._requests: list[Refusing] = []
        self._prompts: list[PromptFault] = []

    def cut(self, at: At = 1) -> None:
        """Break the event stream in place of that event; the client may open another."""
        self._stream.append(StreamFault("cut", at))

    def stall(self, at: At = 1) -> None:
        """Send nothing any more on that stream, no heartbeat either; it stays open."""
        self._stream.append(StreamFault("stall", at))

    def duplicate(self, at: At = 1) -> None:
        """Send that event twice."""
        self._stream.append(StreamFault("duplicate", at))

    def reorder(self, at: At = 1) -> None:
        """Send that event behind the one that follows it."""
        self._stream.append(StreamFault("reorder", at))

    def drop_answer(self) -> None:
        """Accept the next prompt, but break the connection in place of the 204."""
        self._prompts.append("drop_answer")

    def lose_prompt(self) -> None:
        """Break the connection of the next prompt, and never see it."""
        self._prompts.append("lose")

    def fail(
        self, status: int = 500, *, path: str = "/", method: str | None = None, times: int = 1
    ) -> None:
        """Answer so many requests with that status, those whose path has ``path`` in it."""
        self._requests.append(Refusing(status, path, method, times))

    def break_connection(
        self, *, path: str = "/", method: str | None = None, times: int = 1
    ) -> None:
        """Break the connection of so many requests in place of an answer."""
        self._requests.append(Refusing(None, path, method, times))

    def slow(
        self, seconds: float, *, path: str = "/", method: str | None = None, times: int = 1
    ) -> None:
        """Answer so many requests that much later, by the Impostor's clock."""
        self._requests.append(Refusing(200, path, method, times, seconds))

    def next_prompt(self) -> PromptFault | None:
        """What happens to the prompt that comes now."""
        return self._prompts.pop(0) if self._prompts else None

    def for_request(self, method: str, path: str) -> Refusing | None:
        """What happens to the request that comes now."""
        for fault in self._requests:
            if fault.path in path and fault.method in (None, method):
                fault.times -= 1
                if fault.times <= 0:
                    self._requests.remove(fault)
                return fault
        return None

    def for_event(self, event: dict[str, Any]) -> str | None:
        """What happens to the event that is sent now."""
        due = next((fault for fault in self._stream if fault.due(event)), None)
        if due is None:
            return None
        self._stream.remove(due)
        return due.kind


def frame(event: dict[str, Any]) -> bytes:
    """An event as it is on the wire."""
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"
