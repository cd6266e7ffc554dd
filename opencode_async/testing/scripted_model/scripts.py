"""What is replied to a request: pure, no time and no network."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opencode_async.testing.scripted_model.request import Script
from opencode_async.testing.scripted_model.tools import Call, calls_in, tool_steps

DEFAULT_TEXT = "Hello from the scripted model. Every word is one delta."


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Reasoning:
    text: str


@dataclass(frozen=True)
class ToolCall:
    name: str
    arguments: str
    """JSON, or in ``badargs`` something that is not."""


@dataclass(frozen=True)
class Finish:
    reason: str


@dataclass(frozen=True)
class StreamError:
    message: str


@dataclass(frozen=True)
class Wait:
    seconds: float


@dataclass(frozen=True)
class Hang:
    """Say nothing more until the client has gone."""


@dataclass(frozen=True)
class Cut:
    """Close the connection in the middle of the stream."""


Event = Text | Reasoning | ToolCall | Finish | StreamError | Wait | Hang | Cut


@dataclass(frozen=True)
class Refusal:
    """An answer that is an HTTP error."""

    status: int
    message: str
    code: str
    retry_after: str | None


def failures(script: Script) -> float:
    """How often the script fails before it is ``text``; infinity for ever, 0 if it never does."""
    match script.name:
        case "overflow":
            return float(script.options().get("times", 1))
        case "error" | "cut" | "streamerror":
            return float(script.options().get("times", math.inf))
    return 0


def refusal(script: Script) -> Refusal | None:
    """The HTTP error that ``script`` asks for, if it does."""
    given = script.options()
    after = str(given["after"]) if "after" in given else None
    if script.name == "overflow":
        message = "This model's maximum context length is 8192 tokens."
        return Refusal(400, message, "context_length_exceeded", after)
    if script.name == "error" and script.status:
        message = given.get("message", f"scripted error {script.status}")
        return Refusal(script.status, message, str(script.status), after)
    return None


def reply(script: Script) -> Iterator[Event]:
    """The events of one streamed answer."""
    steps = tool_steps(script)
    if steps is not None:
        return tool_step(script, steps)
    return SEVERAL_STEPS.get(script.name, one_step)(script)


def tool_step(script: Script, steps: list[Call]) -> Iterator[Event]:
    if script.step < len(steps):
        yield Text(f"Step {script.step + 1}: calling {steps[script.step][0]}. ")
        yield from call(steps[script.step])
    else:
        yield from say(f"Finished {script.name} after {script.step} tool result(s).")


def multi(script: Script) -> Iterator[Event]:
    if script.step == 0:
        files = {"a.txt": "A\n", "b.txt": "B\n"}
        writes = [("write", {"filePath": path, "content": files[path]}) for path in files]
        yield from call(*(calls_in(script) or writes))
    else:
        yield from say("Finished multi.")


def badargs(script: Script) -> Iterator[Event]:
    if script.step == 0:
        yield ToolCall("write", '{"filePath": "x.txt", "content": ')
        yield Finish("tool_calls")
    else:
        yield from say("Finished badargs.")


SEVERAL_STEPS = {"multi": multi, "badargs": badargs}


def one_step(script: Script) -> Iterator[Event]:
    given = script.options()
    match script.name:
        case "title" | "summary":
            yield from say(f"Scripted {script.name}")
        case "echo":
            yield from say(f"You said: {script.user_text.strip()[:200]}")
        case "nul":
            yield from (Text("before\0"), Text("between\ud800"), Text("after"), Finish("stop"))
        case "reasoning":
            for thought in ("First I think. ", "Then I think more. ", "Now I know. "):
                yield Reasoning(thought)
            yield from say(given.get("text", DEFAULT_TEXT))
        case "structured":
            yield from call(("StructuredOutput", given or {"answer": "forty-two", "n": 42}))
        case "slow":
            ticks = (f"tick{i} " for i in range(int(given.get("n", 20))))
            yield from paced(ticks, float(given.get("delay", 0.25)))
        case "long":
            size = int(given.get("size", 8))
            pieces = (f"w{i:06d} ".ljust(size, "x") for i in range(int(given.get("n", 1000))))
            yield from paced(pieces, float(given.get("delay", 0)))
        case "hang":
            yield from (Text(given.get("text", "Waiting... ")), Hang())
        case "cut":
            yield from words("These words arrive and then the connection ")
            yield from (Wait(0.2), Cut())
        case "streamerror":
            yield from words("These words arrive and then ")
            yield StreamError("scripted stream error")
        case "length":
            yield from say("This answer is too long to fit", "length")
        case "contentfilter":
            yield from say("This answer was filtered", "content_filter")
        case "empty":
            yield Finish("stop")
        case _:  # "text"
            yield from say(given.get("text", DEFAULT_TEXT))


def words(text: str) -> Iterator[Event]:
    return (Text(piece) for piece in re.findall(r"\S+\s*", text))


def say(text: str, reason: str = "stop") -> Iterator[Event]:
    yield from words(text)
    yield Finish(reason)


def paced(pieces: Iterator[str], delay: float) -> Iterator[Event]:
    for piece in pieces:
        yield Text(piece)
        if delay:
            yield Wait(delay)
    yield Finish("stop")


def call(*calls: tuple[str, Mapping[str, Any]]) -> Iterator[Event]:
    for name, arguments in calls:
        yield ToolCall(name, json.dumps(arguments))
    yield Finish("tool_calls")
