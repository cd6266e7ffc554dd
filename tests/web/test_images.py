"""Images that people send, as the model is shown them: by the real server."""

from __future__ import annotations

import asyncio
import base64
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from opencode_async import ArtifactPolicy, ArtifactStoreError, DirectoryArtifactStore
from opencode_async.testing import ScriptedServer
from tests.support.hosts import Host, nowhere
from tests.support.replay import replay_events
from tests.turns.ended import lose_first_worker
from tests.web.test_artifacts import conversation, files_chat, sandbox_files, send
from tests.web.test_routes import chat, heard

Json = dict[str, Any]


def chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(red: int, side: int = 8) -> bytes:
    """A whole picture: OpenCode looks into it."""
    row = b"\0" + bytes([red, 0, 0]) * side
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(row * side))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


ONE, TWO = png(1), png(2)


def shown(opencode: ScriptedServer) -> list[bytes]:
    """The images in what the model was asked last, in order."""
    messages = opencode.model.requests[-1].body["messages"]
    urls = [
        part["image_url"]["url"]
        for message in messages
        if isinstance(message["content"], list)
        for part in message["content"]
        if part["type"] == "image_url"
    ]
    return [base64.b64decode(url.partition(",")[2]) for url in urls]


async def at_its_end(client: httpx.AsyncClient, answer: httpx.Response) -> Json:
    assert answer.status_code == 202, answer.text
    finished = replay_events(await heard(client, answer.json()["id"]))[1]
    assert finished is not None
    return finished


async def request_of(app: Host[Any, Any], message: Json) -> Json:
    request: Json = (await app.row(UUID(message["id"]))).request
    return request


