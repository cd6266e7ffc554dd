"""A worker that posts many messages at once to one conversation, and prints what became of them.

``python -m tests.support.posting``; its job is in the environment variable JOB, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from typing import Any
from uuid import UUID

from opencode_async import ConversationBusy, Server
from tests.support.hosts import host, nowhere
from tests.support.parts import REPOSITORY


async def post(job: dict[str, Any]) -> dict[str, int]:
    """How many became pending, queued, or were rejected."""
    server = Server(job["url"], password=job["password"], directory=job["directory"])
    async with host(job["database"], server, dispatch=nowhere) as app:
        # All processes begin together, when each of them is told to.
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

        async def one(text: str) -> str:
            try:
                message = await app.agent.turns.start(
                    UUID(job["conversation"]), text, on_busy=job["on_busy"]
                )
            except ConversationBusy:
                return "rejected"
            return str(message.status)

        return Counter(await asyncio.gather(*map(one, job["texts"])))


async def posted(
    texts: list[str], processes: int, conversation: UUID, on_busy: str, url: str, server: Server
) -> Counter[str]:
    """What became of the texts, posted at once by so many processes."""
    job = {
        "url": server.url,
        "password": server.password,
        "directory": str(server.directory),
        "database": url,
        "conversation": str(conversation),
        "on_busy": on_busy,
    }
    running = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.posting"),
            cwd=REPOSITORY,
            env={**os.environ, "JOB": json.dumps({**job, "texts": texts[n::processes]})},
            stdin=PIPE,
            stdout=PIPE,
        )
        for n in range(processes)
    ]
    try:
        for process in running:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
        outputs = await asyncio.gather(*(process.communicate(b"\n") for process in running))
    finally:
        for process in running:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return sum((Counter(json.loads(output)) for output, _ in outputs), Counter[str]())


if __name__ == "__main__":
    print(json.dumps(asyncio.run(post(json.loads(os.environ["JOB"])))))
