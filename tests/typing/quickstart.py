"""The README's quickstart, checked by mypy: a FastAPI app with an agent in it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI
from sqlalchemy import ForeignKey
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from opencode_async import Access, ConversationMixin, MessageMixin, Opencode, Tables


class Base(DeclarativeBase):
    pass


class Conversation(ConversationMixin, Base):
    __tablename__ = "conversations"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    user_id: Mapped[int]


class Message(MessageMixin, Base):
    __tablename__ = "messages"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    conversation_id: Mapped[UUID] = mapped_column(
        ForeignKey("conversations.id", ondelete="CASCADE")
    )


@dataclass
class User:
    id: int


async def current_user() -> User:
    return User(id=1)


engine = create_async_engine("postgresql+asyncpg://localhost/app")
agent = Opencode("http://localhost:4096", async_sessionmaker(engine), Tables(Conversation, Message))


def mine(user: Annotated[User, Depends(current_user)]) -> Access:
    return Access(Conversation.user_id == user.id, conversation={"user_id": user.id})


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with agent:
        yield


app = FastAPI(lifespan=lifespan)
app.include_router(agent.router(access=mine), prefix="/agent")
