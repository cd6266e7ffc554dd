"""An answer in a terminal: live text, a line for each tool, how it ended and what it cost."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.segment import Segment
from rich.spinner import Spinner
from rich.text import Text

from opencode_async.protocol.changes import (
    Change,
    Finished,
    PartAdded,
    PartDelta,
    PartUpdated,
    PermissionAsked,
    PermissionResolved,
    QuestionAsked,
    QuestionResolved,
    Retrying,
    Snapshot,
)

STATES = {"pending": "…", "running": "…", "completed": "✓", "error": "✗"}
JOINTS = "\n\t\u200d"  # the last one makes one emoji of several
Json = dict[str, Any]


class Answer:
    """The parts as they are now: shown live by their last lines, printed whole at the end.

    What was said may be withdrawn (an attempt of the model that failed), so nothing is printed for
    good before that.
    """

    def __init__(self) -> None:
        self.parts: list[Json] = []
        self.doing = "Thinking…"
        self.finished: Json | None = None

    def take(self, change: Change) -> None:
        """Take in what the stream tells."""
        match change:
            case Finished(message):
                self.finished = dict(message)
                self.parts = list(message["parts"])
            case Snapshot(message):
                self.parts = list(message["parts"])
            case PartAdded():
                self.parts.append(change.to_json()["part"])
                self.doing = "Working…"
            case PartDelta(index, delta):
                part_json = self.parts[index]
                self.parts[index] = {**part_json, "content": part_json["content"] + delta}
            case PartUpdated(index):
                self.parts[index] = change.to_json()["part"]
            case PermissionAsked() | QuestionAsked():
                self.doing = "Waiting for a person's answer…"
            case PermissionResolved() | QuestionResolved():
                self.doing = "Working…"
            case Retrying(attempt=attempt, message=reason):
                self.doing = f"{safe(reason)} (attempt {attempt} failed)"

    def whole(self) -> Group:
        """All parts; what a subagent does stands below the call that started it."""
        said: dict[str | None, list[Json]] = {}
        for part in self.parts:
            said.setdefault(part.get("subagent"), []).append(part)

        def lines(subagent: str | None) -> Iterator[RenderableType]:
            for part in said.pop(subagent, []):
                if part.get("content") != "":
                    yield part_text(part)
                if part.get("session_id"):
                    yield Padding(Group(*lines(part["session_id"])), (0, 0, 0, 2))

        return Group(*lines(None))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = (options.height or console.height) - 2
        for line in console.render_lines(self.whole(), options, pad=False)[-height:]:
            yield from line
            yield Segment.line()
        yield Spinner("dots", Text(self.doing))  # not as markup: a provider's words are in it


def part_text(part: Json) -> Text:
    """One part; a tool's is a line with its state, what it does and what it works on."""
    if part["type"] == "text":
        return Text(safe(part["content"]) + "\n")
    if part["type"] == "reasoning":
        return Text(safe(part["content"]) + "\n", style="dim italic")
    display = part["display"]  # plain text, safe as it is
    verb = display["past" if display["status"] == "completed" else "gerund"]
    line = Text.assemble(STATES[display["status"]], " ", (verb, "bold"), " ")
    line.append(display["target"] or "", "cyan")
    if display["error"]:
        line.append(f"\n  {display['error']}", "red")
    return line


def safe(text: str) -> str:
    """The text without what a terminal would obey: an agent may write anything."""
    return "".join(c if c.isprintable() or c in JOINTS or space(c) else "\ufffd" for c in text)


def space(character: str) -> bool:
    """Whether it is one of the many spaces, which Python does not call printable."""
    return unicodedata.category(character) == "Zs"


def bill(message: Json) -> Text:
    """How it ended and what it cost."""
    style = "green" if message["status"] == "completed" else "red"
    reason = message["error"]["message"] if message["error"] else message["finish"] or ""
    tokens = f"{message['input_tokens']:,} tokens in, {message['output_tokens']:,} out"
    spent = f"{tokens} · ${message['cost']:.4f}"
    return Text.assemble((message["status"], style), f" ({safe(reason)}) · ", (spent, "dim"))
