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
    ArtifactMissing,
    ArtifactNotFound,
    ArtifactStoreError,
    AskGone,
    AskNotFound,
    ConversationBusy,
    ConversationNotFound,
    IdempotencyMismatch,
    InvalidReply,
    MessageNotFound,
    OpencodeConnectionError,
    OpencodeError,
    QueueFull,
    SandboxFileRefused,
    SandboxUnreachable,
)
from opencode_async.web.followers import TooManyFollowers

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


class CrossSite(OpencodeError):
    """A form that another site's page sent, with the cookies of whoever looks at it."""

    def __init__(self) -> None:
        super().__init__("this form was sent from another site")


class UploadRefused(OpencodeError):
    """An upload is not taken; what is left of it is not read."""


class InvalidForm(UploadRefused):
    """A form is malformed, ends too early, or has fields that are not known; the message says."""


class TooLarge(UploadRefused):
    """A file, or an upload as a whole, has more than ``limit`` bytes."""

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"{what} is larger than {limit} bytes")
        self.limit = limit


class TooManyFiles(UploadRefused):
    """An upload has more than ``most`` files."""

    def __init__(self, most: int) -> None:
        super().__init__(f"an upload has at most {most} files")
        self.most = most


class UnsupportedMediaType(UploadRefused):
    """A file, or the body of the request, is of a type that is not taken."""

    def __init__(self, what: str, content_type: str) -> None:
        super().__init__(f"{what} is {content_type or 'of no type'}, which is not accepted here")
        self.content_type = content_type


# error -> status, slug, title
PROBLEMS: dict[type[OpencodeError], tuple[int, str, str]] = {
    ConversationNotFound: (404, "conversation-not-found", "There is no such conversation."),
    MessageNotFound: (404, "message-not-found", "There is no such message."),
    AskNotFound: (404, "ask-not-found", "There is no such permission or question."),
    AlreadyAnswered: (409, "already-answered", "Somebody has answered that already."),
    SandboxUnreachable: (422, "sandbox-unreachable", "Files cannot be sent to this agent."),
    SandboxFileRefused: (422, "sandbox-refused", "The agent's folder does not take the file."),
    OpencodeConnectionError: (503, "agent-unreachable", "The agent cannot be reached just now."),
    ArtifactNotFound: (404, "artifact-not-found", "There is no such file."),
    ArtifactMissing: (404, "artifact-missing", "The file is not there any more."),
    ArtifactStoreError: (503, "artifact-store", "Files cannot be reached just now."),
    AskGone: (410, "ask-gone", "The agent no longer waits for that."),
    InvalidReply: (422, "invalid-reply", "That does not answer what was asked."),
    ConversationBusy: (409, "conversation-busy", "The agent is still answering."),
    QueueFull: (409, "queue-full", "Too many messages are waiting in this conversation."),
    IdempotencyMismatch: (
        422,
        "idempotency-mismatch",
        "This Idempotency-Key was used for another request.",
    ),
    TooManyFollowers: (429, "too-many-followers", "Too many streams are open."),
    CrossSite: (403, "cross-site", "Send it from the app's own pages."),
    Forbidden: (403, "read-only", "You may read here, but not write."),
    Invalid: (422, "invalid-request", "The request is not valid."),
    NotAllowed: (422, "not-allowed", "That is not on offer."),
    InvalidForm: (422, "invalid-request", "The request is not valid."),
    TooLarge: (413, "too-large", "That is too large."),
    # Not 413: that is about bytes, and a client would send smaller files, as many as before.
    TooManyFiles: (422, "too-many-files", "Those are too many files."),
    UnsupportedMediaType: (415, "unsupported-media-type", "That media type is not accepted."),
}


def problem(status: int, slug: str, title: str, **more: Any) -> JSONResponse:
    """A problem document; ``type`` is a stable slug under a URN of the library's."""
    body = {"type": f"urn:opencode-async:{slug}", "title": title, "status": status, **more}
    return JSONResponse(body, status, media_type="application/problem+json")


def translated(error: OpencodeError) -> Response:
    """The problem document of an error; raises one that is no caller's to know."""
    known = next((PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS), None)
    if known is None:
        raise error
    # What a store says of itself is not for the caller.
    detail: dict[str, Any] = {} if known[0] >= 500 else {"detail": str(error)}
    document = problem(*known, **detail)
    if isinstance(error, TooManyFollowers):
        document.headers["Retry-After"] = str(error.retry_after)
    return document


class ProblemRoute(APIRoute):
    """A route whose library errors become problem documents."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def safely(request: Request) -> Response:
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
                return translated(error)

        return safely
