"""A recorded run of the real server: its events, what the client asked, and what REST answered."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from opencode_async.protocol.events import Event, event_from_wire
from opencode_async.protocol.messages import WireMessage

RECORDINGS = Path(__file__).resolve().parents[1] / "recordings"
NAMES = sorted(path.stem for path in RECORDINGS.glob("*.jsonl"))
MESSAGES = re.compile(r"GET /session/(\w+)/message")
Json = dict[str, Any]


@dataclass(frozen=True)
class Answered:
    """What REST said of messages of a session, behind that many rows of the recording."""

    session_id: str
    row: int
    messages: Sequence[Json]
    complete: bool  # all messages of the session
    awaited: bool  # the answer to a prompt, which may come before the events that led to it


class Store:
    """The messages that the server must hold after the events so far.

    It keeps what ``message.updated`` and ``message.part.updated`` say, in the order in which they
    first came, and no delta: OpenCode stores text when its part ends. That this is what REST
    answers is tested wherever a recording asked.
    """

    def __init__(self) -> None:
        self._messages: dict[str, dict[str, Json]] = {}
        self._parts: dict[str, dict[str, Json]] = {}

    def apply(self, frame: Mapping[str, Any]) -> None:
        p = frame["properties"]
        if frame["type"] == "message.updated":
            info = p["info"]
            self._messages.setdefault(info["sessionID"], {})[info["id"]] = info
        elif frame["type"] == "message.part.updated":
            part = p["part"]
            self._parts.setdefault(part["messageID"], {})[part["id"]] = part
        elif frame["type"] == "session.deleted":
            self._messages.pop(p["sessionID"], None)

    def sessions(self) -> list[str]:
        return list(self._messages)

    def messages(self, session_id: str) -> list[WireMessage]:
        found = self._messages.get(session_id, {})
        return [
            WireMessage.from_wire({"info": info, "parts": list(self._parts.get(key, {}).values())})
            for key, info in found.items()
        ]

    def learn(self, answered: Answered) -> None:
        """Take over what REST said."""
        told = {message["info"]["id"]: message["info"] for message in answered.messages}
        known = self._messages.get(answered.session_id, {})
        self._messages[answered.session_id] = told if answered.complete else known | told
        for message in answered.messages:
            parts = {part["id"]: part for part in message["parts"]}
            self._parts[message["info"]["id"]] = parts


class Recording:
    """One file of ``tests/recordings``."""

    def __init__(self, name: str) -> None:
        self.name = name
        text = (RECORDINGS / f"{name}.jsonl").read_text()
        self.rows: list[Json] = [json.loads(line) for line in text.splitlines()]

    def frames(self, end: int | None = None) -> Iterator[Json]:
        """The decoded frames of the event stream, of the first ``end`` rows."""
        return (row["data"] for row in self.rows[:end] if row["src"].startswith("event"))

    def events(self) -> Iterator[Event]:
        """Those of the frames that are of a known type, parsed."""
        return (event for frame in self.frames() if (event := event_from_wire(frame)) is not None)

    def answers(self) -> Iterator[Answered]:
        """Every answer about messages: whole sessions, pages, single messages, awaited prompts."""
        for index, row in enumerate(self.rows):
            path, _, query = row.get("req", "").partition("?")
            answer = row.get("answer")
            if row.get("status") != 200 or not isinstance(answer, (list, dict)):
                continue
            if found := MESSAGES.fullmatch(path):
                assert isinstance(answer, list)
                yield Answered(found[1], index, answer, complete=not query, awaited=False)
            elif isinstance(answer, dict) and "info" in answer and "parts" in answer:
                session_id, awaited = answer["info"]["sessionID"], path.startswith("POST")
                yield Answered(session_id, index, [answer], complete=False, awaited=awaited)

    def truth(self) -> dict[str, list[WireMessage]]:
        """What the server held at the end, by session: what REST last said and what came since.

        Sessions of which REST was not asked are told by their events alone.
        """
        store = Store()
        answers = {answer.row: answer for answer in self.answers()}
        for index, row in enumerate(self.rows):
            if row["src"].startswith("event"):
                store.apply(deepcopy(row["data"]))
            elif index in answers:
                store.learn(answers[index])
        return {session_id: store.messages(session_id) for session_id in store.sessions()}


@cache
def recording(name: str) -> Recording:
    """The recording of that name, read once."""
    return Recording(name)
