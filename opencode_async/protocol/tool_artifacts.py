"""The files that a turn's tool calls say they left: paths, and the content where it is known.

OpenCode sends what ``write`` wrote, whole; of ``edit`` and ``apply_patch`` it sends differences,
and of ``bash`` nothing (1.18.33, measured). Paths are the server's, absolute.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opencode_async.protocol.parts import Part, ToolPart
from opencode_async.protocol.wire import objects


@dataclass(frozen=True, slots=True)
class ToolArtifact:
    """A file as the last call left it; ``content`` is ``None`` where only the disk has it."""

    path: str
    content: str | None


def tool_artifacts(parts: Iterable[Part]) -> tuple[ToolArtifact, ...]:
    """The files of these parts' calls, subagents' included, in the order they were first left."""
    found: dict[str, ToolArtifact] = {}
    for part in parts:
        if isinstance(part, ToolPart) and part.status == "completed":
            for path, left in _left(part):
                if left is None:
                    found.pop(path, None)
                else:
                    found[path] = left
    return tuple(found.values())


def _left(call: ToolPart) -> Iterator[tuple[str, ToolArtifact | None]]:
    """What a call left at each path; ``None`` where it took the file away."""
    metadata = call.metadata or {}
    match call.tool:
        case "write":
            path, content = metadata.get("filepath"), call.input.get("content")
            if isinstance(path, str):
                yield path, ToolArtifact(path, content if isinstance(content, str) else None)
        case "edit":
            changed = metadata.get("filediff")
            path = changed.get("file") if isinstance(changed, Mapping) else None
            if isinstance(path, str):
                yield path, ToolArtifact(path, None)
        case "apply_patch":
            for file in objects(metadata.get("files")):
                yield from _patched(file)


def _patched(file: Mapping[str, Any]) -> Iterator[tuple[str, ToolArtifact | None]]:
    path, moved = file.get("filePath"), file.get("movePath")
    if not isinstance(path, str):
        return
    if file.get("type") == "delete":
        yield path, None
    elif isinstance(moved, str):
        yield path, None
        yield moved, ToolArtifact(moved, None)
    else:
        yield path, ToolArtifact(path, None)