async def test_the_model_is_shown_them_in_order_and_told_where_they_are(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    before = sandbox_files(opencode)
    options: Json = {"inline_images": 100_000}
    async with files_chat(database_url, opencode, tmp_path, **options) as (app, client):
        cid = await conversation(client)
        files = [("one.png", ONE), ("two.png", TWO), ("a.txt", b"text")]
        message = await at_its_end(client, await send(client, cid, *files, text="SCRIPT:echo"))
        assert message["status"] == "completed"
        assert shown(opencode) == [ONE, TWO]
        assert len(sandbox_files(opencode, before)) == 3
        request = await request_of(app, message)
        prompt = request["body"]["parts"][0]["text"]
        assert all(f"/{name} (" in prompt for name in ("one.png", "two.png", "a.txt"))
        # A row is no place for megabytes.
        urls = [part["url"] for part in request["body"]["parts"][1:]]
        assert [url.partition(":")[0] for url in urls] == ["artifact", "artifact"]
        said = (await client.get(f"/agent/messages/{message['reply_to']}")).json()
        assert {file["filename"] for file in said["artifacts"]} == {"a.txt", "one.png", "two.png"}
    assert app.reports.errors == []


async def test_none_is_shown_unless_a_host_says_so_and_none_that_is_larger(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    settings: list[Json] = [{}, {"inline_images": len(ONE) - 1}]
    for options in settings:
        async with files_chat(database_url, opencode, tmp_path, **options) as (_, client):
            cid = await conversation(client)
            answer = await send(client, cid, ("one.png", ONE), text="SCRIPT:echo")
            message = await at_its_end(client, answer)
        assert "one.png" in message["content"]
        assert shown(opencode) == []


async def test_where_the_agents_disk_is_not_seen_an_image_is_shown_and_a_file_refused(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    before = sandbox_files(opencode)
    options: Json = {"inline_images": 100_000, "directory": tmp_path / "not here"}
    async with files_chat(database_url, opencode, tmp_path / "kept", **options) as (app, client):
        cid = await conversation(client)
        both = ("one.png", ONE), ("a.txt", b"text")
        answer = await send(client, cid, *both, text="SCRIPT:echo")
        assert answer.status_code == 422
        assert answer.json()["type"] == "urn:opencode-async:sandbox-unreachable"
        same_name = ("a.png", ONE), ("a.png", TWO)
        message = await at_its_end(client, await send(client, cid, *same_name))
        assert message["status"] == "completed"
        assert shown(opencode) == [ONE, TWO]
        said = (await client.get(f"/agent/messages/{message['reply_to']}")).json()
        files = {file["filename"]: file["url"] for file in said["artifacts"]}
        assert set(files) == {"a.png", "a-2.png"}
        for name, content in (("a.png", ONE), ("a-2.png", TWO)):
            assert (await client.get(f"/agent{files[name]}")).content == content
    assert sandbox_files(opencode, before) == set()
    assert app.reports.errors == []


async def test_a_damaged_image_is_refused_with_its_turn(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    damaged = ONE[:40] + bytes(40)
    options: Json = {"inline_images": 100_000}
    async with files_chat(database_url, opencode, tmp_path, **options) as (_, client):
        cid = await conversation(client)
        answer = await send(client, cid, ("a.png", damaged), text="SCRIPT:echo")
        message = await at_its_end(client, answer)
    assert (message["status"], message["error"]["code"]) == ("error", "refused")


@pytest.mark.parametrize(
    "content", [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"http://a/b.png"]
)
async def test_what_only_calls_itself_an_image_is_a_file(
    content: bytes, database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    options: Json = {"inline_images": 100_000}
    async with files_chat(database_url, opencode, tmp_path, **options) as (app, client):
        cid = await conversation(client)
        answer = await send(client, cid, ("a.png", content), text="SCRIPT:echo")
        message = await at_its_end(client, answer)
        assert len((await request_of(app, message))["body"]["parts"]) == 1
    assert shown(opencode) == []


async def test_an_image_that_the_store_lost_ends_the_turn_with_a_reason(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    options: Json = {"inline_images": 100_000}
    async with files_chat(database_url, opencode, tmp_path, **options) as (app, client):
        cid = await conversation(client)
        running = (await send(client, cid, ("a.txt", b"a"), text="SCRIPT:hang Words.")).json()
        waiting = await send(client, cid, ("a.png", ONE), text="SCRIPT:echo", on_busy="enqueue")
        forget_images(tmp_path)
        await client.post(f"/agent/messages/{running['id']}/cancel")
        message = await at_its_end(client, waiting)
    assert (message["status"], message["error"]["code"]) == ("error", "internal")
    assert [type(error).__name__ for error in app.reports.errors] == ["ArtifactMissing"]


class Away(DirectoryArtifactStore):
    """A store that may be slow, or away with an error of its own."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.error: Exception | None = None
        self.asked, self.back = asyncio.Event(), asyncio.Event()
        self.back.set()

    @asynccontextmanager
    async def open(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.asked.set()
        await self.back.wait()
        if self.error is not None:
            raise self.error
        async with super().open(key, start, end) as chunks:
            yield chunks


@asynccontextmanager
async def away_chat(
    url: str, server: ScriptedServer, store: Away
) -> AsyncIterator[tuple[Host[Any, Any], httpx.AsyncClient, str]]:
    kept = ArtifactPolicy(store, inline_images=100_000)
    async with chat(url, server, files=True, artifacts=kept, dispatch=nowhere) as (app, client):
        yield app, client, await conversation(client)


async def test_a_stop_does_not_wait_for_a_store(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    store = Away(tmp_path)
    async with away_chat(database_url, opencode, store) as (app, client, cid):
        message = (await send(client, cid, ("a.png", ONE), text="SCRIPT:echo")).json()
        store.back.clear()
        store.asked.clear()
        running = asyncio.create_task(app.agent.turns.run(message["id"]))
        await store.asked.wait()
        await client.post(f"/agent/messages/{message['id']}/cancel")
        assert (await running).status == "cancelled"
    assert app.reports.errors == []


async def test_an_error_of_a_hosts_own_store_is_not_one_of_the_database(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    store = Away(tmp_path)
    async with away_chat(database_url, opencode, store) as (app, client, cid):
        message = (await send(client, cid, ("a.png", ONE), text="SCRIPT:echo")).json()
        store.error = ConnectionError()
        result = await app.agent.turns.run(message["id"])
        assert (result.status, result.error and result.error.code) == ("error", "internal")


async def test_whoever_takes_a_turn_over_needs_no_image_for_an_answer_that_is_there(
    database_url: str, opencode: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_first_worker(monkeypatch)
    store = Away(tmp_path)
    async with away_chat(database_url, opencode, store) as (app, client, cid):
        message = (await send(client, cid, ("a.png", ONE), text="SCRIPT:text Hi.")).json()
        with pytest.raises(asyncio.CancelledError):
            await app.agent.turns.run(message["id"])
        store.error = ArtifactStoreError("key", "is away")
        result = await app.agent.turns.run(message["id"])
        assert (result.status, result.content) == ("completed", "Hi.")


def forget_images(store: Path) -> None:
    for path in store.rglob("*"):
        if path.is_file() and path.read_bytes() == ONE:
            path.unlink()
