"""A worker killed while it keeps a turn's files: another one keeps the rest, and none twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from opencode_async import ArtifactPolicy, DirectoryArtifactStore
from opencode_async.testing import ScriptedServer
from tests.chaos.scale import some
from tests.chaos.test_killed_workers import ELSEWHERE, NEVER_AGAIN, QUICK
from tests.chaos.verdict import settled
from tests.support.hosts import File, Host, host, nowhere
from tests.support.postgres import new_database
from tests.support.workers import worker
from tests.turns.test_artifacts import bash, calls, kept, sandboxed

FILES = 60
MOMENTS = (1, 5, 20, 40, FILES)  # files that are kept when the worker is killed


async def count(app: Host[Any, Any]) -> int:
    async with app.sessions() as db:
        return await db.scalar(select(func.count()).select_from(File)) or 0


@pytest.mark.timeout(60 + 30 * len(MOMENTS))
async def test_of_a_killed_workers_files_none_is_missing_and_none_twice(
    postgres_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    for moment in some(MOMENTS, 2):
        store = tmp_path / f"kept-{moment}"
        policy = ArtifactPolicy(DirectoryArtifactStore(store))
        async with (
            new_database(postgres_url) as url,
            host(
                url, opencode, files=True, artifacts=policy, timings=ELSEWHERE, dispatch=nowhere
            ) as app,
            worker(url, opencode, QUICK, recovers_every=NEVER_AGAIN, files=store) as victim,
        ):
            conversation, folder = await sandboxed(app, opencode)
            making = f"cd {folder} && for n in $(seq {FILES}); do echo $n > $n.txt; done"
            message = await app.agent.turns.start(conversation, calls(bash(making)))
            victim.run(message.id)
            async with asyncio.timeout(30):
                while await count(app) < moment:  # noqa: ASYNC110
                    await asyncio.sleep(0)
            victim.kill()
            assert await victim.ends(within=60)
            left = await count(app)
            async with worker(url, opencode, QUICK, files=store) as living:
                row = await settled(app, message.id)
                assert not living.complaints
            files = await kept(app, row)
        assert (row.status, row.finish) == ("completed", "stop")
        assert files == {f"{n}.txt": f"{n}\n".encode() for n in range(1, FILES + 1)}
        objects = [path for path in store.rglob("*") if path.is_file() and "-" in path.name]
        assert len(objects) == FILES
        print(f"killed with {left} of {FILES} files kept, ended in epoch {row.epoch}")
