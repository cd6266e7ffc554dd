"""A worker of an app, as a process: it runs turns, follows them and recovers lost ones by itself.

``python -m tests.support.worker``; its job is in the environment variable JOB, as JSON. It prints
JSON lines, the first of them ``{"ready": …}``, and takes such lines as orders: ``{"run": id}`` and
``{"follow": id}``. It ends when its stdin is closed.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from typing import Any

from opencode_async import (
    ArtifactPolicy,
    DirectoryArtifactStore,
    OpencodeError,
    ReplyObserver,
    Server,
    Timings,
    TurnResult,
)
from opencode_async.observability.error_reporter import Severity
from tests.support.hosts import Host, host
from tests.support.piped import orders, tell
from tests.turns.asking import asking


def report(error: BaseException, *, severity: Severity, context: dict[str, str]) -> None:
    tell(reported=type(error).__name__, severity=severity, text=str(error)[:500], **context)


def claimed(row: Any) -> ReplyObserver:
    tell(claimed=str(row.id), epoch=row.epoch)
    return ReplyObserver()


async def finished(result: TurnResult) -> None:
    tell(finished=str(result.message_id), status=result.status)


async def run(app: Host[Any, Any], key: str) -> None:
    try:
        await app.agent.turns.run(key)
    except OpencodeError as error:
        tell(over=key, error=type(error).__name__)
    else:
        tell(over=key, error=None)


async def follow(app: Host[Any, Any], key: str) -> None:
    heard: list[Any] = []
    async with app.agent.turns.follow(key) as changes:
        async for change in changes:
            if not heard:
                tell(following=key)
            heard.append([change.event, change.to_json()])
    tell(heard=key, changes=heard)


async def work(job: dict[str, Any]) -> None:
    server = Server(job["url"], password=job["password"], directory=job["directory"])
    timings = Timings(**job["timings"])
    async with host(
        job["database"],
        server,
        timings=replace(timings, lease=job["recovers_every"] * 10),
        application=f"worker {os.getpid()}",
        observer_factory=claimed,
        asks=bool(job["asking"]),
        files=job["files"] is not None,
        artifacts=ArtifactPolicy(DirectoryArtifactStore(job["files"])) if job["files"] else None,
        settings_for=asking(*job["asking"]),
        on_turn_finished=finished,
        error_reporter=report,
    ) as app:
        # What runs here has the lease it is to have, however seldom lost turns are looked for.
        app.agent.timings = timings
        given = await orders()
        tell(ready=os.getpid())
        async with asyncio.TaskGroup() as tasks:
            doing = [tasks.create_task(run(app, key)) for key in job["turns"]]
            while line := await given.readline():
                for what, key in json.loads(line).items():
                    doing.append(tasks.create_task({"run": run, "follow": follow}[what](app, key)))
            for task in doing:
                task.cancel()


if __name__ == "__main__":
    asyncio.run(work(json.loads(os.environ["JOB"])))
