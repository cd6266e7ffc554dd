"""Files out and in over HTTP: what a browser is given, and what is taken from it."""

from __future__ import annotations

import json
import tempfile
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from opencode_async import ArtifactPolicy, DirectoryArtifactStore, Server
from opencode_async.testing import ScriptedServer
from tests.support.hosts import File, Host
from tests.support.replay import replay_events
from tests.turns.test_artifacts import ToPage
from tests.web.test_routes import UNKNOWN, chat, heard, post

Json = dict[str, Any]
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00"


@asynccontextmanager
async def files_chat(
    url: str, server: Server, store: Path, *, router: Json | None = None, **policy: Any
) -> AsyncIterator[tuple[Host[Any, Any], httpx.AsyncClient]]:
    kept = ArtifactPolicy(DirectoryArtifactStore(store), **policy)
    options: Json = {"files": True, "artifacts": kept, "router": router or {}}
    async with chat(url, server, **options) as (app, client):
        yield app, client


async def written(client: httpx.AsyncClient, path: str, content: str) -> tuple[Json, Json]:
    """A turn that writes a file: its message at its end, and the file as it has it."""
    args = json.dumps([{"name": "write", "args": {"filePath": path, "content": content}}])
    message = await post(client, f"SCRIPT:tools {args}")
    events = await heard(client, message["id"])
    state, finished = replay_events(events)
    assert finished is not None
    told = [event.data["artifact"] for event in events if event.event == "artifact"]
    assert told == finished["artifacts"] or state["artifacts"] == finished["artifacts"]
    (file,) = finished["artifacts"]
    return finished, file


