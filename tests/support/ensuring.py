"""A worker that asks for one conversation's session many times at once, and prints what it got.

``python -m tests.support.ensuring``; its job is in the environment variable JOB, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any
from uuid import UUID

from opencode_async import Server
from tests.support.hosts import host


async def ensure(job: dict[str, Any]) -> list[str]:
    """The ids, one for each caller; the pool has two connections for all of them."""
    server = Server(job["url"], password=job["password"], directory=job["directory"])
    async with host(job["database"], server, pool_size=2) as app:

        async def one() -> str:
            async with app.sessions() as db:
                row = await db.get_one(app.agent.tables.conversation, UUID(job["conversation"]))
                return await app.agent.session(db, row).ensure()

        return await asyncio.gather(*(one() for _ in range(job["callers"])))


if __name__ == "__main__":
    print(json.dumps(asyncio.run(ensure(json.loads(os.environ["JOB"])))))
