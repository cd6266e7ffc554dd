"""The wiring of an agent into an app, section by section: copy what you need.

1. Tables          the app's own, with the library's columns on them
2. Adapters        what the library tells operators, into the app's own tools
3. Permissions     what the agent may do, and who decides what it asks
4. System context  what it is told of whom it works for
5. Observer        what happens in a turn, on to another part of the app
6. Job             one turn per job of a queue, idempotent
7. App             lifespan, access, routes

It runs as it is; the queue and the board of activities are then in this process:

    OPENCODE_BASE_URL=http://127.0.0.1:4096 OPENCODE_SERVER_PASSWORD=… \\
        DATABASE_URL=sqlite+aiosqlite:///app.db uvicorn examples.fastapi_integration:app
"""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel
from sqlalchemy import ForeignKey
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from examples.database import create_engine
from opencode_async import (
    Access,
    Ask,
    AskMixin,
    AskPolicy,
    ConversationBusy,
    ConversationMixin,
    Decision,
    LeaseHeld,
    Limits,
    MessageMixin,
    MessageNotFound,
    Opencode,
    Part,
    Permission,
    Permissions,
    ReplyObserver,
    Server,
    Tables,
    ToolPart,
    TurnQueued,
    TurnResult,
    TurnSettings,
)
from opencode_async.observability.events import Event

# ------------------------------------------------------------------------------------------------
# 1. Tables: keys, foreign keys and everything else are the app's; migrations, too
#    (examples/existing_tables has one). PostgreSQL in production.
# ------------------------------------------------------------------------------------------------


class Base(DeclarativeBase):
    pass


class Conversation(ConversationMixin, Base):
    __tablename__ = "conversations"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    user: Mapped[str] = mapped_column(index=True)
    project: Mapped[str] = mapped_column(default="")


class Message(MessageMixin, Base):
    __tablename__ = "messages"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    conversation_id: Mapped[UUID] = mapped_column(
        ForeignKey("conversations.id", ondelete="CASCADE")
    )


class AgentAsk(AskMixin, Base):
    __tablename__ = "asks"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    message_id: Mapped[UUID] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"))


engine = create_engine(os.environ["DATABASE_URL"])
sessions = async_sessionmaker(engine, expire_on_commit=False)

# ------------------------------------------------------------------------------------------------
# 2. Adapters: they hear of each error that no caller can be given, and of each event in the life of
#    a turn: ids, names and numbers, never what anybody wrote. With Sentry and structlog they are as
#    short (README, Watching it). For OpenTelemetry's spans and metrics, `OpenTelemetry()` of
#    `opencode_async.observability.otel` is both the `instrumentation=` and the `tracer=`.
# ------------------------------------------------------------------------------------------------

log = logging.getLogger("app.agent")
counted: Counter[str] = Counter()  # for the app's metrics


def report(error: BaseException, *, severity: str, context: dict[str, str]) -> None:
    level = logging.ERROR if severity == "error" else logging.WARNING
    log.log(level, "%s (%s)", type(error).__name__, context, exc_info=error)


def instrument(happened: Event) -> None:
    counted[happened.name] += 1
    log.debug("%s %s", happened.name, happened.payload)


# ------------------------------------------------------------------------------------------------
# 3. Permissions: in order, the last that matches wins; in force from a conversation's next turn
#    on. What is asked for is a row that `decide` answers, or a person. No rule fences what a
#    command does: whoever allows `bash` has a server for each tenant, in a container.
# ------------------------------------------------------------------------------------------------

RULES = (
    Permissions.sandboxed()  # its own folder and nothing else, and then:
    .ask("bash")
    .allow("bash", "git status*", "git log*", "git diff*")
    .allow("question")
)


async def decide(ask: Ask, conversation: Conversation) -> Decision:
    if isinstance(ask, Permission) and any("sudo" in pattern.split() for pattern in ask.patterns):
        return Decision.reject("There is no root here. Do it without.")
    return Decision.ask()


# ------------------------------------------------------------------------------------------------
# 4. System context: asked once per turn, by whichever worker runs it; never from the browser.
# ------------------------------------------------------------------------------------------------


async def settings_for(conversation: Conversation) -> TurnSettings:
    about = f"Their project is {conversation.project}." if conversation.project else ""
    return TurnSettings(
        system=f"You work for {conversation.user}. {about}",
        permissions=RULES,
        asks=AskPolicy(within=600),  # s; who does not answer by then has refused
        limits=Limits(total=900, cost=0.50, steps=40),
        conversation_budget=20.0,
    )


# ------------------------------------------------------------------------------------------------
# 5. Observer: one for each turn, told in order and off the turn's path, so that a slow one delays
#    nothing. This one keeps a board of what each agent is at. With several processes it would be
#    in Redis; to push to browsers instead there are the events of the routes.
# ------------------------------------------------------------------------------------------------

