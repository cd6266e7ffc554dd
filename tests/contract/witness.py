"""Somebody who does the same to any server and writes down what it tells."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx

from opencode_async.client.http import Lent
from opencode_async.client.server import Server
from opencode_async.protocol.prompt import new_part_id, new_prompt_id

Json = dict[str, Any]
WITHIN = 40.0  # s for anything that is waited for


class Witness:
    """One connection of its own to a server, and all that came over it.

    ``rows`` are events, ``(type, properties)``, and answers, ``(request, status, body)``.
    ``version`` is the server's.
    """

    def __init__(self, server: Server, http: httpx.AsyncClient, version: str) -> None:
        self.server = server
        self.version = version
        self.rows: list[Any] = []
        self.events: list[Json] = []
        self.over = asyncio.Event()  # the event stream has ended
        self._http = http
        self._news = asyncio.Condition()

    async def ask(self, method: str, path: str, body: object = None, /, **query: Any) -> Any:
        """Ask, and write down the answer."""
        params = {"directory": str(self.server.directory), **query}
        response = await self._http.request(method, path, json=body, params=params)
        answer = response.json() if response.content else None
        self.rows.append((f"{method} {path}", response.status_code, answer))
        return answer

    async def page(self, session_id: str, *, limit: int, before: str | None) -> str | None:
        """Ask for a page of messages, and write it down; the cursor of the one before."""
        path = f"/session/{session_id}/message"
        query = {"limit": limit} | ({"before": before} if before else {})
        response = await self._http.get(path, params=query)
        older: str | None = response.headers.get("X-Next-Cursor")
        self.rows.append((f"page of {limit}", response.status_code, response.json()))
        self.rows.append(("older", older is not None, "Link" in response.headers))
        return older

    async def sessions(self, **query: Any) -> str | None:
        """Ask for a page of sessions, and write it down; the cursor of the one before."""
        params = {"directory": str(self.server.directory), **query}
        response = await self._http.get("/experimental/session", params=params)
        older: str | None = response.headers.get("X-Next-Cursor")
        self.rows.append((f"sessions {sorted(query)}", response.status_code, response.json()))
        self.rows.append(("older", older is not None, None))
        return older

    async def session(self, *rules: tuple[str, str, str], **body: Any) -> str:
        """The id of a new session with these rules."""
        keys = ("permission", "pattern", "action")
        given = [dict(zip(keys, rule, strict=True)) for rule in rules]
        permission = {"permission": given} if given else {}
        created = await self.ask("POST", "/session", {"title": "a title", **permission, **body})
        return str(created["id"])

    async def prompt(self, session_id: str, text: str, **body: Any) -> Json:
        """Post a prompt; what was posted."""
        part = {"id": new_part_id(), "type": "text", "text": text}
        posted = {"messageID": new_prompt_id(time.time()), "parts": [part], **body}
        await self.post(session_id, posted)
        return posted

    async def post(self, session_id: str, body: Mapping[str, Any]) -> None:
        """Post that."""
        await self.ask("POST", f"/session/{session_id}/prompt_async", body)

    async def until(self, true: Callable[[Json], bool], count: int = 1) -> Json:
        """Wait for so many events like that, from the beginning of the scenario."""

        def found() -> list[Json]:
            return [event for event in self.events if true(event)]

        async with asyncio.timeout(WITHIN), self._news:
            await self._news.wait_for(lambda: len(found()) >= count)
        return found()[count - 1]

    async def idle(self, session_id: str, count: int = 1) -> None:
        """Wait until it was said so many times that the session is idle."""
        await self.until(
            lambda e: e["type"] == "session.idle" and e["properties"]["sessionID"] == session_id,
            count,
        )

    async def kind(self, kind: str, count: int = 1) -> Json:
        """Wait for so many events of that type; the properties of the last of them."""
        event = await self.until(lambda e: e["type"] == kind, count)
        properties: Json = event["properties"]
        return properties

    async def tool_running(self, output: str) -> None:
        """Wait for a command that has said so much."""

        def says(event: Json) -> bool:
            state = event["properties"].get("part", {}).get("state", {})
            return bool(state.get("metadata", {}).get("output") == output)

        await self.until(says)

    async def truth(self, session_id: str) -> None:
        """Write down what REST says of the session at last."""
        await self.ask("GET", f"/session/{session_id}/message")
        info = await self.ask("GET", f"/session/{session_id}")
        await self.ask("GET", f"/session/{session_id}/children")
        assert info

    async def listen(self, ready: asyncio.Event) -> None:
        """Write down the events."""
        params = {"directory": str(self.server.directory)}
        with suppress(httpx.RemoteProtocolError):  # the server crashed
            await self._read(params, ready)
        self.over.set()

    async def _read(self, params: Mapping[str, str], ready: asyncio.Event) -> None:
        async with self._http.stream("GET", "/event", params=params, timeout=None) as response:
            async for line in response.aiter_lines():
                if not line.startswith("data: "):
                    continue
                event = json.loads(line.removeprefix("data: "))
                ready.set()
                async with self._news:
                    self.events.append(event)
                    self.rows.append((event["type"], event["properties"]))
                    self._news.notify_all()


@asynccontextmanager
async def witness(server: Server) -> AsyncIterator[Witness]:
    """A witness that listens."""
    auth = httpx.BasicAuth(server.username, server.password or "")
    transport = server.transport and Lent(server.transport)
    async with (
        httpx.AsyncClient(
            base_url=server.url, auth=auth, transport=transport, trust_env=False, timeout=30
        ) as http,
        asyncio.TaskGroup() as tasks,
    ):
        version = (await http.get("/global/health")).json()["version"]
        found, ready = Witness(server, http, version), asyncio.Event()
        listening = tasks.create_task(found.listen(ready))
        await ready.wait()
        try:
            yield found
        finally:
            listening.cancel()
