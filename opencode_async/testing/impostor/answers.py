"""Answers of OpenCode that are not just JSON: refusals, streams, and none at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from opencode_async.testing.impostor.bus import Stream

Json = dict[str, Any]
UNEXPECTED = "Unexpected server error. Check server logs for details."


class Answer(JSONResponse):
    """JSON in ASCII, which can say lone surrogates, too."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode()


async def not_found(request: Request, error: Exception) -> Response:
    """There is no such session or message."""
    return failure(404, "NotFoundError", message=str(error))


def failure(status: int, name: str, **data: object) -> Response:
    """An error in the first of OpenCode's shapes."""
    return Answer({"name": name, "data": data}, status)


def bad_request(message: str, kind: str) -> Response:
    """What the schema of a request refuses."""
    return failure(400, "BadRequest", message=message, kind=kind)


def unexpected() -> Response:
    """What OpenCode did not foresee."""
    return failure(500, "UnknownError", message=UNEXPECTED, ref="err_impostor")


def formatted(messages: list[Json]) -> int | None:
    """Where the first prompt with a ``format`` is, which OpenCode cannot read back."""
    return next((n for n, m in enumerate(messages) if "format" in m["info"]), None)


def unreadable(message: Json, where: str) -> Response:
    """The answer for a list with such a prompt in it, for ever (OpenCode 1.18.33, measured)."""
    got = json.dumps(message["info"]["format"], separators=(",", ":"))
    return bad_request(f"Expected OutputFormatJsonSchema, got {got}\n  at {where}", "Body")


def ask_not_found(kind: str, ask_id: str) -> Response:
    """Nobody asks that, or not any more."""
    message = f"{kind} request not found: {ask_id}"
    told = {"_tag": f"{kind}NotFoundError", "requestID": ask_id, "message": message}
    return Answer(told, 404)


class Broken(Response):
    """No answer: it begins and the connection breaks."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})


class Events(StreamingResponse):
    """An event stream, which may end with a broken connection."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream.frames(), media_type="text/event-stream")
        self._stream = stream

    async def stream_response(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async for data in self._stream.frames():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        if not self._stream.broken:
            await send({"type": "http.response.body"})


class Closing(Response):
    """A response behind whose end something is closed, however it ends."""

    def __init__(self, response: Response, close: Callable[[], None]) -> None:
        self._response = response
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._response(scope, receive, send)
        finally:
            self._close()
