"""``await Turn(…)`` with the caller's own db, in handlers and background tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI

from opencode_async import (
    Access,
    ConversationBusy,
    MessageNotFound,
    OpencodeClient,
    Part,
    ReplyObserver,
    Session,
    TransactionOpen,
    Turn,
    TurnResult,
    UsageError,
)
from opencode_async.testing import ScriptedServer
from tests.support.hosts import QUICK, Host, host, nowhere
from tests.support.serving import serving

TEXT = "SCRIPT:bash"


async def assistant(app: Host[Any, Any], db: Any, conversation: Any, **values: Any) -> Any:
    """An assistant row of the host's own making, committed."""
    row = app.agent.tables.message(
        conversation_id=conversation, role="assistant", status="pending", **values
    )
    db.add(row)
    await db.commit()
    return row


def comparable(row: Any) -> dict[str, Any]:
    """What two rows of the same script have in common."""
    parts = [{**part, "id": None, "call_id": None, "metadata": None} for part in row.parts]
    columns = ("role", "status", "finish", "content", "reasoning", "cost", "input_tokens")
    return {name: getattr(row, name) for name in columns} | {"parts": parts}


@pytest.mark.parametrize("expire_on_commit", [True, False])
async def test_a_handler_a_background_task_and_the_router_give_the_same_row(
    expire_on_commit: bool, database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, expire_on_commit=expire_on_commit) as app:
        tables = app.agent.tables
        done = asyncio.Event()
        keys: dict[str, Any] = {}

        async def answer(name: str, db: Any, conversation: Any) -> TurnResult:
            row = await db.get_one(tables.conversation, conversation)
            message = await assistant(app, db, conversation)
            session = Session(db, row, client=app.agent.client)
            result = await Turn(db, message, session=session, text=TEXT, timings=QUICK)
            assert message.content == result.content  # the row given is fresh
            keys[name] = message.id
            return result

        web = FastAPI()

        @web.post("/handler/{conversation}")
        async def handler(conversation: str) -> str:
            async with app.sessions() as db:
                key = tables.conversation.id.type.python_type(conversation)
                return (await answer("handler", db, key)).content

        @web.post("/background/{conversation}")
        async def background(conversation: str, tasks: BackgroundTasks) -> None:
            async def work() -> None:
                try:
                    async with app.sessions() as db:
                        key = tables.conversation.id.type.python_type(conversation)
                        await answer("background", db, key)
                finally:
                    done.set()

            tasks.add_task(work)

        web.include_router(app.agent.router(access=everything(app)), prefix="/agent")
        async with serving(web) as client:
            first, second = await app.conversation(), await app.conversation()
            answered = await client.post(f"/handler/{first}")
            assert answered.json().endswith("Finished bash after 1 tool result(s).")
            await client.post(f"/background/{second}")
            await done.wait()
            third = (await client.post("/agent/conversations")).json()["id"]
            posted = await client.post(
                f"/agent/conversations/{third}/messages", json={"text": TEXT}
            )
            assert posted.status_code == 202
            key = tables.message.id.type.python_type(posted.json()["id"])
            await app.agent.turns.run(key)
        keys["router"] = key
        rows = {name: comparable(await app.row(key)) for name, key in keys.items()}
        await app.holds_no_connection()
    assert rows["handler"] == rows["background"] == rows["router"]
    assert rows["router"]["status"] == "completed"


def everything(app: Host[Any, Any]) -> Any:
    def access() -> Access:
        return Access(app.agent.tables.conversation.user_id == 1, conversation={"user_id": 1})

    return access


