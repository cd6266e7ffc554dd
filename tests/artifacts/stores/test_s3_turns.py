"""Turns whose files are kept in a bucket, on the real OpenCode and a real Ceph."""

from __future__ import annotations

from typing import Any

import httpx

from opencode_async import ArtifactPolicy, ArtifactStoreError
from opencode_async.testing import ScriptedServer
from tests.artifacts.stores.conftest import NewS3Store
from tests.support.replay import replay_events
from tests.turns.test_artifacts import BINARY, bash, calls, sandboxed
from tests.web.test_routes import chat, heard


async def test_a_file_goes_into_the_bucket_and_is_downloaded_from_it(
    database_url: str, opencode: ScriptedServer, new_s3_store: NewS3Store
) -> None:
    options: dict[str, Any] = {"files": True, "artifacts": ArtifactPolicy(new_s3_store())}
    async with chat(database_url, opencode, **options) as (app, client):
        conversation, folder = await sandboxed(app, opencode)
        (folder / "made.bin").write_bytes(BINARY)
        script = calls(bash(f"cp {folder}/made.bin {folder}/copy.bin"))
        path = f"/agent/conversations/{conversation}/messages"
        message = (await client.post(path, json={"text": script})).json()
        finished = replay_events(await heard(client, message["id"]))[1] or {}
        (file,) = [each for each in finished["artifacts"] if each["filename"] == "copy.bin"]
        answer = await client.get(f"/agent{file['url']}")
        assert answer.status_code == 307
        async with httpx.AsyncClient(trust_env=False) as elsewhere:
            download = await elsewhere.get(answer.headers["location"])
        assert download.content == BINARY
        assert download.headers["content-disposition"].startswith("attachment")
        await client.delete(f"/agent/conversations/{conversation}")
        async with httpx.AsyncClient(trust_env=False) as elsewhere:
            gone = await elsewhere.get(answer.headers["location"])
        assert gone.status_code == 404
    assert app.reports.errors == []


async def test_a_bucket_that_lets_nobody_in_costs_the_files_not_the_turn(
    database_url: str, opencode: ScriptedServer, new_s3_store: NewS3Store
) -> None:
    policy = ArtifactPolicy(new_s3_store(secret_access_key="wrong"))
    async with chat(database_url, opencode, files=True, artifacts=policy) as (app, client):
        conversation, folder = await sandboxed(app, opencode)
        path = f"/agent/conversations/{conversation}/messages"
        script = calls(bash(f"echo one > {folder}/a.txt"))
        message = (await client.post(path, json={"text": script})).json()
        finished = replay_events(await heard(client, message["id"]))[1] or {}
        assert (finished["status"], finished["artifacts"]) == ("completed", [])
        assert [type(error) for error in app.reports.errors] == [ArtifactStoreError]
        assert "wrong" not in str(app.reports.errors)
        form = {"data": {"text": "SCRIPT:text Hi."}, "files": [("files", ("b.txt", b"b"))]}
        refused = await client.post(path, **form)
        assert (refused.status_code, refused.json()["type"]) == (
            503,
            "urn:opencode-async:artifact-store",
        )
        assert "detail" not in refused.json()
        assert [each.name for each in folder.iterdir()] == ["a.txt"]
