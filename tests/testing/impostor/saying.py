"""A prompt and its whole answer, over the library's own client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opencode_async import Finished, OpencodeClient
from opencode_async.client.stream import StreamChange


async def answered(
    client: OpencodeClient, text: str, model: str | None = None
) -> tuple[dict[str, Any], list[StreamChange]]:
    """The message at the end, and all that changed until then."""
    session = await client.create_session(title="a title")
    async with client.stream(session, text, model=model) as changes:
        seen = [change async for change in changes]
    return ended(seen), seen


def ended(changes: Sequence[StreamChange]) -> dict[str, Any]:
    finished = changes[-1]
    assert isinstance(finished, Finished)
    return dict(finished.message)


def tools(message: dict[str, Any]) -> Sequence[dict[str, Any]]:
    return [part for part in message["parts"] if part["type"] == "tool"]
