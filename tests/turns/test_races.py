"""Things that happen between two others."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import ForeignKey, delete, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from opencode_async import (
    ConversationMixin,
    LeaseHeld,
    Opencode,
    OpencodeConnectionError,
    OpencodeTimeoutError,
    Timings,
    Turn,
    TurnResult,
    TurnSettings,
    UsageError,
)
from opencode_async.database import locked
from opencode_async.database_time import database_time
from opencode_async.errors import LeaseLost
from opencode_async.testing import ScriptedServer
from opencode_async.turns.lease import Lease
from tests.support.hosts import QUICK, engine_for, host, nowhere

# An agent looks for lost turns itself, every half lease: here nobody shall be before the test.
UNWATCHED = replace(QUICK, lease=120.0)


async def test_a_stop_between_claim_and_prompt_sends_no_prompt(
    database_url: str, opencode: ScriptedServer
) -> None:
    agents: list[Opencode[Any, Any]] = []
    keys: list[Any] = []

    async def settings_for(conversation: Any) -> TurnSettings:
        if keys:
            await agents[0].turns.cancel(keys[0])
        return TurnSettings()

    async with host(database_url, opencode, settings_for=settings_for, dispatch=nowhere) as app:
        conversation = await app.conversation()
        agents.append(app.agent)
        first = await app.agent.turns.start(conversation, "SCRIPT:text Makes the session.")
        await app.agent.turns.run(first.id)
        second = await app.agent.turns.start(conversation, "SCRIPT:text Unwanted.")
        keys.append(second.id)
        result = await app.agent.turns.run(second.id)
    assert (result.status, result.content) == ("cancelled", "")
    assert not any("Unwanted." in str(request.body) for request in opencode.model.requests)


async def test_a_takeover_of_a_stopped_turn_sends_no_prompt(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, dispatch=nowhere) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:text Too late.")
        kind = app.agent.tables.message
        async with app.sessions.begin() as db:
            values = {"epoch": 1, "stop_requested": "cancelled"}
            await db.execute(update(kind).where(kind.id == message.id).values(values))
        result = await app.agent.turns.run(message.id)
    assert result.status == "cancelled"
    assert not any("Too late." in str(request.body) for request in opencode.model.requests)


async def test_a_host_whose_worker_died_behind_the_commit_is_told_again(
    database_url: str, opencode: ScriptedServer
) -> None:
    told: list[TurnResult] = []

    async def on_turn_finished(result: TurnResult) -> None:
        told.append(result)

    options: dict[str, Any] = {"on_turn_finished": on_turn_finished, "timings": UNWATCHED}
    async with host(database_url, opencode, **options) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:text Paid.")
        result = await app.agent.turns.run(message.id)
        await app.lose_worker(message.id, -1)
        assert await app.agent.turns.recover() == [message.id]
        await app.agent.turns.stop(message.id, within=5)
        row = await app.row(message.id)
        assert await app.agent.turns.recover() == []
    assert told == [result, result]
    assert (row.lease_owner, row.lease_expires_at, row.epoch) == (None, None, 1)


async def test_a_lost_turn_is_dispatched_once_however_many_workers_look_for_it(
    database_url: str, opencode: ScriptedServer
) -> None:
    dispatched: asyncio.Queue[Any] = asyncio.Queue()

    async def dispatch(message: Any) -> None:
        await dispatched.put(message.id)

    async with host(database_url, opencode, dispatch=dispatch, timings=UNWATCHED) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:text Lost.")
        assert await dispatched.get() == message.id
        await app.lose_worker(message.id, -1)
        found = await asyncio.gather(*(app.agent.turns.recover() for _ in range(5)))
        # By one of them, or by the agent itself, which looks as it starts.
        assert sum(map(len, found)) <= 1
        async with asyncio.timeout(5):
            assert await dispatched.get() == message.id
        assert dispatched.empty()
        result = await app.agent.turns.run(message.id)
    assert result.content == "Lost."


async def test_a_lease_that_was_taken_over_writes_nothing_more(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, dispatch=nowhere, timings=UNWATCHED) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:text Mine.")
        kind, sessions = app.agent.tables.message, app.agent.sessions
        old, _ = await Lease.claim(sessions, kind, message.id, 30)
        with pytest.raises(LeaseHeld) as held:
            await Lease.claim(sessions, kind, message.id, 30)
        assert held.value.until is not None
        async with app.sessions.begin() as db:
            values = {"lease_expires_at": database_time(-1)}
            await db.execute(update(kind).where(kind.id == message.id).values(values))
        new, row = await Lease.claim(sessions, kind, message.id, 30)
        assert row.epoch == 2
        for write in (old.renew(), old.store({"content": "stale"})):
            with pytest.raises(LeaseLost):
                await write
        await old.release()
        assert (await app.row(message.id)).lease_owner == new.owner
        assert (await app.row(message.id)).content == ""


async def test_turns_outlive_renewals_that_are_faster_than_they_are(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, timings=UNWATCHED) as app:
        # A renewal that comes late on a busy machine is late for nobody: none looks for lost turns.
        app.agent.timings = Timings(lease=0.3, snapshot=0.01, settle=0.5, look=3.0)
        for n in range(5):
            conversation = await app.conversation()
            text = 'SCRIPT:slow {"n": 4, "delay": 0.05}' if n % 2 else "SCRIPT:bash"
            message = await app.agent.turns.start(conversation, text)
            result = await app.agent.turns.run(message.id)
            assert result.status == "completed"
            assert (await app.row(message.id)).epoch == 1
    # A POST may not outlast the lease: on a busy machine its answer may come too late.
    assert {type(error) for error in app.reports.errors} <= {OpencodeTimeoutError}


async def test_a_row_that_is_done_is_not_prompted_again_with_another_text(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app, app.sessions() as db:
        message = app.agent.tables.message(
            conversation_id=await app.conversation(), role="assistant"
        )
        db.add(message)
        await db.commit()
        with pytest.raises(UsageError, match='status="pending"'):
            await app.agent.turn(db, message, text="SCRIPT:text Never.")


async def test_a_turn_of_a_persons_row_is_refused(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app, app.sessions() as db:
        message = app.agent.tables.message(
            conversation_id=await app.conversation(), status="pending"
        )
        db.add(message)
        await db.commit()
        with pytest.raises(UsageError, match='role="assistant"'):
            await app.agent.turn(db, message, text="SCRIPT:text Never.")


async def test_a_row_with_eager_relationships_can_be_locked(database_url: str) -> None:
    class Other(DeclarativeBase):
        pass

    class Owner(Other):
        __tablename__ = "owners"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Talk(ConversationMixin, Other):
        __tablename__ = "talks"
        id: Mapped[int] = mapped_column(primary_key=True)
        owner_id: Mapped[int | None] = mapped_column(ForeignKey("owners.id"))
        owner: Mapped[Owner | None] = relationship(lazy="joined")

    engine = engine_for(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(Other.metadata.create_all)
    async with AsyncSession(engine) as db:
        db.add(Talk(id=1))
        await db.commit()
        row = await locked(db, Talk, 1)
    await engine.dispose()
    assert row is not None


async def test_rest_failing_for_a_moment_is_forgotten(
    database_url: str, opencode: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    timings = Timings(lease=3.0, reconnect=2.0, look=0.3, settle=0.3, snapshot=0.1)
    async with host(database_url, opencode, timings=timings) as app:
        exchange, failed = app.agent.client.exchange, asyncio.Event()

        async def failing_once(session_id: str, prompt_id: str) -> Any:
            if not failed.is_set():
                failed.set()
                raise OpencodeConnectionError("just now")
            return await exchange(session_id, prompt_id)

        monkeypatch.setattr(app.agent.client, "exchange", failing_once)
        message = await app.agent.turns.start(
            await app.conversation(), 'SCRIPT:bash {"command": "sleep 4"}'
        )
        result = await app.agent.turns.run(message.id)
    assert failed.is_set()
    assert (result.status, result.error) == ("completed", None)


async def test_who_follows_a_conversation_just_as_a_turn_starts_is_not_ahead_of_it(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, dispatch=nowhere) as app:
        following = app.agent.turns.conversations
        for _ in range(20):
            conversation = await app.conversation()
            looking = [asyncio.create_task(following.start_of(conversation, None))]
            posting = asyncio.create_task(app.agent.turns.start(conversation, "SCRIPT:text No."))
            while not posting.done():
                await app.agent.turns.following.place_of(None)
                looking.append(asyncio.create_task(following.start_of(conversation, None)))
            starts = await asyncio.gather(*looking)
            assert max(starts) < (await posting).position


async def test_a_host_that_is_cut_off_while_it_is_told_is_told_again(
    database_url: str, opencode: ScriptedServer
) -> None:
    """As at a deploy: the worker is told to go while the host talks to somebody else."""
    telling = asyncio.Event()
    told: list[TurnResult] = []

    async def on_turn_finished(result: TurnResult) -> None:
        if not telling.is_set():
            telling.set()
            await asyncio.Event().wait()
        told.append(result)

    options: dict[str, Any] = {"on_turn_finished": on_turn_finished, "timings": UNWATCHED}
    async with host(database_url, opencode, dispatch=nowhere, **options) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:text Paid.")
        running = asyncio.create_task(app.agent.turns.run(message.id))
        await telling.wait()
        running.cancel()
        await asyncio.wait([running])
        assert await app.agent.turns.recover() == [message.id]
        assert await app.agent.turns.recover() == []
        result = await app.agent.turns.run(message.id)
        row = await app.row(message.id)
    assert told == [result]
    assert (row.lease_owner, row.lease_expires_at, row.epoch) == (None, None, 1)


async def test_a_turn_that_is_erased_while_its_host_is_told_has_its_result(
    database_url: str, opencode: ScriptedServer
) -> None:
    async def on_turn_finished(result: TurnResult) -> None:
        kind = app.agent.tables.message
        async with app.sessions.begin() as db:
            await db.execute(delete(kind).where(kind.id == message.id))

    options: dict[str, Any] = {"on_turn_finished": on_turn_finished, "timings": UNWATCHED}
    async with host(database_url, opencode, dispatch=nowhere, **options) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:text Gone.")
        result = await app.agent.turns.run(message.id)
    assert (result.status, result.content) == ("completed", "Gone.")
    assert app.reports.errors == []


async def test_a_host_that_takes_longer_than_a_lease_is_told_once(
    database_url: str, opencode: ScriptedServer
) -> None:
    told: list[str] = []
    timings = replace(QUICK, lease=1.5)
    async with (
        host(database_url, opencode, timings=timings) as other,
        host(database_url, opencode, timings=timings) as app,
    ):

        def telling(name: str) -> Any:
            async def on_turn_finished(result: TurnResult) -> None:
                told.append(name)
                await asyncio.sleep(6.0)  # four leases

            return on_turn_finished

        app.agent._on_turn_finished = telling("app")
        other.agent._on_turn_finished = telling("other")
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:text Paid.")
        await app.agent.turns.run(message.id)
        assert (await app.row(message.id)).lease_expires_at is None
    assert len(told) == 1


async def test_a_failing_next_turn_takes_nothing_from_the_one_that_ended(
    database_url: str, opencode: ScriptedServer
) -> None:
    told: list[TurnResult] = []

    async def on_turn_finished(result: TurnResult) -> None:
        told.append(result)

    async def promoted(key: Any) -> None:
        raise ConnectionError("the host's queue is away")

    options: dict[str, Any] = {"on_turn_finished": on_turn_finished, "timings": UNWATCHED}
    async with host(database_url, opencode, dispatch=nowhere, **options) as app:
        conversation = await app.conversation()
        message = await app.agent.turns.start(conversation, "SCRIPT:text One.")
        await app.agent.turns.start(conversation, "SCRIPT:text Two.", on_busy="enqueue")
        async with app.sessions() as db:
            row = await db.get_one(app.agent.tables.message, message.id)
            talk = await db.get_one(app.agent.tables.conversation, conversation)
            result = await Turn(
                db,
                row,
                session=app.agent.session(db, talk),
                on_turn_finished=on_turn_finished,
                promoted=promoted,
                error_reporter=app.reports,
                timings=QUICK,
            )
    assert (result.content, told) == ("One.", [result])
    assert [type(error) for error in app.reports.errors] == [ConnectionError]


async def test_a_database_that_fails_behind_a_commit_ends_no_other_turn(
    database_url: str, opencode: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with host(database_url, opencode) as app:
        other = await app.agent.turns.start(await app.conversation(), "SCRIPT:hang Goes on.")

        async def away(key: Any) -> Any:
            raise OperationalError("SELECT", {}, Exception("just now"))

        monkeypatch.setattr(app.agent.turns.following, "place_of", away)
        async with app.sessions() as db:
            stored = await app.agent.turns.start(
                await app.conversation(), "SCRIPT:text Later.", db=db
            )
            key = stored.id
            await db.commit()
        while not app.reports.errors:
            await app.row(key)
        monkeypatch.undo()
        result = await app.agent.turns.run(key)
        assert (await app.row(other.id)).status == "pending"
    assert result.content == "Later."
