"""How fast one answer is taken in: OpenCode's event stream, up to its text."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from opencode_ai import AsyncOpencode

from opencode_async import OpencodeClient
from opencode_async.protocol.prompt import new_part_ids, new_prompt_id, prompt_body
from opencode_async.protocol.reply import Reply
from tests.benchmarks.upstream import Load


class Timed:
    """CPU seconds of this process, from the prompt to the end of its answer."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._since = time.process_time()

    def done(self, text: str) -> float:
        """The deltas per second of CPU. Raises ``ValueError`` where some are missing."""
        seconds = time.process_time() - self._since
        if len(text) != self._load.deltas * self._load.size:
            raise ValueError(f"{len(text)} characters of {self._load}")
        return self._load.deltas / seconds


def asking(load: Load) -> dict[str, object]:
    return prompt_body(new_prompt_id(time.time()), new_part_ids(1), str(load))


async def library(url: str, load: Load) -> float:
    """Ours: the hub, and a ``Reply`` that grows."""
    async with OpencodeClient(url) as client:
        session_id, body = await client.create_session(), asking(load)
        reply = Reply(session_id, str(body["messageID"]))
        async with client.hub.subscribe(session_id) as events:
            timed = Timed(load)
            await client.prompt(session_id, body)
            while not reply.settled:
                for item in await events.batch(60):
                    reply.apply(item)  # type: ignore[arg-type]
            (part,) = reply.result()
            return timed.done(part.content)  # type: ignore[union-attr]


async def sdk(url: str, load: Load) -> float:
    """The official SDK, whose stream has every event as a typed object."""
    async with httpx.AsyncClient(base_url=url) as http, AsyncOpencode(base_url=url) as opencode:
        session_id = (await http.post("/session", json={})).json()["id"]
        text: list[str] = []
        stream = await opencode.event.list()
        timed = Timed(load)
        await http.post(f"/session/{session_id}/prompt_async", json=asking(load))
        async for event in stream:
            kind: str = event.type
            if kind == "message.part.delta":
                text.append(delta_of(event.properties))
            elif kind == "session.idle":
                break
        return timed.done("".join(text))


def delta_of(properties: Any) -> str:
    """The SDK is older than this event, and knows it as one of another type."""
    delta: str = properties.delta
    return delta


async def limit(url: str, load: Load) -> float:
    """No less can be done: cut the bytes into frames and decode each with the same codec."""
    async with httpx.AsyncClient(base_url=url, timeout=None) as http:  # noqa: S113
        session_id = (await http.post("/session", json={})).json()["id"]
        text: list[str] = []
        async with http.stream("GET", "/event") as response:
            timed = Timed(load)
            await http.post(f"/session/{session_id}/prompt_async", json=asking(load))
            rest = b""
            async for chunk in response.aiter_bytes():
                *frames, rest = (rest + chunk).split(b"\n\n")
                for data in frames:
                    event = json.loads(data[6:])
                    if event["type"] == "message.part.delta":
                        text.append(event["properties"]["delta"])
                    elif event["type"] == "session.idle":
                        return timed.done("".join(text))
        raise EOFError("the stream has ended")


PEERS: dict[str, Callable[[str, Load], Awaitable[float]]] = {
    "opencode_async": library,
    "opencode-ai": sdk,
    "limit": limit,
}


async def ingested(peer: str, url: str, load: Load) -> dict[str, float]:
    """How many deltas one second of CPU time is enough for."""
    return {"deltas_per_cpu_second": await PEERS[peer](url, load)}
