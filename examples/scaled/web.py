"""A web process: it takes requests and serves followers, of any turn, and runs none.

uvicorn examples.scaled.web:app
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from examples.chat.app import chat
from examples.scaled.wiring import agent, engine, queue


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with queue.open_async(), agent.passive():  # passive: turn workers look for lost turns
        yield
    await engine.dispose()


app = chat(agent, lifespan)
