"""The tools for files: ``read``, ``write`` and ``edit``, in the session's directory."""

from __future__ import annotations

import asyncio
import difflib
import os
from typing import TYPE_CHECKING, Any

from opencode_async.testing.impostor.outcome import Failed, Result

if TYPE_CHECKING:
    from opencode_async.testing.impostor.calls import Call

Json = dict[str, Any]
MOST_LINES = 2000  # that `read` gives at once
NOT_THERE = (
    "Could not find oldString in the file. It must match exactly, including whitespace, "
    "indentation, and line endings."
)


async def read(call: Call, arguments: Json) -> Result:
    """The lines of a file, numbered."""
    call.tell()
    path = await reach(call, arguments["filePath"])
    await call.ask("read", [relative(path)], {}, always=["*"])
    if not os.path.isfile(path):
        raise Failed(f"File not found: {path}")
    lines = (await contents(path)).splitlines()
    first = int(arguments.get("offset") or 1)
    shown = lines[first - 1 :][: int(arguments.get("limit") or MOST_LINES)]
    last = first - 1 + len(shown)
    numbered = "\n".join(f"{number}: {line}" for number, line in enumerate(shown, first))
    end = f"(End of file - total {len(lines)} lines)"
    if last < len(lines):
        end = f"(Showing lines {first}-{last} of {len(lines)}. Use offset={last + 1} to continue.)"
    output = f"<path>{path}</path>\n<type>file</type>\n<content>\n{numbered}\n\n{end}\n</content>"
    cut = last < len(lines)
    display = {
        "type": "file",
        "path": path,
        "text": "\n".join(shown),
        "lineStart": first,
        "lineEnd": last,
        "totalLines": len(lines),
        "truncated": cut,
    }
    preview = "\n".join(shown[:20])
    metadata = {"preview": preview, "truncated": cut, "loaded": [], "display": display}
    return Result(output, relative(path), metadata, truncated=cut)


async def write(call: Call, arguments: Json) -> Result:
    """A file with that content, its folders made where they are missing."""
    call.tell()
    path = await reach(call, arguments["filePath"])
    exists = os.path.exists(path)
    before = await contents(path) if exists else ""
    after: str = arguments["content"]
    asked = {"filepath": path, "diff": diff(path, before, after)}
    await call.ask("edit", [relative(path)], asked)
    await store(call, path, after, "change" if exists else "add")
    metadata = {"diagnostics": {}, "filepath": path, "exists": exists}
    return Result("Wrote file successfully.", relative(path), metadata)


async def edit(call: Call, arguments: Json) -> Result:
    """A file with one text in it replaced."""
    call.tell()
    path = await reach(call, arguments["filePath"])
    old, new = arguments["oldString"], arguments["newString"]
    exists = os.path.isfile(path)
    if old and not exists:
        raise Failed(f"File {path} not found")
    before = await contents(path) if exists else ""
    everywhere = bool(arguments.get("replaceAll"))
    if old and old not in before:
        raise Failed(NOT_THERE)
    if old and before.count(old) > 1 and not everywhere:
        raise Failed(
            "Found multiple matches for oldString. Provide more surrounding context to make the "
            "match unique."
        )
    after = before.replace(old, new, -1 if everywhere else 1) if old else new
    patch = diff(path, before, after)
    await call.ask("edit", [relative(path)], {"filepath": path, "diff": patch})
    await store(call, path, after, "change" if exists else "add")
    lines = patch.split("\n")[4:]
    counted = {
        "additions": sum(line.startswith("+") for line in lines),
        "deletions": sum(line.startswith("-") for line in lines),
    }
    filediff = {"file": path, "patch": patch, **counted}
    metadata = {"diff": patch, "filediff": filediff, "diagnostics": {}}
    call.progress(metadata)
    return Result("Edit applied successfully.", relative(path), metadata)


async def reach(call: Call, path: str) -> str:
    """The absolute path, which outside of the directory may need leave."""
    absolute = os.path.normpath(os.path.join(call.directory, path))
    if os.path.commonpath([absolute, call.directory]) != call.directory:
        parent = os.path.dirname(absolute)
        about = {"filepath": absolute, "parentDir": parent}
        everything = [f"{parent.rstrip('/')}/*"]
        await call.ask("external_directory", everything, about, always=everything)
    return absolute


def relative(path: str) -> str:
    """The path as rules have it: relative to the work tree, which without git is ``/``."""
    return path.lstrip("/")


async def contents(path: str) -> str:
    """A file's text; what is none in it is replaced."""

    def load() -> str:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "replace")

    return await asyncio.to_thread(load)


async def store(call: Call, path: str, text: str, event: str) -> None:
    """Write the file, and tell everybody."""

    def save() -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(text.encode("utf-8", "surrogatepass"))

    await asyncio.to_thread(save)
    for kind, told in (("file.edited", {}), ("file.watcher.updated", {"event": event})):
        call.life.bus.emit(call.directory, kind, {"file": path, **told})


def diff(path: str, before: str, after: str) -> str:
    """The change as OpenCode shows it, with four lines around it."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    hunks = list(difflib.unified_diff(old, new, path, path, n=4))[2:]
    lines = [f"Index: {path}\n", "=" * 67 + "\n", f"--- {path}\n", f"+++ {path}\n"]
    for line in hunks:
        lines.append(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")
    return "".join(lines)
