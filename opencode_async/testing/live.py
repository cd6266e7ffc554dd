"""A host's app in its own test: started, asked, followed and answered, without a socket.

::

    async with live(app) as client:
        conversation = await client.conversation()
        message = await client.post(conversation, "SCRIPT:bash")
        ask = await client.asked(message)
        await client.answer(message, ask, PermissionReply("once"))
        assert (await client.finished(message))["status"] == "completed"
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import httpx
from httpx_sse import EventSource

from opencode_async.protocol.asks import PermissionReply, QuestionReply
from opencode_async.testing.lifespan import lifespan_of
from opencode_async.testing.streaming_transport import (
    App,
    Message,
    Receive,
    Send,
    StreamingTransport,
)

Json = dict[str, Any]
Id = str | int | UUID
TIMEOUT = 60.0  # s


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event of a stream: its ``id``, to resume behind it, its name and its JSON."""

    id: str
    event: str
    data: Json


@asynccontextmanager
async def live(
    app: App, *, prefix: str = "/agent", headers: Mapping[str, str] | None = None
) -> AsyncIterator[LiveClient]:
    """Run the app's lifespan and give a client of it, to which streams really stream.

    ``prefix`` is where the app has the agent's router; ``headers`` go with every request, say who
    asks. Everything runs in the test's own event loop. At the end whoever still follows is hung up
    on, then the lifespan is left; what the app raised that nobody was told, is raised there.
    """
    async with lifespan_of(app) as state:

        async def with_state(scope: Message, receive: Receive, send: Send) -> None:
            await app({**scope, "state": dict(state)}, receive, send)

        async with httpx.AsyncClient(
            transport=StreamingTransport(with_state),
            base_url="http://test",
            headers=headers,
            timeout=TIMEOUT,
        ) as http:
            yield LiveClient(http, prefix)


