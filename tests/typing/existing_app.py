"""An app that had its tables before it had an agent, checked by mypy.

BIGINT keys, a column called ``body``, NOT NULL columns of its own, its own ``__table_args__``, a
job queue, an observer that pushes to websockets, telemetry, and routes of its own.
"""

from collections.abc import AsyncIterator
from typing import Annotated, Any, assert_type

from fastapi import BackgroundTasks, Depends, FastAPI, Request, Response
from sqlalchemy import BigInteger, ForeignKey, Index, Text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from opencode_async import (
    Access,
    ConversationMixin,
    MessageMixin,
    Opencode,
    OpencodeClient,
    Part,
    Permissions,
    ReplyObserver,
    Server,
    Session,
    Tables,
    Turn,
    TurnResult,
    TurnSettings,
)
from opencode_async.observability.events import Event, TurnFinished
from opencode_async.observability.otel import OpenTelemetry


class Base(DeclarativeBase):
    pass


class Thread(ConversationMixin, Base):
    __tablename__ = "threads"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    tenant_id: Mapped[int] = mapped_column(BigInteger)
    plan: Mapped[str] = mapped_column(default="free")


class Entry(MessageMixin, Base):
    __tablename__ = "entries"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    conversation_id: Mapped[int] = mapped_column("thread_id", ForeignKey("threads.id"))
    content: Mapped[str] = mapped_column("body", Text, server_default="")
    tenant_id: Mapped[int] = mapped_column(BigInteger)
    source: Mapped[str]
    __table_args__ = (Index("ix_entries_tenant", "tenant_id"),)


class Sockets:
    async def push(self, room: int, value: dict[str, Any]) -> None: ...


sockets = Sockets()


class ToWebsockets(ReplyObserver):
    def __init__(self, entry: Entry) -> None:
        self.room = entry.conversation_id

    async def on_part_appended(self, part: Part) -> None:
        await sockets.push(self.room, {"new": part.to_json()})

    async def on_part_updated(self, part: Part, index: int) -> None:
        await sockets.push(self.room, {"at": index, "is": part.to_json()})

    async def on_finalized(self, result: TurnResult) -> None:
        await sockets.push(self.room, {"done": result.status, "cost": result.cost})


async def settings_for(thread: Thread) -> TurnSettings:
    rules = Permissions.unattended()
    if thread.plan == "free":
        rules = rules.deny("bash").allow("bash", "git status*")
    return TurnSettings(system=f"You work for tenant {thread.tenant_id}.", permissions=rules)


async def client_for(thread: Thread) -> Server:
    """A server for each tenant."""
    return Server(f"http://opencode-{thread.tenant_id}:4096", password="secret")


class Queue:
    async def put(self, job: str, argument: int) -> None: ...


queue = Queue()


async def enqueue(entry: Entry) -> None:
    await queue.put("answer", entry.id)


async def bill(result: TurnResult) -> None:
    print(result.message_id, result.cost, result.input_tokens + result.output_tokens)
    for charge in result.ledger:
        print(charge.session_id, charge.model, charge.usage.cost)


async def solvent(thread: Thread, spent: float) -> bool:
    return thread.plan != "free" or spent < 0.1


def count(event: Event) -> None:
    match event:
        case TurnFinished(status=status, cost=cost):
            print(status, cost)
        case _:
            print(event.name, event.payload)


engine = create_async_engine("postgresql+asyncpg://localhost/app")
sessions = async_sessionmaker(engine)
agent = Opencode(
    Server.from_env(),
    sessions,
    Tables(Thread, Entry),
    settings_for=settings_for,
    client_for=client_for,
    dispatch=enqueue,
    observer_factory=ToWebsockets,
    on_turn_finished=bill,
    may_spend=solvent,
    instrumentation=count,
    tracer=OpenTelemetry(),
)


async def answer(entry_id: int) -> None:
    """The job: safe to deliver twice, late, or in parallel."""
    result = await agent.turns.run(entry_id)
    assert_type(result, TurnResult)


async def get_db() -> AsyncIterator[AsyncSession]:
    async with sessions() as db:
        yield db


Db = Annotated[AsyncSession, Depends(get_db, scope="function")]


def tenant(db: Db, request: Request) -> Access:
    tenant_id = int(request.headers["x-tenant"])
    own = {"tenant_id": tenant_id}
    return Access(
        Thread.tenant_id == tenant_id, conversation=own, message={**own, "source": "chat"}
    )


app = FastAPI(lifespan=agent.lifespan)
app.include_router(agent.router(access=tenant, tags=["assistant"]), prefix="/assistant")


@app.post("/threads/{thread_id}/ask")
async def ask(thread_id: int, text: str, db: Db) -> dict[str, str]:
    """The entry is written in the app's own transaction, and dispatched once that commits."""
    thread = await db.get_one(Thread, thread_id)
    thread.title = text[:40]
    entry = await agent.turns.start(
        thread_id, text, db=db, values={"tenant_id": thread.tenant_id, "source": "api"}
    )
    assert_type(entry, Entry)
    await db.commit()
    return {"entry": str(entry.id)}


@app.get("/entries/{entry_id}/live")
async def live(entry_id: int, request: Request) -> Response:
    return await agent.sse(entry_id, request)


@app.post("/threads/{thread_id}/summary")
async def summary(thread_id: int, db: Db) -> str:
    """Everything explicit: this handler waits for the answer."""
    thread = await db.get_one(Thread, thread_id)
    entry = Entry(
        conversation_id=thread_id,
        role="assistant",
        status="pending",
        tenant_id=thread.tenant_id,
        source="summary",
    )
    db.add(entry)
    await db.commit()
    async with OpencodeClient(Server("http://localhost:4096", password="secret")) as client:
        session = Session(db, thread, client=client, settings_for=settings_for)
        result = await Turn(db, entry, session=session, text="Summarize this thread.")
    result.raise_for_error()
    return result.content


@app.post("/entries/{entry_id}/wait")
async def wait(entry_id: int, db: Db) -> str:
    entry = await db.get_one(Entry, entry_id)
    return (await agent.turn(db, entry)).content


@app.post("/entries/{entry_id}/later", status_code=202)
async def later(entry_id: int, background: BackgroundTasks) -> None:
    background.add_task(answer, entry_id)
