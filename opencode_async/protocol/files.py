"""What OpenCode says of files on its disk."""

from __future__ import annotations

import base64

from opencode_async.protocol.wire import Malformed, mapping, objects, optional_text, text


def entries_from_wire(value: object) -> dict[str, str]:
    """The answer of ``GET /file``: the names in a folder, each ``file`` or ``directory``."""
    return {text(entry, "name"): text(entry, "type") for entry in objects(value)}


def binary_from_wire(value: object) -> bytes:
    """The answer of ``GET /file/content``; nothing for text, which is not given as it is.

    Raises ``Malformed``.
    """
    content = mapping(value)
    if optional_text(content, "encoding") != "base64":
        return b""
    try:
        return base64.b64decode(text(content, "content"), validate=True)
    except ValueError as error:
        raise Malformed(f"content: {error}") from error
