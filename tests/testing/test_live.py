"""A host's app in its own test, with the real OpenCode behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Header, Request
from sqlalchemy.ext.asyncio import async_sessionmaker

from opencode_async import (
    Access,
    ArtifactPolicy,
    DirectoryArtifactStore,
    Opencode,
    PermissionReply,
    QuestionReply,
    Tables,
)
from opencode_async.testing import LiveClient, ScriptedServer, live
from tests.support.hosts import Ask, Base, Conversation, File, Message, Reports, engine_for
from tests.turns.asking import BASH, TIMINGS, asking

USER = {"X-User": "1"}


def an_app(url: str, server: ScriptedServer, files: Path) -> FastAPI:
    """An app with everything, whose lifespan makes its tables."""
    engine = engine_for(url)
    agent = Opencode(
        server,
        async_sessionmaker(engine),
        Tables(Conversation, Message, File, Ask),
        settings_for=asking("bash"),
        artifacts=ArtifactPolicy(DirectoryArtifactStore(files)),
        timings=TIMINGS,
        error_reporter=Reports(),
    )

    def access(x_user: int = Header()) -> Access:
        return Access(Conversation.user_id == x_user, conversation={"user_id": x_user})

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with agent:
            yield {"of": "the lifespan"}
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)
    app.include_router(agent.router(access=access), prefix="/assistant")

    @app.get("/own")
    async def own(request: Request) -> str:
        return str(request.state.of)

    return app


@pytest.fixture
async def client(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> AsyncIterator[LiveClient]:
    app = an_app(database_url, opencode, tmp_path)
    async with live(app, prefix="/assistant", headers=USER) as client:
        yield client


async def test_an_answer_is_followed_while_it_is_made(client: LiveClient) -> None:
    conversation = await client.conversation("A title")
    async with client.follow(conversation=conversation) as events:
        message = await client.post(conversation, 'SCRIPT:slow {"n": 4, "delay": 0.1}')
        heard = ""
        states = set()
        async for event in events:
            if event.event == "part.delta":
                heard += event.data["delta"]
                states.add((await client.message(message))["status"])
            if event.event == "finished":
                break
    assert heard.endswith("tick3 ")
    assert "pending" in states  # the deltas came while the turn was running
    stored = await client.finished(message["id"])
    assert stored == event.data["message"] == (await client.messages(conversation))[-1]
    async with client.follow(message=message, after=event.id) as events:
        assert [event async for event in events] == []


async def test_a_stream_is_resumed_behind_an_event(client: LiveClient) -> None:
    message = await client.post(await client.conversation(), "SCRIPT:text One two three.")
    await client.finished(message)
    async with client.follow(message=message) as events:
        first = await anext(events)
        everything = [first, *[event async for event in events]]
    assert everything[-1].event == "finished"
    async with client.follow(message=message, after=everything[-1].id) as events:
        assert [event async for event in events] == []


async def test_what_the_agent_asks_is_answered(client: LiveClient) -> None:
    message = await client.post(await client.conversation(), BASH)
    ask = await client.asked(message)
    assert ask["permission"] == "bash"
    await client.answer(message, ask, PermissionReply("once"))
    finished = await client.finished(message)
    assert finished["status"] == "completed"
    assert finished["permissions"][0]["status"] == "answered"
    with pytest.raises(httpx.HTTPStatusError, match="already-answered") as twice:
        await client.answer(message, ask["id"], PermissionReply("reject"))
    assert twice.value.response.status_code == 409
    with pytest.raises(AssertionError, match="had asked nothing"):
        await client.asked(message)


@pytest.mark.parametrize(("answered", "finish"), [(True, "stop"), (False, "rejected")])
async def test_a_question_is_answered_or_dismissed(
    answered: bool, finish: str, client: LiveClient
) -> None:
    message = await client.post(await client.conversation(), "SCRIPT:question")
    ask = await client.asked(message)
    label = ask["questions"][0]["options"][0]["label"]
    await client.answer(message, ask, QuestionReply([[label]] if answered else None))
    assert (await client.finished(message))["finish"] == finish


async def test_a_turn_is_stopped_and_another_waits(client: LiveClient) -> None:
    conversation = await client.conversation()
    message = await client.post(conversation, "SCRIPT:hang Half of it.")
    with pytest.raises(httpx.HTTPStatusError, match="conversation-busy"):
        await client.post(conversation, "SCRIPT:text Next.")
    waiting = await client.post(
        conversation, "SCRIPT:text Next.", on_busy="enqueue", idempotency_key="next"
    )
    assert waiting["status"] == "queued"
    again = await client.post(
        conversation, "SCRIPT:text Next.", on_busy="enqueue", idempotency_key="next"
    )
    assert again["id"] == waiting["id"]
    async with client.follow(message=message) as events:
        async for event in events:  # it is at work
            if event.event == "part.delta" or event.data.get("message", {}).get("content"):
                break
    await client.cancel(message)
    assert (await client.finished(message))["status"] == "cancelled"
    assert (await client.finished(waiting))["content"] == "Next."


async def test_files_are_sent(client: LiveClient) -> None:
    message = await client.post(
        await client.conversation(), "SCRIPT:text Thanks.", files={"notes.txt": b"Buy milk."}
    )
    finished = await client.finished(message)
    assert finished["status"] == "completed", finished
    sent = (await client.messages(finished["conversation_id"]))[0]
    (file,) = sent["artifacts"]
    assert file["filename"] == "notes.txt"
    got = await client.http.get(f"{client.prefix}/artifacts/{file['id']}")
    assert got.content == b"Buy milk."


async def test_the_hosts_own_routes_have_what_its_lifespan_gives(client: LiveClient) -> None:
    assert (await client.http.get("/own")).json() == "the lifespan"


async def test_another_user_sees_nothing(client: LiveClient) -> None:
    conversation = await client.conversation()
    client.http.headers["X-User"] = "2"
    with pytest.raises(httpx.HTTPStatusError, match="conversation-not-found") as error:
        async with client.follow(conversation=conversation):
            pass
    assert error.value.response.json()["status"] == 404
    with pytest.raises(TypeError, match="either"):
        async with client.follow():
            pass


async def test_a_turn_that_does_not_end_is_not_waited_for_without_end(client: LiveClient) -> None:
    message = await client.post(await client.conversation(), "SCRIPT:hang")
    with pytest.raises(TimeoutError):
        await client.finished(message, within=0.2)


async def test_who_still_follows_at_the_end_is_hung_up_on(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    app = an_app(database_url, opencode, tmp_path)
    following = asyncio.Event()

    async def follow(client: LiveClient, conversation: str) -> Any:
        async with client.follow(conversation=conversation) as events:
            following.set()
            return [event async for event in events]

    async with live(app, prefix="/assistant/", headers=USER) as client:
        task = asyncio.create_task(follow(client, await client.conversation()))
        await following.wait()
    with pytest.raises(httpx.HTTPError):
        await task
