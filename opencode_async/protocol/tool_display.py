"""A tool call as a person is to see it: what it does to what, how far it is, what came of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from opencode_async.protocol.languages import language_of
from opencode_async.protocol.parts import ToolPart, ToolStatus, part_from_json
from opencode_async.protocol.plain_text import one_line, plain
from opencode_async.protocol.todos import Todo, todos_from_wire
from opencode_async.protocol.tool_diffs import diff_of
from opencode_async.protocol.tool_names import ToolKind, ToolName, tool_name
from opencode_async.protocol.tool_targets import object_of, paths_of, target_of
from opencode_async.protocol.wire import optional_text

MOST_TOLD = 20_000  # characters of a diff or an error in `to_dict`: it is for every frame
TASK_RESULT = re.compile(r"<task [^>]*>\s*<(task_result|task_error)>\n(.*)\n</\1>\s*</task>", re.S)


@dataclass(frozen=True, slots=True)
class ToolDisplay:
    """A value object over a ``ToolPart``: what a renderer needs, for tools known and unknown.

    What the model or a tool wrote is untrusted: no input makes it raise, and every value is plain
    text. That is: never markup, nothing is escaped, so put it into text nodes or let a template
    escape it; no terminal sequences; control characters, and those that turn the direction of text
    or are not seen, are U+FFFD; all but ``output``, ``diff``, ``error`` and what the ``todos`` say
    are one short line.
    """

    part: ToolPart

    @property
    def tool(self) -> str:
        """The tool's name; of a call that OpenCode could not make, that of what was called."""
        return one_line(self._called)

    @property
    def kind(self) -> ToolKind:
        """read, search, edit, run, web, task, plan, question, skill, mcp or other."""
        return self._name.kind

    @property
    def gerund(self) -> str:
        """What it is doing: ``Reading``, ``Searching the web``."""
        return self._name.gerund

    @property
    def past(self) -> str:
        """What it has done: ``Read``, ``Searched the web``."""
        return self._name.past

    @property
    def icon(self) -> str:
        """The name of an icon of Lucide's set: ``file-text``."""
        return self._name.icon

    @property
    def target(self) -> str | None:
        """The file, command, URL or query it is about, shortened; ``None`` while it is unknown.

        Of an absolute path the last three names; a URL without name and password.
        """
        return None if self._is_invalid else target_of(self.part)

    @property
    def title(self) -> str:
        """All in one line, by how far it is: ``Reading notes.txt``, ``Read notes.txt``.

        A call that failed has not done it: its title is the same as while it was running.
        """
        verb, target = self.past if self.is_completed else self.gerund, self.target
        return f"{verb} {target}" if target else verb

    @property
    def status(self) -> ToolStatus:
        """The part's, but a call that OpenCode could not make is an error, not completed."""
        return "error" if self._is_invalid else self.part.status

    @property
    def is_pending(self) -> bool:
        """The model is still writing the call."""
        return self.status == "pending"

    @property
    def is_running(self) -> bool:
        return self.status == "running"

    @property
    def is_completed(self) -> bool:
        return self.status == "completed"

    @property
    def is_failed(self) -> bool:
        return self.status == "error"

    @property
    def is_in_flight(self) -> bool:
        """It is pending or running."""
        return self.is_pending or self.is_running

    @property
    def is_terminal(self) -> bool:
        """It is completed or has failed."""
        return self.is_completed or self.is_failed

    @property
    def output(self) -> str | None:
        """What came of it: what was read of a file, what a command has printed so far, …"""
        metadata, output = object_of(self.part.metadata), self.part.output
        text = output if isinstance(output, str) else None
        match self.part.tool:
            case "read":
                text = optional_text(object_of(metadata.get("display")), "text") or text
            case "bash":
                text = optional_text(metadata, "output") if text is None else text
            case "task" if text is not None and (found := TASK_RESULT.fullmatch(text.strip())):
                text = found[2]
        return None if text is None or self._is_invalid else plain(text)

    @property
    def diff(self) -> str | None:
        """What it changed, as a unified diff; ``None`` also where a file was written over."""
        return diff_of(self.part)

    @property
    def todos(self) -> tuple[Todo, ...]:
        """The plan that a call of ``todowrite`` writes, in the agent's order."""
        if self.part.tool != "todowrite":
            return ()
        found = todos_from_wire(object_of(self.part.input).get("todos"))
        return tuple(
            replace(
                todo,
                content=plain(todo.content),
                status=one_line(todo.status),
                priority=one_line(todo.priority),
            )
            for todo in found
        )

    @property
    def language(self) -> str | None:
        """What the file is written in, if it is about one: ``python``, as highlighters call it."""
        paths = paths_of(self.part)
        return language_of(paths[0]) if len(paths) == 1 else None

    @property
    def error(self) -> str | None:
        """Why it failed."""
        if self._is_invalid:
            text: object = object_of(self.part.input).get("error")
        else:
            text = self.part.error
        return plain(text) if isinstance(text, str) else None

    def to_dict(self) -> dict[str, Any]:
        """A tool part's ``display`` in the HTTP API: JSON, all keys always there.

        It adds to the part and does not repeat it: ``output`` and the list of todos are the part's
        own; ``diff`` and ``error`` are ``None`` where what OpenCode sent of them, or the file that
        was written, has more than 20,000 characters.
        """
        error = self.error
        return {
            "kind": self.kind,
            "status": self.status,
            "gerund": self.gerund,
            "past": self.past,
            "icon": self.icon,
            "target": self.target,
            "title": self.title,
            "language": self.language,
            "diff": diff_of(self.part, most=MOST_TOLD),
            "error": error if error is None or len(error) <= MOST_TOLD else None,
        }

    @property
    def _is_invalid(self) -> bool:
        """Whether it stands for a call of a tool that there is not, or with wrong arguments."""
        return self.part.tool == "invalid"

    @property
    def _called(self) -> str:
        if self._is_invalid:
            return optional_text(object_of(self.part.input), "tool") or ""
        return self.part.tool

    @property
    def _name(self) -> ToolName:
        return tool_name(self._called)


def with_display(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part's JSON as the HTTP API shows it: as it is stored, a tool call with its ``display``."""
    call = part_from_json(part) if part["type"] == "tool" else None
    display = {"display": ToolDisplay(call).to_dict()} if isinstance(call, ToolPart) else {}
    return {**part, **display}
