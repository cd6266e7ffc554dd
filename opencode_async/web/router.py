"""The routes ready made: built only on ``agent.turns`` and on queries that obey ``Access``."""

# No postponed annotations here: FastAPI must see the aliases that each router makes of its
# `access`.
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response, params
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sse_starlette import EventSourceResponse

from opencode_async.artifacts.content_type import sniffed
from opencode_async.errors import ConversationNotFound, MessageNotFound
from opencode_async.models import LIVE, TERMINAL, ConversationMixin, MessageMixin
from opencode_async.protocol.asks import PermissionReply, QuestionReply
from opencode_async.protocol.wire import clean
from opencode_async.turns.message import isoformat, message_json
from opencode_async.turns.posting import Post, Uploads
from opencode_async.web.access import Access, AccessDependency, Visible
from opencode_async.web.artifact_routes import add_artifact_routes
from opencode_async.web.followers import Followers
from opencode_async.web.multipart import TEXT_FIELDS, FormRoute, Received, check_same_site, received
from opencode_async.web.problems import Forbidden, Invalid, NotAllowed, ProblemRoute
from opencode_async.web.schemas import (
    AgentConversation,
    AgentConversationDetail,
    AgentConversations,
    AgentMessage,
    AgentNewConversation,
    AgentNewMessage,
    AgentPermissionReply,
    AgentProblem,
    AgentQuestionReply,
    PostRules,
)
from opencode_async.web.shown import Shown
from opencode_async.web.sse import FollowerResponse, cursor_of, let_go, turn_response

if TYPE_CHECKING:
    from opencode_async.opencode import Opencode

Limit = Annotated[int, Query(ge=1, le=200)]
IdempotencyKey = Annotated[str | None, Header(max_length=255)]
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "Server-sent events"},
    429: {"model": AgentProblem},
}
FORM: dict[str, Any] = {
    "requestBody": {
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        **{name: {"type": "string"} for name in sorted(TEXT_FIELDS)},
                        "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
                    },
                }
            }
        }
    }
}
UPLOAD_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": AgentProblem} for status in (413, 415, 503)
}


@dataclass(frozen=True)
class RouterOptions:
    """What a host decides about the router as such, as ``APIRouter`` takes it."""

    tags: list[str | Enum]
    dependencies: list[params.Depends]
    responses: dict[int | str, dict[str, Any]] | None
    include_in_schema: bool


