"""The prompt of a turn: its ids and its whole request, decided before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from opencode_async.models import MessageMixin
from opencode_async.protocol.prompt import new_part_id, new_prompt_id, prompt_body
from opencode_async.protocol.wire import clean
from opencode_async.settings import TurnSettings


def prompt_columns(
    text: str,
    *,
    agent: str | None = None,
    model: str | None = None,
    uploaded: Mapping[str, str] = MappingProxyType({}),
    trace: Mapping[str, str],
) -> dict[str, Any]:
    """The columns of an assistant row that is to answer ``text``; every call makes other ids.

    ``uploaded`` are the hashes of the files that came with it, by their paths in the sandbox;
    ``trace`` is what a ``Tracer`` goes on with, whichever worker runs the turn.
    """
    request: dict[str, Any] = {"text": clean(text), "agent": agent, "model": model}
    if uploaded:
        request["uploaded"] = dict(uploaded)
    if trace:
        request["trace"] = dict(trace)
    return {"prompt_id": new_prompt_id(), "part_ids": [new_part_id()], "request": request}


def body_of(row: MessageMixin, settings: TurnSettings) -> dict[str, Any]:
    """The body that is posted; what the request asks for goes before the host's settings."""
    request, part_ids = row.request or {}, row.part_ids or []
    return prompt_body(
        row.prompt_id or "",
        part_ids[0],
        request["text"],
        agent=request.get("agent") or settings.agent,
        model=request.get("model") or settings.model,
        system=settings.system,
    )
