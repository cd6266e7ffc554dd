"""The tools for files: ``read``, ``write`` and ``edit``, in the session's directory."""

from __future__ import annotations

import asyncio
import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opencode_async.testing.impostor.life import worktree
from opencode_async.testing.impostor.outcome import Failed, Result

if TYPE_CHECKING:
    from opencode_async.testing.impostor.calls import Call

Json = dict[str, Any]
MOST_LINES = 2000  # that `read` gives at once
HEAD = re.compile(r"@@ -(\d+)(,\d+)? \+(\d+)(,\d+)? @@")
NOT_THERE = (
    "Could not find oldString in the file. It must match exactly, including whitespace, "
    "indentation, and line endings."
)


async def read(call: Call, arguments: Json) -> Result:
    """The lines of a file, numbered."""
    call.tell()
    path = await reach(call, arguments["filePath"])
    await call.ask("read", [relative(call, path)], {}, always=["*"])
    if (entries := await entries_of(path)) is not None:
        return folder(call, path, entries)
    text = await contents(path)
    if text is None:
        raise Failed(f"File not found: {path}")
    lines = text.splitlines()
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
    return Result(output, relative(call, path), metadata, truncated=cut)


async def entries_of(path: str) -> list[str] | None:
    """The names in a folder, ``None`` for what is none."""

    def scan() -> list[str]:
        return sorted(entry.name + "/" * entry.is_dir() for entry in os.scandir(path))

    try:
        return await asyncio.to_thread(scan)
    except OSError:
        return None


def folder(call: Call, path: str, entries: list[str]) -> Result:
    """What is told of a folder."""
    shown = "\n".join(entries)
    output = (
        f"<path>{path}</path>\n<type>directory</type>\n<entries>\n{shown}\n\n"
        f"({len(entries)} entries)\n</entries>"
    )
    display = {
        "type": "directory",
        "path": path,
        "entries": entries,
        "offset": 1,
        "totalEntries": len(entries),
        "truncated": False,
    }
    metadata = {"preview": shown, "truncated": False, "loaded": [], "display": display}
    return Result(output, relative(call, path), metadata)


async def write(call: Call, arguments: Json) -> Result:
    """A file with that content, its folders made where they are missing."""
    call.tell()
    path = await reach(call, arguments["filePath"])
    before = await contents(path)
    after: str = arguments["content"]
    asked = {"filepath": path, "diff": diff(path, before or "", after)}
    await call.ask("edit", [relative(call, path)], asked)
    await store(call, path, after, "add" if before is None else "change")
    metadata = {"diagnostics": {}, "filepath": path, "exists": before is not None}
    return Result("Wrote file successfully.", relative(call, path), metadata)


async def edit(call: Call, arguments: Json) -> Result:
    """A file with one text in it replaced."""
    call.tell()
    path = await reach(call, arguments["filePath"])
    old, new = arguments["oldString"], arguments["newString"]
    found = await contents(path)
    if old and found is None:
        raise Failed(f"File {path} not found")
    before = found or ""
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
    await call.ask("edit", [relative(call, path)], {"filepath": path, "diff": patch})
    await store(call, path, after, "add" if found is None else "change")
    filediff = {"file": path, "patch": patch, **counted(patch)}
    metadata = {"diff": patch, "filediff": filediff, "diagnostics": {}}
    call.progress(metadata)
    return Result("Edit applied successfully.", relative(call, path), metadata)


async def reach(call: Call, path: str) -> str:
    """The absolute path, which outside of the directory may need leave."""
    absolute = os.path.normpath(os.path.join(call.directory, path))  # noqa: ASYNC240 - only words
    if os.path.commonpath([absolute, call.directory]) != call.directory:
        parent = os.path.dirname(absolute)
        about = {"filepath": absolute, "parentDir": parent}
        everything = [f"{parent.rstrip('/')}/*"]
        await call.ask("external_directory", everything, about, always=everything)
    return absolute


def relative(call: Call, path: str) -> str:
    """The path as rules have it: relative to the work tree."""
    return os.path.relpath(path, worktree(call.directory))


async def contents(path: str) -> str | None:
    """A file's text, ``None`` if there is none; what is no text in it is replaced."""
    try:
        data = await asyncio.to_thread(Path(path).read_bytes)
    except (FileNotFoundError, IsADirectoryError):
        return None
    return data.decode("utf-8", "replace")


async def store(call: Call, path: str, text: str, event: str) -> None:
    """Write the file, and tell everybody."""

    def save() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(text.encode("utf-8", "surrogatepass"))

    await asyncio.to_thread(save)
    for kind, told in (("file.edited", {}), ("file.watcher.updated", {"event": event})):
        call.life.bus.emit(call.directory, kind, {"file": path, **told})


def counted(patch: str) -> Json:
    """How many lines a difference adds and takes away."""
    lines = patch.split("\n")[4:]
    return {
        "additions": sum(line.startswith("+") for line in lines),
        "deletions": sum(line.startswith("-") for line in lines),
    }


def diff(path: str, before: str, after: str) -> str:
    """The change as OpenCode shows it, with four lines around it."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    hunks = list(difflib.unified_diff(old, new, path, path, n=4))[2:]
    hunks = [HEAD.sub(counts_told, line) if line.startswith("@@") else line for line in hunks]
    lines = [f"Index: {path}\n", "=" * 67 + "\n", f"--- {path}\n", f"+++ {path}\n"]
    ended = (x if x.endswith("\n") else f"{x}\n\\ No newline at end of file\n" for x in hunks)
    return "".join([*lines, *ended])


def counts_told(head: re.Match[str]) -> str:
    """The head of a hunk with the counts that Python leaves out."""
    return f"@@ -{head[1]}{head[2] or ',1'} +{head[3]}{head[4] or ',1'} @@"
