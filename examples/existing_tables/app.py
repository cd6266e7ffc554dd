"""The help desk, now with an agent: customers' tickets are conversations with it.

alembic -c examples/existing_tables/alembic.ini upgrade head     with DATABASE_URL
uvicorn examples.existing_tables.app:app                         with OPENCODE_BASE_URL, too
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Header
from sqlalchemy.ext.asyncio import async_sessionmaker

from examples.database import create_engine
from examples.existing_tables.models import Comment, Ticket
from opencode_async import Access, Opencode, Permissions, Server, Tables, TurnSettings

engine = create_engine(os.environ["DATABASE_URL"])
sessions = async_sessionmaker(engine, expire_on_commit=False)


async def settings_for(ticket: Ticket) -> TurnSettings:
    return TurnSettings(
        system=f"You answer {ticket.customer}, a customer, about: {ticket.title or 'anything'}.",
        permissions=Permissions.read_only(),
    )


agent = Opencode(Server.from_env(), sessions, Tables(Ticket, Comment), settings_for=settings_for)


def mine(x_customer: Annotated[str, Header()]) -> Access:
    """As the proxy in front tells it. The desk's own NOT NULL columns are filled here."""
    return Access(
        Ticket.customer == x_customer,
        conversation={"customer": x_customer},
        message={"author": x_customer},  # of the answer's row, too: `role` tells the two apart
    )


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with agent:
        yield
    await engine.dispose()


app = FastAPI(title="Help desk", lifespan=lifespan)
app.include_router(agent.router(access=mine), prefix="/agent")
