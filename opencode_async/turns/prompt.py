"""The prompt of a turn: its ids and its whole request, decided before anything is sent.

OpenCode takes ids that the client chose, and posting the same ids again changes nothing (1.18.33,
measured): that is what makes a prompt one prompt, whatever fails.
"""

from __future__ import annotations

import uuid
from typing import Any

from opencode_async.models import MessageMixin
from opencode_async.protocol.wire import clean
from opencode_async.settings import TurnSettings


def prompt_columns(
    text: str, *, agent: str | None = None, model: str | None = None
) -> dict[str, Any]:
    """The columns of an assistant row that is to answer ``text``; every call makes other ids."""
    # Whole uuid4s: OpenCode's ids are primary keys across all sessions of a server.
    return {
        "prompt_id": f"msg_{uuid.uuid4().hex}",
        "part_ids": [f"prt_{uuid.uuid4().hex}"],
        "request": {"text": clean(text), "agent": agent, "model": model},
    }


def prompt_body(row: MessageMixin, settings: TurnSettings) -> dict[str, Any]:
    """The body for ``prompt_async``; what the request asks for goes before the host's settings.

    Never ``tools``, which would replace the session's permission rules, and never ``format``, which
    makes the session's message list unreadable for ever (OpenCode 1.18.33, measured).
    """
    request, part_ids = row.request or {}, row.part_ids or []
    body: dict[str, Any] = {
        "messageID": row.prompt_id,
        "parts": [{"id": part_ids[0], "type": "text", "text": request["text"]}],
    }
    if agent := request.get("agent") or settings.agent:
        body["agent"] = agent
    if model := request.get("model") or settings.model:
        provider, _, name = model.partition("/")
        body["model"] = {"providerID": provider, "modelID": name}
    if settings.system:
        body["system"] = settings.system
    return body