async def test_a_db_in_an_explicit_transaction_or_with_unflushed_work_is_refused(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app, app.sessions() as db:
        conversation = await app.conversation()
        row = await db.get_one(app.agent.tables.conversation, conversation)
        message = await assistant(app, db, conversation)
        session, key = Session(db, row, client=app.agent.client), message.id
        async with db.begin():
            with pytest.raises(TransactionOpen, match="begun explicitly"):
                await Turn(db, message, session=session, text=TEXT)
            with pytest.raises(TransactionOpen):
                await session.ensure()
        row.title = "changed, not flushed"
        with pytest.raises(TransactionOpen, match="not flushed"):
            await Turn(db, message, session=session, text=TEXT)
        await db.rollback()
        stored = await app.row(key)
        assert (stored.status, stored.epoch) == ("pending", 0)


async def test_a_db_bound_to_a_connection_is_refused(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app:
        conversation = await app.conversation()
        async with app.engine.connect() as connection, app.sessions(bind=connection) as db:
            row = await db.get_one(app.agent.tables.conversation, conversation)
            with pytest.raises(TransactionOpen, match="bound to one connection"):
                Session(db, row, client=app.agent.client)


async def test_a_terminal_row_gives_its_stored_result_at_once(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app:
        conversation = await app.conversation()
        message = await app.agent.turns.start(conversation, "SCRIPT:text Once.")
        first = await app.agent.turns.run(message.id)
        asked = len(opencode.model.requests)
        async with app.sessions() as db:
            again = await app.agent.turn(db, await db.get_one(type(message), message.id))
        assert again == first
        assert len(opencode.model.requests) == asked


async def test_a_row_without_prompt_needs_a_text_and_is_ended_by_a_cancel(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app, app.sessions() as db:
        message = await assistant(app, db, await app.conversation())
        with pytest.raises(UsageError, match="give Turn a text"):
            await app.agent.turn(db, message)
        stored = await app.row(message.id)
        assert (stored.status, stored.lease_owner) == ("pending", None)
        with pytest.raises(ConversationBusy):
            await app.agent.turns.start(message.conversation_id, "SCRIPT:text Too early.")
        cancelled = await app.agent.turns.cancel(message.id)
        assert (cancelled.status, cancelled.finish) == ("cancelled", "cancelled")
        assert cancelled.finished_at is not None
        result = await app.agent.turn(db, message, text="SCRIPT:text Too late.")
        assert (result.status, result.content) == ("cancelled", "")
        after = await app.agent.turns.start(message.conversation_id, "SCRIPT:text Free again.")
        assert (await app.agent.turns.run(after.id)).content == "Free again."


async def test_start_in_the_callers_transaction_dispatches_behind_its_commit(
    database_url: str, opencode: ScriptedServer
) -> None:
    dispatched: asyncio.Queue[Any] = asyncio.Queue()

    async def dispatch(message: Any) -> None:
        await dispatched.put(message.id)

    async with host(database_url, opencode, dispatch=dispatch) as app, app.sessions() as db:
        conversation = await app.conversation()
        lost = await app.agent.turns.start(conversation, "rolled back", db=db)
        lost_id = lost.id
        await db.rollback()
        async with db.begin_nested():
            kept = await app.agent.turns.start(conversation, "kept", db=db)
            kept_id = kept.id
        assert dispatched.empty()
        await db.commit()
        async with asyncio.timeout(5):
            assert await dispatched.get() == kept_id
        assert dispatched.empty()
        with pytest.raises(MessageNotFound):
            await app.agent.turns.run(lost_id)
        with pytest.raises(ConversationBusy):
            await app.agent.turns.start(conversation, "too early", db=db)


async def test_an_observer_hears_the_reply_in_order_and_its_failures_change_nothing(
    database_url: str, opencode: ScriptedServer
) -> None:
    heard: list[str] = []

    class Watching(ReplyObserver):
        async def on_part_appended(self, part: Part) -> None:
            heard.append(f"new {type(part).__name__}")
            raise RuntimeError("an observer's own mistake")

        async def on_finalized(self, result: TurnResult) -> None:
            heard.append(result.status)

    finished: list[TurnResult] = []

    async def on_turn_finished(result: TurnResult) -> None:
        finished.append(result)

    options: dict[str, Any] = {
        "observer_factory": lambda message: Watching(),
        "on_turn_finished": on_turn_finished,
    }
    async with host(database_url, opencode, **options) as app:
        message = await app.agent.turns.start(await app.conversation(), TEXT)
        result = await app.agent.turns.run(message.id)
        # Its callbacks come behind the commit, so a stored result may be seen before them.
        await app.agent.turns.stop(message.id, within=5)
    assert heard == ["new TextPart", "new ToolPart", "new TextPart", "completed"]
    assert finished == [result]
    assert {str(error) for error in app.reports.errors} == {"an observer's own mistake"}


async def test_cancelling_an_awaited_turn_gives_it_up_to_the_next(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, dispatch=nowhere) as app:
        message = await app.agent.turns.start(
            await app.conversation(), 'SCRIPT:slow {"n": 8, "delay": 0.2}'
        )
        running = asyncio.create_task(app.agent.turns.run(message.id))
        await app.says_something(message.id)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        released = await app.row(message.id)
        assert (released.status, released.lease_owner, released.epoch) == ("pending", None, 1)
        result = await app.agent.turns.run(message.id)
        row = await app.row(message.id)
        prompts = await prompts_upstream(app, row)
    assert result.status == "completed"
    assert result.content == "".join(f"tick{i} " for i in range(8))
    assert row.epoch == 2
    assert prompts == [row.prompt_id]


async def prompts_upstream(app: Host[Any, Any], row: Any) -> list[str]:
    """The ids of the user messages in the conversation's session."""
    path = f"/session/{await app.session_id(row)}/message"
    messages = (await app.agent.client.http.request("GET", path)).json()
    return [m["info"]["id"] for m in messages if m["info"]["role"] == "user"]


async def test_a_turn_with_its_own_client_needs_no_opencode_object(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, dispatch=nowhere) as app, app.sessions() as db:
        conversation = await app.conversation()
        row = await db.get_one(app.agent.tables.conversation, conversation)
        message = await assistant(app, db, conversation)
        async with own_client(opencode) as client:
            session = Session(db, row, client=client)
            result = await Turn(db, message, session=session, text="SCRIPT:text Alone.")
        assert session.just_created
    assert result.content == "Alone."


@asynccontextmanager
async def own_client(server: ScriptedServer) -> AsyncIterator[OpencodeClient]:
    async with OpencodeClient(server) as client:
        yield client
