"""The library in apps of all kinds: two agents, a lifespan around, schemas of the host's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import async_sessionmaker

from opencode_async import Access, NotRunning, Opencode, OpencodeClient, Tables
from opencode_async.testing import ScriptedServer, scripted_server
from tests.support.hosts import (
    Base,
    Conversation,
    Entry,
    Message,
    OldBase,
    Reports,
    Thread,
    engine_for,
)
from tests.support.serving import listening, serving


def helpers(url: str, server: Any, **options: Any) -> tuple[Any, Any, Any]:
    """An agent on the newer tables, and who may use it."""
    engine = engine_for(url)
    agent = Opencode(
        server,
        async_sessionmaker(engine),
        Tables(Conversation, Message),
        error_reporter=Reports(),
        **options,
    )

    def access() -> Access:
        return Access(Conversation.user_id == 1, conversation={"user_id": 1})

    return engine, agent, access


async def answer(client: httpx.AsyncClient, prefix: str, text: str) -> dict[str, Any]:
    """The message that answers a text in a new conversation."""
    cid = (await client.post(f"{prefix}/conversations")).json()["id"]
    path = f"{prefix}/conversations/{cid}/events"
    async with listening(client, path) as events:
        posted = await client.post(f"{prefix}/conversations/{cid}/messages", json={"text": text})
        assert posted.status_code == 202, posted.text
        async for event in events:
            if event.event == "finished":
                break
    message: dict[str, Any] = event.data["message"]
    return message


async def test_two_agents_on_two_servers_in_one_app(
    database_url: str, opencode: ScriptedServer, opencode_binary: Path, tmp_path: Path
) -> None:
    async with scripted_server(tmp_path, binary=opencode_binary) as other:
        engine, writer, users = helpers(database_url, opencode, name="writer")
        coder = Opencode(
            other,
            async_sessionmaker(engine),
            Tables(Thread, Entry),
            name="coder",
            error_reporter=Reports(),
        )

        def tenant() -> Access:
            values = {"tenant_id": 7}
            return Access(
                Thread.tenant_id == 7, conversation=values, message={**values, "source": "chat"}
            )

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            async with engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
                await connection.run_sync(OldBase.metadata.create_all)
            async with writer, coder:
                yield
            await engine.dispose()

        app = FastAPI(lifespan=lifespan)
        app.include_router(writer.router(access=users), prefix="/writer")
        app.include_router(coder.router(access=tenant), prefix="/coder")
        async with serving(app) as client:
            assert (await answer(client, "/writer", "SCRIPT:text Prose."))["content"] == "Prose."
            assert (await answer(client, "/coder", "SCRIPT:text Code."))["content"] == "Code."
        asked = [str(request.body["messages"]) for request in other.model.requests]
        assert any("Code." in messages for messages in asked)
        assert not any("Prose." in messages for messages in asked)
    schema = app.openapi()
    operations = [o for path in schema["paths"].values() for o in path.values()]
    assert len({o["operationId"] for o in operations}) == len(operations) == 18
    assert {tag for o in operations for tag in o["tags"]} == {"writer", "coder"}


async def test_an_apps_own_lifespan_is_the_agents(
    database_url: str, opencode: ScriptedServer
) -> None:
    engine, agent, access = helpers(database_url, opencode)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    app = FastAPI(lifespan=agent.lifespan)
    app.include_router(agent.router(access=access), prefix="/agent")
    for _ in range(2):  # an agent may be started again
        async with serving(app) as client:
            assert (await answer(client, "/agent", "SCRIPT:text Here."))["content"] == "Here."
    await engine.dispose()


async def test_outside_its_lifespan_an_agent_says_what_to_do(
    tmp_path: Path, opencode: ScriptedServer
) -> None:
    engine, agent, access = helpers(f"sqlite+aiosqlite:///{tmp_path}/no.db", opencode)
    for use in (lambda: agent.turns, lambda: agent.client, lambda: OpencodeClient(opencode).hub):
        with pytest.raises(NotRunning, match=r"async with .*lifespan"):
            use()
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with agent.sessionmaker() as db:
        db.add(conversation := Conversation(user_id=1))
        await db.commit()
        await db.refresh(conversation)
    app = FastAPI()  # whose author forgot it
    app.include_router(agent.router(access=access), prefix="/agent")
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        assert (await client.get("/agent/conversations")).status_code == 200
        path = f"/agent/conversations/{conversation.id}/messages"
        with pytest.raises(NotRunning, match=r"FastAPI\(lifespan=agent.lifespan\)"):
            await client.post(path, json={"text": "Hi"})
    await engine.dispose()


def test_the_schemas_of_a_host_stay_as_they_were(tmp_path: Path) -> None:
    class Message(BaseModel):
        """The host's own."""

        words: int

    class Conversation(BaseModel):
        messages: list[Message]

    def app() -> FastAPI:
        own = FastAPI(title="The host's")

        @own.get("/own", response_model=Conversation, operation_id="list_conversations")
        def listed() -> None: ...

        return own

    before, extended = app().openapi(), app()
    _, agent, access = helpers(f"sqlite+aiosqlite:///{tmp_path}/no.db", "http://localhost:4096")
    extended.include_router(agent.router(access=access), prefix="/agent")
    after = extended.openapi()
    assert after["paths"]["/own"] == before["paths"]["/own"]
    added = after["components"]["schemas"]
    for name, schema in before["components"]["schemas"].items():
        assert added[name] == schema
    new = set(added) - set(before["components"]["schemas"])
    assert {name for name in new if not name.startswith("Agent")} <= {
        "HTTPValidationError",
        "ValidationError",
    }
    hidden = app()
    hidden.include_router(agent.router(access=access, include_in_schema=False), prefix="/agent")
    assert hidden.openapi() == before
