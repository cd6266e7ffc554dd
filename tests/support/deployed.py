"""A worker of an app behind uvicorn, as a process: the way one deploys it.

``python -m tests.support.deployed``; its job is in the environment variable JOB, as JSON. It prints
JSON lines: ``{"ready": port}`` once it listens, which turns it claims, and ``{"left": …}`` when its
agent's block was left in good order.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from opencode_async import Access, Server, Timings
from tests.support.brokers import broker_of
from tests.support.hosts import Conversation, host
from tests.support.piped import Listening, tell
from tests.support.worker import claimed, finished, report


def mine() -> Access:
    return Access(Conversation.user_id == 1)


def app_for(job: dict[str, Any]) -> FastAPI:
    server = Server(job["url"], password=job["password"], directory=job["directory"])

    @asynccontextmanager
    async def lifespan(web: FastAPI) -> AsyncIterator[None]:
        async with (
            broker_of(job["broker"]) as broker,
            host(
                job["database"],
                server,
                broker=broker,
                timings=Timings(**job["timings"]),
                observer_factory=claimed,
                on_turn_finished=finished,
                error_reporter=report,
            ) as app,
        ):
            web.include_router(app.agent.router(access=mine), prefix="/agent")
            yield
        tell(left=os.getpid())

    return FastAPI(lifespan=lifespan)


if __name__ == "__main__":
    app = app_for(json.loads(os.environ["JOB"]))
    Listening(uvicorn.Config(app, port=0, log_level="warning")).run()
