"""What a tool call changed, as one unified diff.

OpenCode sends the diff of ``edit`` and ``apply_patch``; of ``write`` it says only whether the file
was there before (1.18.33, measured).
"""

from __future__ import annotations

import math
import re

from opencode_async.protocol.parts import ToolPart
from opencode_async.protocol.plain_text import plain, short_path
from opencode_async.protocol.tool_targets import object_of, paths_of
from opencode_async.protocol.wire import optional_text

INDEX = re.compile(r"^Index: .*\n=+\n", re.MULTILINE)
FILES = re.compile(r"^--- (.+)\n\+\+\+ (.+)\n(?=@@ )", re.MULTILINE)
NO_NEWLINE = "\\ No newline at end of file"


def diff_of(call: ToolPart, *, most: float = math.inf) -> str | None:
    """The change as plain text; ``None`` where there is none, or where it is not known.

    A ``write`` that was done is compared with an empty file, unless it took the place of another
    one, whose content nobody has told. ``None``, too, if OpenCode's diff or the file has more than
    ``most`` characters, which costs no look at them.
    """
    arguments, metadata = object_of(call.input), object_of(call.metadata)
    match call.tool:
        case "edit" | "apply_patch":
            given = optional_text(metadata, "diff") or ""
            return short_heads(plain(given)) if len(given) <= most and given.strip() else None
        case "write" if call.status == "completed" and metadata.get("exists") is not True:
            content = optional_text(arguments, "content") or ""
            path = next(iter(paths_of(call)), "")
            return _of_new_file(path, content) if 0 < len(content) <= most else None
    return None


def short_heads(diff: str) -> str:
    """OpenCode's diff as others write it, with paths as short as targets are."""
    bare = INDEX.sub("", diff).strip("\n") + "\n"
    return FILES.sub(lambda f: f"--- {short_path(f[1])}\n+++ {short_path(f[2])}\n", bare)


def _of_new_file(path: str, content: str) -> str:
    text = plain(content)
    ended = text.endswith("\n")
    lines = text.removesuffix("\n").split("\n")
    head = ["--- /dev/null", f"+++ {short_path(path)}", f"@@ -0,0 +1,{len(lines)} @@"]
    new = [f"+{line}" for line in lines]
    return "\n".join([*head, *new, *([] if ended else [NO_NEWLINE]), ""])
