"""A chat in one FastAPI app: the host owns app, tables and visitors; the library brings the agent.

uvicorn --factory examples.chat.app:create_app      with OPENCODE_BASE_URL in the environment
"""

import os
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import Cookie, FastAPI, HTTPException
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from sqlalchemy.ext.asyncio import async_sessionmaker

from examples.chat.models import TABLES, Base, Conversation, Message
from examples.chat.storage import create_engine, create_store
from opencode_async import (
    Access,
    ArtifactPolicy,
    ArtifactStore,
    Opencode,
    Permissions,
    Server,
    TurnSettings,
)

PAGE = Path(__file__).with_name("page")
YEAR = 365 * 24 * 3600
REVALIDATED = {"Cache-Control": "no-cache"}  # so that no two versions of the page's files meet
# What the agent may do unasked is OpenCode's default, but for this.
CAREFUL = Permissions().ask("edit")


def mine(visitor: Annotated[str | None, Cookie()] = None) -> Access:
    """A visitor sees their own conversations only. An app with accounts asks for its user here."""
    if visitor is None:
        raise HTTPException(401, "Open the chat's page first: it says who you are.")
    return Access(Conversation.visitor == visitor, conversation={"visitor": visitor})


class PageFiles(StaticFiles):
    """The page's style and script."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(REVALIDATED)
        return response


def chat(
    agent: Opencode[Conversation, Message],
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
    suggestions: Sequence[str] = (),
) -> FastAPI:
    """The page and the routes of a chat with the agent, which the lifespan is to start."""
    app = FastAPI(title="Chat", lifespan=lifespan)
    app.include_router(agent.router(access=mine), prefix="/agent")
    app.mount("/page", PageFiles(directory=PAGE))

    @app.get("/", include_in_schema=False)
    async def page(visitor: Annotated[str | None, Cookie()] = None) -> FileResponse:
        response = FileResponse(PAGE / "index.html", headers=REVALIDATED)
        if visitor is None:
            response.set_cookie(
                "visitor", secrets.token_urlsafe(), max_age=YEAR, httponly=True, samesite="lax"
            )
        return response

    @app.get("/suggestions", include_in_schema=False)
    async def suggested() -> list[str]:
        return list(suggestions)

    return app


def create_app(
    server: Server | None = None,
    database_url: str | None = None,
    suggestions: Sequence[str] = (),
    permissions: Permissions = CAREFUL,
    store: ArtifactStore | None = None,
) -> FastAPI:
    """The chat, in front of the given OpenCode server or the one the environment names."""
    engine = create_engine(database_url or os.environ.get("DATABASE_URL"))

    async def settings_for(conversation: Conversation) -> TurnSettings:
        return TurnSettings(permissions=permissions)

    agent = Opencode(
        server or Server.from_env(),
        async_sessionmaker(engine),
        TABLES,
        settings_for=settings_for,
        artifacts=ArtifactPolicy(store or create_store()),
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with agent:
            yield
        await engine.dispose()

    return chat(agent, lifespan, suggestions)
