"""What a tool call changed, as one unified diff.

OpenCode sends the diff of ``edit`` and ``apply_patch``; of ``write`` it says only whether the file
was there before (1.18.33, measured).
"""

from __future__ import annotations

import difflib
import re

from opencode_async.protocol.parts import ToolPart
from opencode_async.protocol.plain_text import plain, short_path
from opencode_async.protocol.tool_targets import object_of, paths_of
from opencode_async.protocol.wire import optional_text

INDEX = re.compile(r"^Index: .*\n=+\n", re.MULTILINE)
FILES = re.compile(r"^--- (.+)\n\+\+\+ (.+)\n(?=@@ )", re.MULTILINE)
NO_NEWLINE = "\\ No newline at end of file"


def diff_of(call: ToolPart) -> str | None:
    """The change as plain text; ``None`` where there is none, or where it is not known.

    A ``write`` that was done is compared with an empty file, unless it took the place of another
    one, whose content nobody has told.
    """
    match call.tool:
        case "edit" | "apply_patch":
            given = optional_text(object_of(call.metadata), "diff") or ""
            return _of_server(given) if given.strip() else None
        case "write" if call.status == "completed":
            return _of_new_file(call)
    return None


def _of_server(diff: str) -> str:
    """The diff as others write it, with paths as short as targets are."""
    bare = INDEX.sub("", plain(diff)).strip("\n") + "\n"
    return FILES.sub(lambda f: f"--- {short_path(f[1])}\n+++ {short_path(f[2])}\n", bare)


def _of_new_file(call: ToolPart) -> str | None:
    content = optional_text(object_of(call.input), "content")
    if not content or object_of(call.metadata).get("exists") is True:
        return None
    path = next(iter(paths_of(call)), "")
    lines = plain(content).split("\n")
    ended = lines[-1] == ""
    new = lines[:-1] if ended else lines
    diff = list(difflib.unified_diff([], new, "/dev/null", short_path(path), lineterm=""))
    return "\n".join([*diff, *([] if ended else [NO_NEWLINE]), ""])