class LiveClient:
    """The agent's routes as methods; ``http`` is for the host's own.

    Where the app answers with an error, all raise ``httpx.HTTPStatusError``, whose text has what
    the app said and whose ``response`` has the rest. Messages and asks may be given as the JSON
    that they came as, or by their ids.
    """

    def __init__(self, http: httpx.AsyncClient, prefix: str) -> None:
        self.http = http
        self.prefix = prefix.rstrip("/")

    async def conversation(self, title: str | None = None) -> str:
        """The id of a new conversation."""
        body = {"title": title} if title is not None else {}
        created = await self._request("POST", "/conversations", json=body)
        return str(created.json()["id"])

    async def post(
        self,
        conversation: Json | Id,
        text: str,
        *,
        files: Mapping[str, bytes] | None = None,
        on_busy: Literal["reject", "enqueue", "interrupt"] = "reject",
        agent: str | None = None,
        model: str | None = None,
        idempotency_key: str | None = None,
    ) -> Json:
        """Say something: the assistant's message that will answer it.

        ``files`` are the bytes of each file by its name; the rest is what the route takes.
        """
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key is not None else {}
        asked = {"on_busy": on_busy, "agent": agent, "model": model}
        body = {"text": text, **{name: value for name, value in asked.items() if value is not None}}
        sent: dict[str, Any] = {"json": body}
        if files is not None:
            parts = [("files", (name, content)) for name, content in files.items()]
            sent = {"data": body, "files": parts}
        path = f"/conversations/{id_of(conversation)}/messages"
        return await self._json("POST", path, headers=headers, **sent)

    async def message(self, message: Json | Id) -> Json:
        """The message as it is stored now."""
        return await self._json("GET", f"/messages/{id_of(message)}")

    async def messages(self, conversation: Json | Id) -> list[Json]:
        """The newest messages of a conversation, oldest first."""
        found = await self._json("GET", f"/conversations/{id_of(conversation)}")
        return list(found["messages"])

    async def cancel(self, message: Json | Id) -> Json:
        """Stop a turn: the message, which ``finished`` waits for the end of."""
        return await self._json("POST", f"/messages/{id_of(message)}/cancel")

    async def answer(
        self, message: Json | Id, ask: Json | Id, reply: PermissionReply | QuestionReply
    ) -> None:
        """Answer a permission or a question of the turn."""
        kind, body = "permissions", {}
        if isinstance(reply, PermissionReply):
            body = reply.to_json()
        else:
            kind = "questions"
            body = {"answers": reply.answers, "custom": list(reply.custom)}
            if reply.answers is None:
                body = {"reject": True}
        path = f"/messages/{id_of(message)}/{kind}/{id_of(ask)}"
        await self._request("POST", path, json=body)

    @asynccontextmanager
    async def follow(
        self,
        *,
        message: Json | Id | None = None,
        conversation: Json | Id | None = None,
        after: str | None = None,
    ) -> AsyncIterator[AsyncIterator[StreamEvent]]:
        """The events of one turn, until it is finished, or of all turns of a conversation.

        Inside the block the stream stands. ``after`` is the id of the last event one has; what a
        finished turn has behind its last one is nothing.
        """
        if (message is None) is (conversation is None):
            raise TypeError("follow either a message or a conversation")
        where = "conversations" if message is None else "messages"
        key = id_of(conversation if message is None else message)
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if after is not None:
            headers["Last-Event-ID"] = after
        url = f"{self.prefix}/{where}/{key}/events"
        async with self.http.stream("GET", url, headers=headers) as response:
            if response.is_error:
                await response.aread()
            checked(response)
            async with aclosing(events(response)) as received:
                yield received

    async def finished(self, message: Json | Id, *, within: float = TIMEOUT) -> Json:
        """Wait until the turn has ended, ``within`` seconds at most; the message as it is then."""
        async with asyncio.timeout(within), self.follow(message=message) as received:
            async for each in received:
                if each.event == "finished":
                    return dict(each.data["message"])
        raise AssertionError("the turn's stream ended before the turn was finished")

    async def asked(self, message: Json | Id, *, within: float = TIMEOUT) -> Json:
        """Wait for the first permission or question of the turn that is open.

        Raises ``AssertionError`` if the turn ends without one.
        """
        async with asyncio.timeout(within), self.follow(message=message) as received:
            async for each in received:
                known = each.data.get("message", {})
                found = [*known.get("permissions", ()), *known.get("questions", ())]
                if each.event in ("permission.asked", "question.asked"):
                    found = [each.data[each.event.partition(".")[0]]]
                for ask in found:
                    if ask["status"] == "open":
                        return dict(ask)
        raise AssertionError("the turn ended and had asked nothing")

    async def _json(self, method: str, path: str, **request: Any) -> Json:
        return dict((await self._request(method, path, **request)).json())

    async def _request(self, method: str, path: str, **request: Any) -> httpx.Response:
        return checked(await self.http.request(method, self.prefix + path, **request))


def id_of(thing: Json | Id | None) -> str:
    """The id of a message, an ask or a conversation, given as its JSON or as the id itself."""
    return str(thing["id"] if isinstance(thing, dict) else thing)


def checked(response: httpx.Response) -> httpx.Response:
    """The response; raises ``httpx.HTTPStatusError`` with what it says unless it is a success."""
    if response.is_success:
        return response
    request = response.request
    said = f"{request.method} {request.url.path}: {response.status_code} {response.text}"
    raise httpx.HTTPStatusError(said, request=request, response=response)


async def events(response: httpx.Response) -> AsyncGenerator[StreamEvent, None]:
    """The events in a response; none in one without content."""
    if response.status_code == httpx.codes.NO_CONTENT:
        return
    async with aclosing(EventSource(response).aiter_sse()) as frames:
        async for frame in frames:
            if frame.data:  # a comment, or when to reconnect, comes as one without
                yield StreamEvent(frame.id, frame.event, frame.json())
