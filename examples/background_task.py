"""A turn is something to await: in a handler that waits for it, and in a background task.

uvicorn examples.background_task:app      with OPENCODE_BASE_URL and DATABASE_URL

    curl -d 'text=Name a colour' localhost:8000/questions        waits for the answer
    curl -d 'topic=Otters' localhost:8000/reports                answers at once, with an id
    curl localhost:8000/reports/<id>
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import BackgroundTasks, Depends, FastAPI, Form, HTTPException
from sqlalchemy import ForeignKey
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from examples.database import create_engine
from opencode_async import (
    ConversationMixin,
    MessageMixin,
    Opencode,
    Server,
    Session,
    Tables,
    Turn,
    TurnResult,
)


class Base(DeclarativeBase):
    pass


class Conversation(ConversationMixin, Base):
    __tablename__ = "conversations"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)


class Message(MessageMixin, Base):
    __tablename__ = "messages"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    conversation_id: Mapped[UUID] = mapped_column(
        ForeignKey("conversations.id", ondelete="CASCADE")
    )


engine = create_engine(os.environ["DATABASE_URL"])
sessions = async_sessionmaker(engine, expire_on_commit=False)
agent = Opencode(Server.from_env(), sessions, Tables(Conversation, Message))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with agent:
        yield
    await engine.dispose()


async def get_db() -> AsyncIterator[AsyncSession]:
    async with sessions() as db:
        yield db


# With this scope FastAPI closes it before the background tasks run, instead of behind them.
Db = Annotated[AsyncSession, Depends(get_db, scope="function")]
app = FastAPI(lifespan=lifespan)


async def pending(db: AsyncSession) -> Message:
    """A conversation with a turn to come, committed: the turn is live from now on."""
    conversation = Conversation()
    db.add(conversation)
    await db.flush()
    message = Message(conversation_id=conversation.id, role="assistant", status="pending")
    db.add(message)
    await db.commit()
    return message


async def answer(db: AsyncSession, message: Message, text: str) -> TurnResult:
    """The turn. ``db`` is committed before each wait, so it holds no connection meanwhile."""
    conversation = await db.get_one(Conversation, message.conversation_id)
    session = Session(db, conversation, client=agent.client)
    return await Turn(db, message, session=session, text=text)


@app.post("/questions")
async def ask(text: Annotated[str, Form()], db: Db) -> str:
    """Waits for the answer. Who hangs up leaves the turn running: it is in the row."""
    result = await answer(db, await pending(db), text)
    result.raise_for_error()
    return result.content


async def write_report(message_id: UUID, topic: str) -> None:
    """The task: the request and its ``db`` are gone, so it opens one of its own."""
    async with sessions() as db:
        message = await db.get_one(Message, message_id)
        await answer(db, message, f"Write a report about this topic: {topic}")


@app.post("/reports", status_code=202)
async def order(topic: Annotated[str, Form()], background: BackgroundTasks, db: Db) -> UUID:
    """Answers at once; the report is written behind the response.

    A process that dies in mid-turn leaves it to the next ``agent``, which goes on with it. One that
    dies before the task began leaves a row that nobody has a prompt for; ``agent.turns.start``
    stores that with the row, and needs no background task.
    """
    message = await pending(db)
    background.add_task(write_report, message.id, topic)
    return message.id


@app.get("/reports/{message_id}")
async def report(message_id: UUID, db: Db) -> dict[str, str]:
    message = await db.get(Message, message_id)
    if message is None:
        raise HTTPException(404)
    return {"status": message.status, "content": message.content}
