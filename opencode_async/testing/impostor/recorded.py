"""Answers out of a recording of a real server, to be given again.

A recording is JSON lines. Those whose ``src`` begins with ``event`` have an event of ``GET /event``
as ``data``; others are not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opencode_async.testing.impostor.model import Prepared, Reply, Request, Said, Usage
from opencode_async.testing.scripted_model.scripts import Finish, Hang, Reasoning, Refusal, Text

Json = dict[str, Any]
RUN = ("question", "task")  # for a person, or another story, has a part in them
REASONS = {"tool-calls": "tool_calls", "content-filter": "content_filter"}


@dataclass
class Heard:
    """A message of the recording as it was at last."""

    info: Json
    parts: dict[str, Json] = field(default_factory=dict)
    deltas: dict[str, list[str]] = field(default_factory=dict)


class Recorded:
    """Gives the recorded answers to the recorded prompts, whose texts must be the same.

    Calls of tools are told what came of them then; only questions are asked, and subagents begun,
    anew. A prompt that was recorded several times has its answers in that order.
    """

    def __init__(self, path: Path) -> None:
        heard: dict[str, Heard] = {}
        asked: set[str] = set()
        for event in events(path):
            listen(event, heard, asked)
        self._answers: dict[str, list[list[Heard]]] = {}
        for message_id, message in heard.items():
            if message.info.get("role") == "user":
                steps = [h for h in heard.values() if h.info.get("parentID") == message_id]
                self._answers.setdefault(text_of(message), []).append(steps)
        self._asked = asked

    def __call__(self, request: Request) -> Reply | None:
        """See ``Teller``."""
        answers = self._answers.get(request.prompt)
        if answers is None:
            return None
        own = [m for m in request.messages if m["role"] == "user"]
        times = sum(m["content"] == request.prompt for m in own)
        steps = answers[min(times, len(answers)) - 1]
        done = 0  # calls in the steps before
        for step in steps:
            if done >= request.step:
                return self._given(step)
            done += sum(part["type"] == "tool" for part in step.parts.values())
        return iter([Finish("stop")])

    def _given(self, step: Heard) -> Reply:
        error = step.info.get("error") or {}
        if error.get("name") == "APIError":
            status = error["data"]["statusCode"]
            return Refusal(status, error["data"]["message"], str(status), None)
        return self._said(step)

    def _said(self, step: Heard) -> Iterator[Said]:
        for part in step.parts.values():
            match part["type"]:
                case "text" | "reasoning":
                    kind = Text if part["type"] == "text" else Reasoning
                    yield from map(kind, step.deltas.get(part["id"]) or [part["text"]])
                case "tool":
                    yield self._call(part)
        info = step.info
        if "finish" not in info:
            yield Hang()
            return
        tokens = info["tokens"]
        cached = tokens["cache"]["read"]
        used = (tokens["input"], tokens["output"], info["cost"], tokens["reasoning"], cached)
        yield Usage(*used)
        reason: str = info["finish"]
        yield Finish(REASONS.get(reason, reason))

    def _call(self, part: Json) -> Prepared:
        state = {k: v for k, v in part["state"].items() if k not in ("input", "time")}
        given = json.dumps(part["state"]["input"])
        ended = state if state["status"] in ("completed", "error") else None
        result = None if part["tool"] in RUN else ended
        return Prepared(part["tool"], given, result, asks=part["callID"] in self._asked)


def events(path: Path) -> Iterator[Json]:
    """The recorded events, in order."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["src"].startswith("event"):
                yield row["data"]


def listen(event: Json, heard: dict[str, Heard], asked: set[str]) -> None:
    """Take in an event."""
    told = event["properties"]
    match event["type"]:
        case "message.updated":
            info = told["info"]
            heard.setdefault(info["id"], Heard(info)).info = info
        case "message.part.updated":
            part = told["part"]
            heard.setdefault(part["messageID"], Heard({})).parts[part["id"]] = part
        case "message.part.delta":
            deltas = heard[told["messageID"]].deltas
            deltas.setdefault(told["partID"], []).append(told["delta"])
        case "permission.asked" if "tool" in told:
            asked.add(told["tool"]["callID"])


def text_of(message: Heard) -> str:
    """What a user said."""
    return "\n".join(p["text"] for p in message.parts.values() if p["type"] == "text")