def build_router(
    agent: "Opencode[Any, Any]",
    access: AccessDependency,
    rules: PostRules,
    shown: Shown | None,
    followers: Followers,
    options: RouterOptions,
) -> APIRouter:
    """The router of ``Opencode.router``."""
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": AgentProblem} for status in (400, 403, 404, 409, 422)
    }
    router = APIRouter(
        route_class=ProblemRoute,
        tags=options.tags,
        dependencies=options.dependencies,
        responses=problems | (options.responses or {}),
        include_in_schema=options.include_in_schema,
        generate_unique_id_function=lambda route: f"{agent.name}_{route.name}",
    )
    tables = agent.tables
    conversations, messages = tables.conversation, tables.message
    Caller = Annotated[Access, Depends(access)]

    def writer(access: Caller) -> Access:
        if not access.may_write:
            raise Forbidden
        return access

    Writer = Annotated[Access, Depends(writer)]

    async def found(db: AsyncSession, access: Access, key: str) -> Any:
        row = await db.scalar(Visible(tables, access).conversation(key))
        if row is None:
            raise ConversationNotFound(key)
        return row

    async def found_message(access: Access, key: str) -> Any:
        async with agent.sessions() as db:
            row = await db.scalar(Visible(tables, access).message(key))
        if row is None:
            raise MessageNotFound(key)
        return row

    async def seen(db: AsyncSession, rows: Sequence[MessageMixin]) -> list[dict[str, Any]]:
        beside = await agent.besides.of(db, [row.id for row in rows])
        found = [message_json(row, beside) for row in rows]
        return found if shown is None else [shown.message(message) for message in found]

    async def answer_with(row: MessageMixin, status: int = 200) -> Response:
        async with agent.sessions() as db:
            (message,) = await seen(db, [row])
        return JSONResponse(message, status)

    async def with_state(db: AsyncSession, rows: list[Any]) -> list[dict[str, Any]]:
        query = select(messages.conversation_id).where(
            messages.conversation_id.in_([row.id for row in rows]),
            messages.status.in_(LIVE),
        )
        busy = set((await db.scalars(query)).all())
        return [conversation_json(row, busy=row.id in busy) for row in rows]

    @router.get("/conversations", response_model=AgentConversations)
    async def list_conversations(
        access: Caller, limit: Limit = 50, before: str | None = None
    ) -> Response:
        """The caller's conversations, newest first."""
        query = Visible(tables, access).conversations()
        order = tuple_(conversations.created_at, conversations.id)
        if before is not None:
            last = Visible(tables, access).conversation(before)
            place = last.with_only_columns(conversations.created_at, conversations.id)
            query = query.where(order < place.scalar_subquery())
        query = query.order_by(conversations.created_at.desc(), conversations.id.desc())
        async with agent.sessions() as db:
            if before is not None:
                await found(db, access, before)
            rows = list((await db.scalars(query.limit(limit + 1))).all())
            items = await with_state(db, rows[:limit])
        following = items[-1]["id"] if len(rows) > limit else None
        return JSONResponse({"items": items, "next": following})

    @router.post("/conversations", status_code=201, response_model=AgentConversation)
    async def create_conversation(
        access: Writer, body: AgentNewConversation | None = None
    ) -> Response:
        """A new conversation."""
        title = clean(body.title) if body and body.title else None
        async with agent.sessions() as db:
            row = conversations(**{**access.conversation, "title": title})
            db.add(row)
            await db.commit()
            await db.refresh(row)
        return JSONResponse(conversation_json(row, busy=False), 201)

    @router.get("/conversations/{cid}", response_model=AgentConversationDetail)
    async def get_conversation(
        cid: str, access: Caller, limit: Limit = 50, before: str | None = None
    ) -> Response:
        """A conversation with its newest messages, or those before one of them; oldest first."""
        async with agent.sessions() as db:
            row = await found(db, access, cid)
            # A row without a position has no place here; and with such rows no index would do.
            placed = messages.position.is_not(None)
            query = select(messages).where(messages.conversation_id == row.id, placed)
            if before is not None:
                last = await db.scalar(Visible(tables, access).message(before))
                if last is None or last.conversation_id != row.id or last.position is None:
                    raise MessageNotFound(before)
                query = query.where(messages.position < last.position)
            query = query.order_by(messages.position.desc()).limit(limit)
            rows = (await db.scalars(query)).all()
            (shape,) = await with_state(db, [row])
            shape["messages"] = await seen(db, rows[::-1])
        return JSONResponse(shape)

    @router.delete("/conversations/{cid}", status_code=204)
    async def delete_conversation(cid: str, access: Writer) -> Response:
        """Erase a conversation: its turn is stopped, its rows and its OpenCode session go."""
        async with agent.sessions() as db:
            row = await found(db, access, cid)
        await agent.erase(row.id)
        return Response(status_code=204)

    if agent.uploading is not None:
        uploading = agent.uploading

        async def post_form(
            cid: str, access: Writer, request: Request, idempotency_key: IdempotencyKey = None
        ) -> Response:
            """The same with files, as a form."""
            check_same_site(request)
            await let_go(request)
            async with agent.sessions() as db:
                row = await found(db, access, cid)
                session = agent.session(db, row)
            async with received(request, rules.uploads, sniffed) as form:
                body = form_body(form, rules)

                async def insert(db: AsyncSession, uploads: Uploads) -> tuple[Any, bool]:
                    asked = asked_for(body, access, idempotency_key)
                    post = Post(body.text, uploads=uploads, **asked)
                    return await agent.turns.insert(db, row.id, post)

                message = await uploading.start(session, body.text, form.files, insert)
            return await answer_with(message, 202)

        router.add_api_route(
            "/conversations/{cid}/messages",
            post_form,
            methods=["POST"],
            status_code=202,
            include_in_schema=False,  # the next one speaks for both
            route_class_override=FormRoute,
        )

    @router.post(
        "/conversations/{cid}/messages",
        status_code=202,
        response_model=AgentMessage,
        responses=UPLOAD_PROBLEMS if agent.uploading is not None else None,
        openapi_extra=FORM if agent.uploading is not None else None,
    )
    async def post_message(
        cid: str, body: AgentNewMessage, access: Writer, idempotency_key: IdempotencyKey = None
    ) -> Response:
        """Say something; the assistant's message that will answer comes back, pending or queued."""
        check(body, rules)
        async with agent.sessions() as db:
            row = await found(db, access, cid)
        asked = asked_for(body, access, idempotency_key)
        message = await agent.turns.start(row.id, body.text, **asked)
        return await answer_with(message, 202)

    @router.get("/conversations/{cid}/events", response_class=EventSourceResponse, responses=STREAM)
    async def follow_conversation(cid: str, access: Caller, request: Request) -> Response:
        """Every turn of the conversation as it happens: one connection for a tab."""
        await let_go(request)
        async with agent.sessions() as db:
            row = await found(db, access, cid)
        following, cursor = agent.turns.conversations, cursor_of(request)
        first = await following.start_of(row.id, cursor)
        batches = following.frames(row.id, cursor, first, whole=shown is not None)
        place = followers.one(row.id, access.by)
        follower = following.follower(row.id)
        return FollowerResponse(batches, shown, agent.streams, place, follower)

    @router.get("/messages/{mid}", response_model=AgentMessage)
    async def get_message(mid: str, access: Caller) -> Response:
        """A message as it is stored."""
        return await answer_with(await found_message(access, mid))

    @router.get("/messages/{mid}/events", response_class=EventSourceResponse, responses=STREAM)
    async def follow_message(mid: str, access: Caller, request: Request) -> Response:
        """One turn as it happens, until it is finished; 204 when the cursor is at its end."""
        await let_go(request)
        row = await found_message(access, mid)
        place, following = followers.one(row.conversation_id, access.by), agent.turns.following
        return await turn_response(following, row.id, request, shown, agent.streams, place)

    @router.post("/messages/{mid}/cancel", status_code=202, response_model=AgentMessage)
    async def cancel_message(mid: str, access: Writer) -> Response:
        """Stop a turn; 202 while it is being stopped, 200 if it had ended."""
        row = await found_message(access, mid)
        stopped = await agent.turns.cancel(row.id)
        return await answer_with(stopped, 200 if row.status in TERMINAL else 202)

    if tables.ask is not None:
        gone: dict[int | str, dict[str, Any]] = {410: {"model": AgentProblem}}

        @router.post("/messages/{mid}/questions/{qid}", status_code=204, responses=gone)
        async def answer_question(
            mid: str, qid: str, body: AgentQuestionReply, access: Writer
        ) -> Response:
            """Answer what the agent asks, or dismiss it, once."""
            if (body.answers is None) is not bool(body.reject):
                raise Invalid("either answers or reject")
            row = await found_message(access, mid)
            reply = QuestionReply(body.answers, body.custom)
            await agent.turns.answer(row.id, qid, reply, by=access.by)
            return Response(status_code=204)

        @router.post("/messages/{mid}/permissions/{pid}", status_code=204, responses=gone)
        async def answer_permission(
            mid: str, pid: str, body: AgentPermissionReply, access: Writer
        ) -> Response:
            """Grant or refuse what the agent asks leave for, once."""
            row = await found_message(access, mid)
            reply = PermissionReply(body.reply, body.message)
            await agent.turns.answer(row.id, pid, reply, by=access.by)
            return Response(status_code=204)

    if tables.artifact is not None and agent.artifacts is not None:
        add_artifact_routes(router, agent, agent.artifacts.store, access)

    return router