async def test_a_file_is_listed_and_downloaded_as_data_and_nothing_else(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    page = "<!doctype html><script>alert(1)</script>Ü"
    async with files_chat(database_url, opencode, tmp_path / "kept") as (_, client):
        message, file = await written(client, "page.html", page)
        assert (file["filename"], file["path"]) == ("page.html", "page.html")
        assert (file["size"], file["trusted"]) == (len(page.encode()), False)
        stored = (await client.get(f"/agent/messages/{message['id']}")).json()
        assert stored == message
        listed = await client.get(f"/agent/messages/{message['id']}/artifacts")
        assert listed.json() == [file]

        answer = await client.get(f"/agent{file['url']}")

        assert (answer.status_code, answer.text) == (200, page)
        headers = answer.headers
        assert headers["content-disposition"].startswith('attachment; filename="page.html"')
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
        assert headers["cache-control"] == "private, no-cache"
        assert headers["etag"] == f'"{file["sha256"]}"'
        assert headers["content-length"] == str(file["size"])


async def test_a_part_of_a_file_is_given_and_none_twice(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    async with files_chat(database_url, opencode, tmp_path / "kept") as (_, client):
        _, file = await written(client, "digits.txt", "0123456789")
        url = f"/agent{file['url']}"
        for wanted, status, body, said in (
            ("bytes=2-4", 206, "234", "bytes 2-4/10"),
            ("bytes=7-", 206, "789", "bytes 7-9/10"),
            ("bytes=-3", 206, "789", "bytes 7-9/10"),
            ("bytes=0-99", 206, "0123456789", "bytes 0-9/10"),
            ("bytes=10-", 416, "", "bytes */10"),
            ("bytes=4-2", 200, "0123456789", None),
            ("bytes=0-1,3-4", 200, "0123456789", None),
            ("lines=1-2", 200, "0123456789", None),
        ):
            answer = await client.get(url, headers={"Range": wanted})
            assert (answer.status_code, answer.text) == (status, body), wanted
            assert answer.headers.get("content-range") == said
        tag = f'"{file["sha256"]}"'
        assert (await client.get(url, headers={"If-None-Match": tag})).status_code == 304
        assert (await client.get(url, headers={"If-None-Match": '"other"'})).status_code == 200
        stale = {"Range": "bytes=2-4", "If-Range": '"other"'}
        assert (await client.get(url, headers=stale)).status_code == 200
        fresh = {"Range": "bytes=2-4", "If-Range": tag}
        assert (await client.get(url, headers=fresh)).status_code == 206


async def test_only_what_the_host_rendered_is_shown(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    policy: Json = {"transforms": [ToPage()], "secret": "for tests", "default_attach": "none"}
    async with files_chat(database_url, opencode, tmp_path / "kept", **policy) as (app, client):
        _, file = await written(client, "report.md", "Seven.\n")
        assert (file["filename"], file["trusted"]) == ("report.html", True)
        answer = await client.get(f"/agent{file['url']}")
        assert answer.text == "<p>7 characters</p>"
        assert answer.headers["content-disposition"].startswith("inline")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["content-security-policy"].startswith("sandbox;")
        # A row that somebody has changed is not the host's any more.
        async with app.sessions.begin() as db:
            row = await db.get_one(File, UUID(file["id"]))
            row.content_type = "text/plain"
        answer = await client.get(f"/agent{file['url']}")
        assert answer.headers["content-disposition"].startswith("attachment")


async def test_nobody_gets_anybody_elses_files_and_what_is_gone_is_said(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    async with files_chat(database_url, opencode, tmp_path / "kept") as (_, client):
        message, file = await written(client, "mine.txt", "Mine.")
        url, of = f"/agent{file['url']}", f"/agent/messages/{message['id']}/artifacts"
        stranger = {"x-user": "2"}
        for path in (url, of, f"/agent/artifacts/{UNKNOWN}", "/agent/artifacts/no-key"):
            answer = await client.get(path, headers=stranger)
            assert answer.status_code == 404, path
            assert "Mine." not in answer.text
        assert (await client.get(url, headers={"x-role": "reader"})).status_code == 200
        for kept in (tmp_path / "kept").rglob("*"):
            if kept.is_file():
                kept.unlink()
        answer = await client.get(url)
        assert (answer.status_code, answer.json()["type"]) == (
            404,
            "urn:opencode-async:artifact-missing",
        )


class ElsewhereStore(DirectoryArtifactStore):
    """One that hands out URLs."""

    async def url(self, key: str, *, filename: str, content_type: str) -> str | None:
        return f"https://files.invalid/{filename}?type={content_type}"


async def test_a_store_with_urls_is_where_a_browser_is_sent(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    options: Json = {"files": True, "artifacts": ArtifactPolicy(ElsewhereStore(tmp_path / "kept"))}
    async with chat(database_url, opencode, **options) as (_, client):
        _, file = await written(client, "mine.txt", "Mine.")
        answer = await client.get(f"/agent{file['url']}")
    assert answer.status_code == 307
    assert answer.headers["location"] == "https://files.invalid/mine.txt?type=text/plain"
    assert answer.headers["cache-control"] == "no-store"


async def test_without_a_table_for_files_there_are_no_routes(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with chat(database_url, opencode) as (_, client):
        message = await post(client, "SCRIPT:text Hello.")
        await heard(client, message["id"])
        assert (await client.get(f"/agent/messages/{message['id']}/artifacts")).status_code == 404
        form = {"files": [("files", ("a.txt", b"a"))], "data": {"text": "SCRIPT:text Hi."}}
        cid = message["conversation_id"]
        answer = await client.post(f"/agent/conversations/{cid}/messages", **form)
        assert answer.status_code == 422


# -- uploads -----------------------------------------------------------------------------------


async def conversation(client: httpx.AsyncClient) -> str:
    created = await client.post("/agent/conversations", json={"title": "A chat"})
    cid: str = created.json()["id"]
    return cid


async def send(
    client: httpx.AsyncClient,
    cid: str,
    *files: tuple[str, bytes],
    key: str | None = None,
    **fields: str,
) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return await client.post(
        f"/agent/conversations/{cid}/messages",
        data=fields,
        files=[("files", file) for file in files],
        headers=headers,
    )


def sandbox_files(opencode: ScriptedServer, before: set[Path] | None = None) -> set[Path]:
    folder = Path(str(opencode.directory)) / "sandbox"
    return {path for path in folder.rglob("*") if path.is_file()} - (before or set())


async def test_what_a_person_sends_is_where_the_agent_is_told_and_in_their_message(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    before = sandbox_files(opencode)
    async with files_chat(database_url, opencode, tmp_path / "kept") as (app, client):
        cid = await conversation(client)
        answer = await send(
            client, cid, ("../Ü\u202etxt.exe", b"one\n"), ("pic.png", PNG), text="SCRIPT:echo"
        )
        assert answer.status_code == 202, answer.text
        message = answer.json()
        finished = replay_events(await heard(client, message["id"]))[1]
        assert finished is not None
        placed = sorted(sandbox_files(opencode, before))
        assert [path.name for path in placed] == ["pic.png", "Ü_txt.exe"]
        assert placed[1].read_bytes() == b"one\n"
        # The agent was told of them, and they are not what its turn produced.
        assert "Files that came with this message:" in finished["content"]
        assert finished["artifacts"] == []
        said = (await client.get(f"/agent/messages/{message['reply_to']}")).json()
        assert said["content"] == "SCRIPT:echo"
        kinds = {f["filename"]: f["content_type"] for f in said["artifacts"]}
        assert kinds == {"Ü_txt.exe": "text/plain", "pic.png": "image/png"}
        (picture,) = [f for f in said["artifacts"] if f["filename"] == "pic.png"]
        download = await client.get(f"/agent{picture['url']}")
        assert download.content == PNG
        row = await app.row(UUID(message["id"]))
        prompt = row.request["body"]["parts"][0]["text"]
        assert f"- {placed[0]} (image/png, {len(PNG)} bytes)" in prompt
    assert app.reports.errors == []


async def test_a_file_may_come_without_words_and_be_changed_by_the_agent(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    before = sandbox_files(opencode)
    async with files_chat(database_url, opencode, tmp_path / "kept") as (_, client):
        cid = await conversation(client)
        answer = await send(client, cid, ("notes.txt", b"one\n"))
        assert answer.status_code == 202, answer.text
        await heard(client, answer.json()["id"])
        (placed,) = sandbox_files(opencode, before)
        calls = [
            {"name": "bash", "args": {"command": f"echo two >> {placed}", "description": "Adds"}}
        ]
        text = f"SCRIPT:tools {json.dumps(calls)}"
        path = f"/agent/conversations/{cid}/messages"
        message = (await client.post(path, json={"text": text})).json()
        finished = replay_events(await heard(client, message["id"]))[1] or {}
        (file,) = finished["artifacts"]
        assert (await client.get(f"/agent{file['url']}")).text == "one\ntwo\n"


async def test_a_repeated_form_is_one_message_and_one_file(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    before = sandbox_files(opencode)
    async with files_chat(database_url, opencode, tmp_path / "kept") as (_, client):
        cid = await conversation(client)
        sent = [("a.txt", b"one\n")]
        first = await send(client, cid, *sent, key="k", text="SCRIPT:text Hi.")
        again = await send(client, cid, *sent, key="k", text="SCRIPT:text Hi.")
        other = await send(client, cid, ("a.txt", b"two\n"), key="k", text="SCRIPT:text Hi.")
        assert (first.status_code, again.status_code, other.status_code) == (202, 202, 422)
        assert first.json()["id"] == again.json()["id"]
        await heard(client, first.json()["id"])
        said = (await client.get(f"/agent/messages/{first.json()['reply_to']}")).json()
        assert len(said["artifacts"]) == 1
    assert len(sandbox_files(opencode, before)) == 1


async def test_a_repeated_form_is_the_same_message_wherever_its_file_went(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    before = sandbox_files(opencode)
    async with files_chat(database_url, opencode, tmp_path / "kept") as (_, client):
        cid = await conversation(client)
        sent = ("a.txt", b"one\n")
        first = await send(client, cid, sent, key="k", text="SCRIPT:text Hi.")
        (placed,) = sandbox_files(opencode, before)
        placed.rename(placed.with_name("moved.txt"))
        again = await send(client, cid, sent, key="k", text="SCRIPT:text Hi.")
        assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
        await heard(client, first.json()["id"])
    assert [path.name for path in sandbox_files(opencode, before)] == ["moved.txt"]


async def test_what_comes_while_a_turn_runs_is_not_that_turns(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    async with files_chat(database_url, opencode, tmp_path / "kept") as (_, client):
        running = await post(client, 'SCRIPT:slow {"n": 8, "delay": 0.25}')
        cid = running["conversation_id"]
        answer = await send(
            client, cid, ("a.txt", b"one\n"), text="SCRIPT:text Hi.", on_busy="enqueue"
        )
        assert (answer.status_code, answer.json()["status"]) == (202, "queued")
        for message in (running, answer.json()):
            finished = replay_events(await heard(client, message["id"]))[1] or {}
            assert (finished["status"], finished["artifacts"]) == ("completed", [])
        said = (await client.get(f"/agent/messages/{answer.json()['reply_to']}")).json()
        assert [file["filename"] for file in said["artifacts"]] == ["a.txt"]


async def test_what_the_agent_does_to_a_file_meanwhile_stops_no_undoing(
    opencode: ScriptedServer, tmp_path: Path
) -> None:
    """It is refused as the agent is busy, who has made a folder of the first file just then."""
    url = f"sqlite+aiosqlite:///{tmp_path}/test.db"
    before = sandbox_files(opencode)

    class Meddled(DirectoryArtifactStore):
        async def put(self, key: str, chunks: AsyncIterator[bytes], **more: Any) -> bool:
            for placed in sandbox_files(opencode, before):
                if placed.suffix == ".md":
                    placed.unlink()
                    placed.mkdir()
            return await super().put(key, chunks, **more)

    options: Json = {"files": True, "artifacts": ArtifactPolicy(Meddled(tmp_path / "kept"))}
    async with chat(url, opencode, **options) as (app, client):
        message = await post(client, "SCRIPT:hang Words.")
        cid = message["conversation_id"]
        answer = await send(client, cid, ("a.md", b"one\n"), ("b.txt", b"two\n"), text="Hi.")
        assert answer.status_code == 409
        await client.post(f"/agent/messages/{message['id']}/cancel")
        await heard(client, message["id"])
        assert [type(error) for error in app.reports.errors] == [IsADirectoryError]
    assert sandbox_files(opencode, before) == set()
    assert not [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]


async def test_another_sites_form_with_somebodys_cookies_is_refused(
    opencode: ScriptedServer, tmp_path: Path
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/test.db"
    async with files_chat(url, opencode, tmp_path / "kept") as (_, client):
        cid = await conversation(client)
        path, form = f"/agent/conversations/{cid}/messages", {"files": [("files", ("a", b"a"))]}
        crossing = {"Sec-Fetch-Site": "cross-site"}
        refused = await client.post(path, headers={**crossing, "Cookie": "session=1"}, **form)  # type: ignore[arg-type]
        assert (refused.status_code, refused.json()["type"]) == (
            403,
            "urn:opencode-async:cross-site",
        )
        taken = await client.post(path, headers={**crossing, "Authorization": "Bearer 1"}, **form)  # type: ignore[arg-type]
        assert taken.status_code == 202
        await heard(client, taken.json()["id"])


REFUSED: list[tuple[str, list[tuple[str, bytes]], Json, int, str]] = [
    ("too large", [("a.txt", b"x" * 2001)], {}, 413, "too-large"),
    ("too many", [(f"{n}.txt", b"x") for n in range(3)], {}, 422, "too-many-files"),
    ("a wrong type", [("a.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>")], {}, 415, ""),
    ("an unknown field", [("a.png", PNG)], {"system": "Obey."}, 422, "invalid-request"),
    ("an agent not on offer", [("a.png", PNG)], {"agent": "plan"}, 422, "not-allowed"),
    ("a wrong on_busy", [("a.png", PNG)], {"on_busy": "perhaps"}, 422, "invalid-request"),
    ("a text too long", [("a.png", PNG)], {"text": "x" * 101}, 422, "invalid-request"),
    ("nothing", [], {"text": " "}, 422, ""),
]


@pytest.mark.parametrize(("what", "files", "fields", "status", "slug"), REFUSED)
async def test_what_is_refused_leaves_nothing(
    what: str,
    files: list[tuple[str, bytes]],
    fields: Json,
    status: int,
    slug: str,
    opencode: ScriptedServer,
    tmp_path: Path,
) -> None:
    before = sandbox_files(opencode)
    url = f"sqlite+aiosqlite:///{tmp_path}/test.db"
    limits: Json = {
        "max_files": 2,
        "max_upload": 2000,
        "max_text": 100,
        "upload_types": ["image/*", "text/plain"],
    }
    async with files_chat(url, opencode, tmp_path / "kept", router=limits) as (_, client):
        cid = await conversation(client)
        answer = await send(client, cid, *files, **{"text": "SCRIPT:text Hi.", **fields})
        assert answer.status_code == status, (what, answer.text)
        assert answer.json()["type"].startswith(f"urn:opencode-async:{slug}")
        shape = (await client.get(f"/agent/conversations/{cid}")).json()
        assert shape["messages"] == []
    assert sandbox_files(opencode, before) == set()
    assert not [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]


async def test_what_finds_the_agent_busy_or_is_anybody_elses_leaves_nothing(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    before = sandbox_files(opencode)
    async with files_chat(database_url, opencode, tmp_path / "kept") as (_, client):
        message = await post(client, "SCRIPT:hang Words.")
        cid = message["conversation_id"]
        answer = await send(client, cid, ("a.txt", b"one\n"), text="SCRIPT:text Hi.")
        assert (answer.status_code, answer.json()["type"]) == (
            409,
            "urn:opencode-async:conversation-busy",
        )
        for headers, status in (({"x-user": "2"}, 404), ({"x-role": "reader"}, 403)):
            answer = await client.post(
                f"/agent/conversations/{cid}/messages",
                data={"text": "Hi."},
                files=[("files", ("a.txt", b"one\n"))],
                headers=headers,
            )
            assert answer.status_code == status
        assert sandbox_files(opencode, before) == set()
        await client.post(f"/agent/messages/{message['id']}/cancel")
        await heard(client, message["id"])


async def test_files_for_an_agent_whose_disk_is_elsewhere_are_refused(
    database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    nowhere = tmp_path / "not here"
    async with files_chat(database_url, opencode, tmp_path / "kept", directory=nowhere) as (
        _,
        client,
    ):
        cid = await conversation(client)
        answer = await send(client, cid, ("a.txt", b"one\n"), text="SCRIPT:text Hi.")
    assert (answer.status_code, answer.json()["type"]) == (
        422,
        "urn:opencode-async:sandbox-unreachable",
    )


async def test_100_mb_go_through_store_and_sandbox_with_little_memory(
    opencode: ScriptedServer, tmp_path: Path
) -> None:
    before = sandbox_files(opencode)
    size = 100_000_000
    database = f"sqlite+aiosqlite:///{tmp_path / 'test.db'}"
    router = {"max_upload": size}
    async with files_chat(database, opencode, tmp_path / "kept", router=router) as (_, client):
        cid = await conversation(client)
        await heard(
            client, (await send(client, cid, ("a.txt", b"a"), text="SCRIPT:text Hi.")).json()["id"]
        )
        with tempfile.TemporaryFile() as large:
            large.truncate(size)
            tracemalloc.start()
            try:
                start, _ = tracemalloc.get_traced_memory()
                answer = await client.post(
                    f"/agent/conversations/{cid}/messages",
                    data={"text": "SCRIPT:text Hi."},
                    files={"files": ("large.bin", large)},
                )
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert answer.status_code == 202, answer.text
        assert peak - start < 16_000_000, f"{peak - start:,} bytes"
        await heard(client, answer.json()["id"])
    sizes = sorted(path.stat().st_size for path in sandbox_files(opencode, before))
    assert sizes == [1, size]
