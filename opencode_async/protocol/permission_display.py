"""What leave is asked for, as a person is to see it who decides: whole, and plain text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opencode_async.protocol.plain_text import seen
from opencode_async.protocol.tool_diffs import short_heads
from opencode_async.protocol.tool_targets import object_of
from opencode_async.protocol.wire import optional_text


def permission_display(permission: Mapping[str, Any]) -> dict[str, Any]:
    """A permission's ``display`` in the HTTP API, by its JSON there; all keys always there.

    ``command`` and ``diff`` are ``None`` where it is about none. Nothing is escaped, and nothing
    left out but folders in a diff's heads, for ``patterns`` have them: what is not seen, or turns
    the direction of text, is U+FFFD, or one would allow something else than one reads.
    """
    metadata = object_of(permission.get("metadata"))
    command, diff = optional_text(metadata, "command"), optional_text(metadata, "diff")
    return {
        "command": None if command is None else seen(command),
        "diff": short_heads(seen(diff)) if diff and diff.strip() else None,
        "patterns": [seen(pattern) for pattern in permission.get("patterns") or ()],
    }