def form_body(form: Received, rules: PostRules) -> AgentNewMessage:
    """The form's fields as the JSON they stand for; with files there may be no text."""
    try:
        body = AgentNewMessage.model_validate({"text": "", **form.fields})
    except ValidationError as error:
        raise Invalid(f"{error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}") from error
    check(body, rules, may_be_empty=bool(form.files))
    return body


def asked_for(body: AgentNewMessage, access: Access, key: str | None) -> dict[str, Any]:
    """What a message asks for, as ``turns.start`` takes it."""
    return {
        "values": access.message,
        "agent": body.agent,
        "model": body.model,
        "on_busy": body.on_busy,
        "idempotency_key": key,
    }


def check(body: AgentNewMessage, rules: PostRules, *, may_be_empty: bool = False) -> None:
    """Raise ``Invalid`` or ``NotAllowed`` for what this router does not take."""
    if not (may_be_empty or body.text.strip()):
        raise Invalid("text is empty")
    if len(body.text) > rules.max_text:
        raise Invalid(f"text is longer than {rules.max_text} characters")
    if body.agent is not None and body.agent not in rules.agents:
        raise NotAllowed("agent")
    if body.model is not None and body.model not in rules.models:
        raise NotAllowed("model")


def conversation_json(row: ConversationMixin, *, busy: bool) -> dict[str, Any]:
    """A conversation as the HTTP contract shows it."""
    return {
        "id": str(row.id),
        "title": row.title,
        "busy": busy,
        "created_at": isoformat(row.created_at),
    }
