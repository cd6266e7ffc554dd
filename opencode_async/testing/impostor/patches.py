"""The tool ``apply_patch``, which models whose id contains ``gpt-`` have to change files with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opencode_async.testing.impostor.files import contents, counted, diff, reach, relative, store
from opencode_async.testing.impostor.outcome import Failed, Result

if TYPE_CHECKING:
    from opencode_async.testing.impostor.calls import Call

Json = dict[str, Any]
KINDS = {"*** Add File: ": "add", "*** Update File: ": "update", "*** Delete File: ": "delete"}
MOVE = "*** Move to: "
LETTERS = {"add": "A", "update": "M", "move": "M", "delete": "D"}


@dataclass
class Hunk:
    """What a patch does to one file."""

    kind: str
    path: str
    moved: str | None = None
    lines: list[str] = field(default_factory=list)


async def apply_patch(call: Call, arguments: Json) -> Result:
    """Changes several files at once."""
    call.tell()
    hunks = list(parsed(arguments["patchText"]))
    if not hunks:
        raise Failed("patch rejected: empty patch")
    files = [await changed(call, hunk) for hunk in hunks]
    paths = [relative(call, file["filePath"]) for file, _ in files]
    whole = "".join(f"{file['patch']}\n" for file, _ in files)
    shown = [file for file, _ in files]
    about = {"filepath": ", ".join(paths), "diff": whole, "files": shown}
    await call.ask("edit", paths, about)
    for file, after in files:
        await carry_out(call, file, after)
    told = [f"{LETTERS[file['type']]} {file['relativePath']}" for file in shown]
    output = "\n".join(["Success. Updated the following files:", *told])
    return Result(output, output, {"diff": whole, "files": shown, "diagnostics": {}})


def parsed(text: str) -> Iterator[Hunk]:
    """The files that a patch is about."""
    hunk: Hunk | None = None
    for line in text.split("\n"):
        start = next((mark for mark in KINDS if line.startswith(mark)), None)
        if start is not None or line.startswith("*** End Patch"):
            if hunk is not None:
                yield hunk
            hunk = Hunk(KINDS[start], line.removeprefix(start)) if start else None
        elif hunk is not None and line.startswith(MOVE):
            hunk.moved = line.removeprefix(MOVE)
        elif hunk is not None:
            hunk.lines.append(line)


async def changed(call: Call, hunk: Hunk) -> tuple[Json, str]:
    """What is told of the change of a file, and what is in it then."""
    path = await reach(call, hunk.path)
    before = await contents(path)
    if before is None and hunk.kind != "add":
        why = {
            "delete": f"NotFound: FileSystem.readFile ({path})",
            "update": f"Failed to read file to update: {path}",
        }
        raise Failed(f"apply_patch verification failed: {why[hunk.kind]}")
    before = before or ""
    match hunk.kind:
        case "add":
            after = "".join(f"{line.removeprefix('+')}\n" for line in hunk.lines)
        case "delete":
            after = ""
        case _:
            after = updated(before, hunk.lines, path)
    patch = diff(path, before, after)
    moved = {"movePath": await reach(call, hunk.moved)} if hunk.moved else {}
    kind = "move" if hunk.moved else hunk.kind
    told = {
        "filePath": path,
        "relativePath": relative(call, moved.get("movePath", path)),
        "type": kind,
    }
    count = counted(patch)
    if hunk.kind == "delete":
        count["deletions"] = before.count("\n") + 1  # as OpenCode counts
    return {**told, "patch": patch, **count, **moved}, after


def updated(text: str, lines: list[str], path: str) -> str:
    """The text with each block of lines that ``@@`` begins replaced."""
    found = text.splitlines()
    blocks: list[tuple[list[str], list[str]]] = [([], [])]
    for line in lines:
        if line.startswith("@@"):
            blocks.append(([], []))
            continue
        old, new = blocks[-1]
        if line[:1] != "+":
            old.append(line[1:])
        if line[:1] != "-":
            new.append(line[1:])
    for old, new in blocks:
        places = range(len(found) - len(old) + 1)
        place = next((n for n in places if found[n : n + len(old)] == old), None)
        if place is None:
            expected = "\n".join(old)
            raise Failed(
                "apply_patch verification failed: Error: Failed to find expected lines in "
                f"{path}:\n{expected}"
            )
        place = place if old else len(found)
        found[place : place + len(old)] = new
    return "".join(f"{line}\n" for line in found)


async def carry_out(call: Call, file: Json, after: str) -> None:
    """Change the file itself."""
    path: str = file["filePath"]
    if file["type"] in ("delete", "move"):
        await asyncio.to_thread(Path(path).unlink)
    if file["type"] != "delete":
        event = "add" if file["type"] == "add" else "change"
        await store(call, file.get("movePath", path), after, event)
