"""A prompt as it is posted: ids of our own, then posting it again changes nothing.

OpenCode takes ids that the client chose, and posting the same ids again while they are the newest
has no effect (1.18.33, measured): that is what makes a prompt one prompt, whatever fails.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opencode_async.protocol.wire import clean


def new_prompt_id(now: float) -> str:
    """An id for a prompt's message, unique across all sessions of all servers.

    It begins with the time, ``now`` in seconds since 1970, as OpenCode's own ids do: 1.15.13 and
    1.17.19 take an answer for one of an earlier prompt unless its id is greater, and answer again
    and again (measured; 1.18.33 goes by other times).
    """
    return f"msg_{int(now * 1000) * 0x1000 % 2**48:012x}{uuid.uuid4().hex[:20]}"


def new_part_id() -> str:
    """An id for one of its parts, as unique."""
    return f"prt_{uuid.uuid4().hex}"


def new_part_ids(number: int) -> list[str]:
    """Ids for so many parts, which OpenCode puts in the order of their ids (1.18.33, measured)."""
    return sorted(new_part_id() for _ in range(number))


@dataclass(frozen=True, slots=True)
class Image:
    """An image that comes with a prompt; ``url`` says where it is until it is sent as ``data:``.

    OpenCode makes large ones smaller, and refuses a prompt with one it cannot read (1.18.33,
    measured).
    """

    url: str
    content_type: str
    filename: str

    def to_part(self, part_id: str) -> dict[str, Any]:
        """The part of a prompt's body."""
        return {
            "id": part_id,
            "type": "file",
            "mime": self.content_type,
            "filename": self.filename,
            "url": self.url,
        }


def check_model(model: str | None) -> None:
    """Raise ``ValueError`` unless it is ``provider/model``; a model's own name may hold slashes."""
    if model is not None and not all(model.partition("/")):
        raise ValueError(f"model is provider/model, not {model!r}")


def prompt_body(
    prompt_id: str,
    part_ids: Sequence[str],
    text: str,
    images: Sequence[Image] = (),
    *,
    agent: str | None = None,
    model: str | None = None,
    system: str | None = None,
) -> dict[str, Any]:
    """The body for ``prompt_async``; what is ``None`` is left to OpenCode.

    There is an id for the text and one for each image.

    Never ``tools``, which would replace the session's permission rules, and never ``format``, which
    makes the session's message list unreadable for ever (OpenCode 1.18.33, measured).
    """
    body: dict[str, Any] = {
        "messageID": prompt_id,
        "parts": [
            {"id": part_ids[0], "type": "text", "text": clean(text)},
            *(image.to_part(part_id) for image, part_id in zip(images, part_ids[1:], strict=True)),
        ],
    }
    if agent:
        body["agent"] = agent
    if model:
        provider, _, name = model.partition("/")
        body["model"] = {"providerID": provider, "modelID": name}
    if system:
        body["system"] = system
    return body


def with_fresh_ids(body: dict[str, Any], now: float) -> dict[str, Any]:
    """The same prompt as a new one, which no session has seen."""
    ids = new_part_ids(len(body["parts"]))
    parts = [{**part, "id": part_id} for part, part_id in zip(body["parts"], ids, strict=True)]
    return {**body, "messageID": new_prompt_id(now), "parts": parts}
