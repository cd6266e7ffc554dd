"""What a tool call is about, in a few words: a file, a command, a URL, a query.

The arguments are the model's: any JSON may stand anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from opencode_async.protocol.parts import ToolPart
from opencode_async.protocol.plain_text import line_of_urls, one_line, short_path, short_url
from opencode_async.protocol.todos import todos_from_wire
from opencode_async.protocol.wire import objects, optional_text

MOST_FILES = 3  # named of one patch
PATCHED = re.compile(r"^\*\*\* (?:Add|Update|Delete) File: (.+)$", re.MULTILINE)
# What most tools of MCP servers and plugins call what they are about, the most telling one first.
ARGUMENTS = ("query", "q", "url", "path", "filePath", "file", "command", "pattern", "name")


def target_of(call: ToolPart) -> str | None:
    """What the call is about as one line of plain text; ``None`` where it does not say."""
    if paths := paths_of(call):
        return _files(paths)
    return _named(call) or None


def paths_of(call: ToolPart) -> tuple[str, ...]:
    """The files that a call of a file tool is about, as the model wrote them."""
    arguments = object_of(call.input)
    match call.tool:
        case "read" | "edit" | "write":
            found = [arguments.get("filePath")]
        case "apply_patch":
            patch = optional_text(arguments, "patchText") or ""
            found = [path.strip() for path in PATCHED.findall(patch)]
        case _:
            found = []
    return tuple(path for path in found if isinstance(path, str) and path)


def object_of(value: object) -> Mapping[str, Any]:
    """The JSON object, or an empty one for any other value."""
    return value if isinstance(value, Mapping) else {}


def _files(paths: tuple[str, ...]) -> str:
    named = one_line(", ".join(short_path(path) for path in paths[:MOST_FILES]))
    more = len(paths) - MOST_FILES
    return f"{named} and {more} more" if more > 0 else named


def _named(call: ToolPart) -> str:
    arguments = object_of(call.input)

    def line(name: str) -> str:
        return line_of_urls(optional_text(arguments, name) or "")

    match call.tool:
        case "read" | "edit" | "write" | "apply_patch" | "plan_exit" | "StructuredOutput":
            return ""
        case "bash":
            return line("command")
        case "execute":
            return line("code")
        case "glob" | "grep":
            return line("pattern")
        case "lsp":
            path = short_path(optional_text(arguments, "filePath") or "")
            return f"{line('operation')} {path}".strip()
        case "webfetch":
            return short_url(optional_text(arguments, "url") or "")
        case "websearch":
            return line("query")
        case "task":
            return line("description")
        case "skill":
            return line("name")
        case "question":
            asked = objects(arguments.get("questions"))
            return line_of_urls(optional_text(asked[0], "question") or "") if asked else ""
        case "todowrite":
            return _progress(arguments.get("todos"))
    return _of_unknown(call, arguments)


def _progress(raw: object) -> str:
    todos = todos_from_wire(raw)
    done = sum(todo.status == "completed" for todo in todos)
    return f"{done} of {len(todos)} done" if todos else ""


def _of_unknown(call: ToolPart, arguments: Mapping[str, Any]) -> str:
    """The title, if the tool gives one, or the first argument that looks like what it is about."""
    if isinstance(call.title, str) and (title := line_of_urls(call.title)):
        return title
    found = (optional_text(arguments, name) for name in ARGUMENTS)
    text = next((value for value in found if value and value.strip()), "")
    return short_path(text) if re.match(r"[/\\]\S+$", text) else short_url(text)