board: dict[UUID, str] = {}  # conversation -> what its agent is doing


class ToBoard(ReplyObserver):
    def __init__(self, message: Message) -> None:
        self._conversation = message.conversation_id

    async def on_part_appended(self, part: Part) -> None:
        doing = f"using {part.tool}" if isinstance(part, ToolPart) else "thinking"
        board[self._conversation] = doing

    async def on_finalized(self, result: TurnResult) -> None:
        board.pop(self._conversation, None)


async def on_turn_finished(result: TurnResult) -> None:
    """Behind the commit and at least once: bill by message id, for one."""
    log.info("turn %s: %s, cost %.4f", result.message_id, result.status, result.cost)


# ------------------------------------------------------------------------------------------------
# 6. Job: `dispatch` puts a turn's id on the queue, `answer` is the job. A queue may deliver twice,
#    late or in parallel: the prompt is posted once. What it loses a running agent dispatches again.
#    With arq, taskiq, procrastinate … `enqueue` is theirs, and the worker process enters `agent` as
#    the lifespan below does. Without `dispatch=` turns run in the web process.
# ------------------------------------------------------------------------------------------------

queue: asyncio.Queue[str] = asyncio.Queue()  # in the place of a real one
WORKERS = 4


async def enqueue(message: Message) -> None:
    await queue.put(str(message.id))


async def answer(message_id: str) -> None:
    """One turn. How it ended is in its row; a job that fails here may be tried again."""
    try:
        await agent.turns.run(message_id)
    except LeaseHeld as held:
        log.info("turn %s runs elsewhere, until %s at least", message_id, held.until)
    except TurnQueued:
        log.info("turn %s is dispatched when its time has come", message_id)
    except MessageNotFound:
        log.info("turn %s was erased with its conversation", message_id)


async def work() -> None:
    while True:
        message_id = await queue.get()
        try:
            await answer(message_id)
        except Exception:
            log.exception("turn %s failed; it will be dispatched again", message_id)


# ------------------------------------------------------------------------------------------------
# 7. App
# ------------------------------------------------------------------------------------------------

agent = Opencode(
    Server.from_env(),
    sessions,
    Tables(Conversation, Message, ask=AgentAsk),
    settings_for=settings_for,
    decide=decide,
    dispatch=enqueue,
    observer_factory=ToBoard,
    on_turn_finished=on_turn_finished,
    error_reporter=report,
    instrumentation=instrument,
)


def mine(x_user: Annotated[str, Header()]) -> Access:
    """Who asks, and what is theirs. Here the proxy that signed them in says so, in a header."""
    return Access(Conversation.user == x_user, conversation={"user": x_user}, by=x_user)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:  # to try it: an app has migrations
        await connection.run_sync(Base.metadata.create_all)
    async with agent, asyncio.TaskGroup() as tasks:
        workers = [tasks.create_task(work()) for _ in range(WORKERS)]
        yield
        for worker in workers:
            worker.cancel()
    await engine.dispose()


app = FastAPI(title="An app with an agent", lifespan=lifespan)
app.include_router(agent.router(access=mine), prefix="/agent")


class Kickoff(BaseModel):
    project: str
    goal: str


@app.post("/projects", status_code=202)
async def start_project(kickoff: Kickoff, x_user: Annotated[str, Header()]) -> dict[str, str]:
    """A route of the app's own: its rows and the first turn in one transaction, or neither."""
    async with sessions.begin() as db:
        conversation = Conversation(user=x_user, project=kickoff.project, title=kickoff.project)
        db.add(conversation)
        await db.flush()
        message = await agent.turns.start(conversation.id, kickoff.goal, db=db)
    return {"conversation_id": str(conversation.id), "message_id": str(message.id)}


@app.post("/projects/{conversation_id}/report", status_code=202)
async def order_report(
    conversation_id: UUID, x_user: Annotated[str, Header()], day: str
) -> dict[str, str]:
    """Sent twice it is one turn: the key says what it stands for."""
    async with sessions() as db:
        conversation = await db.get(Conversation, conversation_id)
    if conversation is None or conversation.user != x_user:
        raise HTTPException(404)
    try:
        message = await agent.turns.start(
            conversation_id, f"Report what happened on {day}.", idempotency_key=f"report {day}"
        )
    except ConversationBusy:
        raise HTTPException(409, "The agent is still answering.") from None
    return {"message_id": str(message.id)}


@app.get("/board")
async def doing() -> dict[str, str]:
    """For the team: what the agents are at, not what they say."""
    return {str(conversation): what for conversation, what in board.items()}


@app.get("/metrics")
async def metrics() -> dict[str, int]:
    return dict(counted)
