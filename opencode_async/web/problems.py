"""Errors as RFC 9457 problem documents, from the library's own routes only.

The translation lives in the router's route class, so a host's exception handlers and its other
routes are untouched, and an ``HTTPException`` of the host's ``access`` passes as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from opencode_async.errors import (
    AlreadyAnswered,
    AskGone,
    AskNotFound,
    ConversationBusy,
    ConversationNotFound,
    IdempotencyMismatch,
    InvalidReply,
    MessageNotFound,
    OpencodeError,
    QueueFull,
)

# What FastAPI raises for a body that is not UTF-8, too deep or otherwise beyond its JSON parser.
UNREADABLE = (400, "There was an error parsing the body")
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Forbidden(OpencodeError):
    """The caller may read here, but not write."""

    def __init__(self) -> None:
        super().__init__("this access may not write")


class Invalid(OpencodeError):
    """A request that has the right shape is not acceptable all the same."""


class NotAllowed(OpencodeError):
    """The caller asks for an agent or model that the router does not offer."""

    def __init__(self, field: str) -> None:
        super().__init__(f"that {field} is not on offer")
        self.field = field


# error -> status, slug, title
PROBLEMS: dict[type[OpencodeError], tuple[int, str, str]] = {
    ConversationNotFound: (404, "conversation-not-found", "There is no such conversation."),
    MessageNotFound: (404, "message-not-found", "There is no such message."),
    AskNotFound: (404, "ask-not-found", "There is no such permission or question."),
    AlreadyAnswered: (409, "already-answered", "Somebody has answered that already."),
    AskGone: (410, "ask-gone", "The agent no longer waits for that."),
    InvalidReply: (422, "invalid-reply", "That does not answer what was asked."),
    ConversationBusy: (409, "conversation-busy", "The agent is still answering."),
    QueueFull: (409, "queue-full", "Too many messages are waiting in this conversation."),
    IdempotencyMismatch: (
        422,
        "idempotency-mismatch",
        "This Idempotency-Key was used for another request.",
    ),
    Forbidden: (403, "read-only", "You may read here, but not write."),
    Invalid: (422, "invalid-request", "The request is not valid."),
    NotAllowed: (422, "not-allowed", "That is not on offer."),
}


def problem(status: int, slug: str, title: str, **more: Any) -> JSONResponse:
    """A problem document; ``type`` is a stable slug under a URN of the library's."""
    body = {"type": f"urn:opencode-async:{slug}", "title": title, "status": status, **more}
    return JSONResponse(body, status, media_type="application/problem+json")


class ProblemRoute(APIRoute):
    """A route whose library errors become problem documents."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def translated(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                errors = [
                    {"loc": list(e["loc"]), "msg": e["msg"], "type": e["type"]}
                    for e in error.errors()
                ]
                return problem(422, "invalid-request", "The request is not valid.", errors=errors)
            except HTTPException as error:
                if (error.status_code, error.detail) != UNREADABLE:
                    raise  # the host's own
                return problem(400, "unreadable-body", "The body is not readable JSON.")
            except OpencodeError as error:
                known = PROBLEMS.get(type(error))
                if known is None:
                    raise
                return problem(*known, detail=str(error))

        return translated
