"""The prompt of a turn: its ids and its whole request, decided before anything is sent.

The row has it as it is sent, but for images: these are in the artifact store, and the row says
under which keys, for a row is no place for megabytes.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from opencode_async.artifacts.stores.store import ArtifactStore
from opencode_async.errors import ArtifactStoreError
from opencode_async.models import MessageMixin
from opencode_async.protocol.prompt import Image, new_part_ids, new_prompt_id, prompt_body
from opencode_async.protocol.wire import clean
from opencode_async.settings import TurnSettings

STORED = "artifact:"  # before the key, in place of an image's URL
READING = 30.0  # s an image may take


def prompt_columns(
    text: str,
    *,
    agent: str | None = None,
    model: str | None = None,
    uploaded: Mapping[str, str] = MappingProxyType({}),
    images: Sequence[Image] = (),
    trace: Mapping[str, str],
) -> dict[str, Any]:
    """The columns of an assistant row that is to answer ``text``; every call makes another id.

    ``uploaded`` are the hashes of the files that came with it, by their paths in the sandbox;
    ``images`` those of them that are sent as such; ``trace`` is what a ``Tracer`` goes on with,
    whichever worker runs the turn.
    """
    request: dict[str, Any] = {"text": clean(text), "agent": agent, "model": model}
    if uploaded:
        request["uploaded"] = dict(uploaded)
    if images:
        request["images"] = [[each.url, each.content_type, each.filename] for each in images]
    if trace:
        request["trace"] = dict(trace)
    return {"prompt_id": new_prompt_id(time.time()), "request": request}


def body_of(row: MessageMixin, settings: TurnSettings, now: float) -> dict[str, Any]:
    """The body that is posted; what the request asks for goes before the host's settings.

    Its ids are of this moment: the prompt may have waited for others.
    """
    request = row.request or {}
    images = [Image(*image) for image in request.get("images", ())]
    return prompt_body(
        new_prompt_id(now),
        new_part_ids(1 + len(images)),
        request["text"],
        images,
        agent=request.get("agent") or settings.agent,
        model=request.get("model") or settings.model,
        system=settings.system,
    )


async def with_images(body: dict[str, Any], store: ArtifactStore) -> dict[str, Any]:
    """The body with its images in it. Raises ``ArtifactStoreError``."""
    parts = [
        {**part, "url": await _data_url(part, store)} if "url" in part else part
        for part in body["parts"]
    ]
    return {**body, "parts": parts}


async def _data_url(part: Mapping[str, Any], store: ArtifactStore) -> str:
    key = part["url"].removeprefix(STORED)
    try:
        async with asyncio.timeout(READING), store.open(key) as chunks:
            content = b"".join([chunk async for chunk in chunks])
    except ArtifactStoreError:
        raise
    except Exception as error:  # of a store of the host's own, say: not of our database
        raise ArtifactStoreError(key, "did not give an image") from error
    return f"data:{part['mime']};base64,{base64.b64encode(content).decode()}"
