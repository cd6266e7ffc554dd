"""A prompt as it is posted: ids of our own, then posting it again changes nothing.

OpenCode takes ids that the client chose, and posting the same ids again while they are the newest
has no effect (1.18.33, measured): that is what makes a prompt one prompt, whatever fails.
"""

from __future__ import annotations

import uuid
from typing import Any

from opencode_async.protocol.wire import clean


def new_prompt_id() -> str:
    """An id for a prompt's message, unique across all sessions of all servers."""
    return f"msg_{uuid.uuid4().hex}"


def new_part_id() -> str:
    """An id for one of its parts, as unique."""
    return f"prt_{uuid.uuid4().hex}"


def check_model(model: str | None) -> None:
    """Raise ``ValueError`` unless it is ``provider/model``; a model's own name may hold slashes."""
    if model is not None and not all(model.partition("/")):
        raise ValueError(f"model is provider/model, not {model!r}")


def prompt_body(
    prompt_id: str,
    part_id: str,
    text: str,
    *,
    agent: str | None = None,
    model: str | None = None,
    system: str | None = None,
) -> dict[str, Any]:
    """The body for ``prompt_async``; what is ``None`` is left to OpenCode.

    Never ``tools``, which would replace the session's permission rules, and never ``format``, which
    makes the session's message list unreadable for ever (OpenCode 1.18.33, measured).
    """
    body: dict[str, Any] = {
        "messageID": prompt_id,
        "parts": [{"id": part_id, "type": "text", "text": clean(text)}],
    }
    if agent:
        body["agent"] = agent
    if model:
        provider, _, name = model.partition("/")
        body["model"] = {"providerID": provider, "modelID": name}
    if system:
        body["system"] = system
    return body


def with_fresh_ids(body: dict[str, Any]) -> dict[str, Any]:
    """The same prompt as a new one, for a session that never saw the first."""
    parts = [{**part, "id": new_part_id()} for part in body["parts"]]
    return {**body, "messageID": new_prompt_id(), "parts": parts}
