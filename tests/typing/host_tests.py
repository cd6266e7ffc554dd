"""A host's own tests of its agent, checked by mypy: the real server with the scripted model."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, assert_type

import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from opencode_async import (
    Finished,
    Opencode,
    PartDelta,
    PermissionReply,
    QuestionReply,
    Server,
    Tables,
    TextPart,
)
from opencode_async.testing import (
    Impostor,
    LiveClient,
    ScriptedServer,
    StreamEvent,
    live,
    scripted_server,
)
from tests.typing.quickstart import Base, Conversation, Message, app

Agent = Opencode[Conversation, Message]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with scripted_server(tmp_path) as server:
        yield server


@pytest.fixture
async def agent(server: Server, tmp_path: Path) -> AsyncIterator[Agent]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    async with Opencode(server, sessions, Tables(Conversation, Message)) as agent:
        yield agent
    await engine.dispose()


async def test_the_answer_is_streamed_and_stored(agent: Agent) -> None:
    async with agent.sessionmaker() as db:
        conversation = Conversation(user_id=1)
        db.add(conversation)
        await db.commit()
    message = await agent.turns.start(conversation.id, "SCRIPT:text Hello there.")
    heard = ""
    async with agent.turns.follow(message.id) as changes:
        async for change in changes:
            match change:
                case PartDelta(delta=delta):
                    heard += delta
                case Finished(message=stored):
                    assert stored["content"] == "Hello there."
    result = await agent.turns.run(message.id)
    assert result.status == "completed"
    assert [part.content for part in result.parts if isinstance(part, TextPart)] == [heard]


async def test_what_the_agent_does_is_told_here(tmp_path: Path) -> None:
    async with Impostor(tmp_path) as impostor:
        impostor.on("hello").text("Hi ").tool("bash", command="ls").asks("edit", filePath="a.txt")
        impostor.faults.cut("message.part.delta")
        server: Server = impostor.server
        assert server.directory == tmp_path


@pytest.fixture
async def client(impostor: Impostor) -> AsyncIterator[LiveClient]:
    async with impostor, live(app, prefix="/agent", headers={"X-User": "ann"}) as client:
        yield client


async def test_the_whole_app(client: LiveClient, opencode_server: ScriptedServer) -> None:
    conversation = await client.conversation("A title")
    message = await client.post(
        conversation, "Hello", files={"a.txt": b"A"}, on_busy="enqueue", idempotency_key="1"
    )
    async with client.follow(conversation=conversation, after="1.1.1") as events:
        async for event in events:
            assert_type(event, StreamEvent)
            print(event.id, event.event, event.data["message_id"])
    ask = await client.asked(message, within=10)
    await client.answer(message, ask, PermissionReply("once"))
    await client.answer(message["id"], 7, QuestionReply([["Blue"]]))
    await client.cancel(message)
    assert_type(await client.finished(message), dict[str, Any])
    assert await client.messages(conversation) == [await client.message(message)]
    assert (await client.http.get("/own")).status_code == 200
    assert opencode_server.model.requests
