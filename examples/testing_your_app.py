"""How an app tests its agent; here the chat does: `pytest examples/testing_your_app.py`.

`live` is the whole app, its lifespan included. `impostor` is OpenCode's place taken in the test's
own process, with an agent that does as it is told; `opencode_server` is a real one. Both fixtures
come with the library. Asynchronous fixtures as here want `asyncio_mode = "auto"`.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from examples.chat.app import create_app
from opencode_async import DirectoryArtifactStore, PermissionReply, Server
from opencode_async.testing import Impostor, LiveClient, live

ANN = {"Cookie": "visitor=ann"}


def an_app(server: Server, folder: Path) -> FastAPI:
    """On a database of the test's own: a file, for turns run beside the test, and commit."""
    url = f"sqlite+aiosqlite:///{folder / 'app.db'}"
    return create_app(server, url, store=DirectoryArtifactStore(folder / "files"))


@pytest.fixture
async def client(impostor: Impostor, tmp_path: Path) -> AsyncIterator[LiveClient]:
    async with impostor, live(an_app(impostor.server, tmp_path), headers=ANN) as client:
        yield client


async def test_words_are_streamed(client: LiveClient, impostor: Impostor) -> None:
    impostor.on("capital").text("The capital is ", "Paris.")
    message = await client.post(await client.conversation(), "What is the capital of France?")
    async with client.follow(message=message) as events:
        names = [event.event async for event in events]
    assert names[-1] == "finished"
    assert (await client.message(message))["content"] == "The capital is Paris."


async def test_a_refused_edit_is_not_made(client: LiveClient, impostor: Impostor) -> None:
    impostor.on("notes").tool("write", filePath="notes.txt", content="Hi").text("As you wish.")
    message = await client.post(await client.conversation(), "Write me some notes.")
    ask = await client.asked(message)
    await client.answer(message, ask, PermissionReply("reject", "Not now."))
    finished = await client.finished(message)
    assert finished["content"] == "As you wish."
    assert [part["status"] for part in finished["parts"] if part["type"] == "tool"] == ["error"]


async def test_a_provider_that_fails_is_said(client: LiveClient, impostor: Impostor) -> None:
    impostor.on("anything").error(401, "no such key")
    message = await client.post(await client.conversation(), "Say anything.")
    finished = await client.finished(message)
    assert (finished["status"], finished["error"]["code"]) == ("error", "provider_error")


async def test_it_is_the_same_on_a_real_server(opencode_server: Server, tmp_path: Path) -> None:
    async with live(an_app(opencode_server, tmp_path), headers=ANN) as client:
        message = await client.post(await client.conversation(), "SCRIPT:text Hello there.")
        assert (await client.finished(message))["content"] == "Hello there."
