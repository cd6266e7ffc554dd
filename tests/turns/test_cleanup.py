"""Retention: what is old goes with all there is of it, and what crashes left; nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from opencode_async import (
    ArtifactPolicy,
    ArtifactStoreError,
    ConversationNotFound,
    DirectoryArtifactStore,
    NotRunning,
    OpencodeClient,
    OpencodeConnectionError,
    Removed,
    Server,
    Session,
)
from opencode_async.client import client as client_module
from opencode_async.client.local_server import free_port
from opencode_async.database_time import database_time
from opencode_async.protocol.listed import metadata_of
from opencode_async.testing import ScriptedServer
from opencode_async.turns.erasing import Eraser
from tests.support.hosts import Host, host, nowhere

DAY = 86_400.0
WRITE = 'SCRIPT:write {"path": "sandbox/%s/a.txt"}'


async def removed(app: Host[Any, Any], days: float = 90) -> list[Removed]:
    """What one run tells; at each of its steps no connection is held."""
    told = []
    async for each in app.agent.cleanup(older_than=timedelta(days=days)):
        await app.holds_no_connection()
        told.append(each)
    return told


async def age(app: Host[Any, Any], *keys: Any, days: float = 91) -> None:
    """As if nobody had touched these for so long."""
    conversations, messages = app.agent.tables.conversation, app.agent.tables.message
    then = database_time(-days * DAY)
    async with app.sessions.begin() as db:
        await db.execute(
            update(conversations).where(conversations.id.in_(keys)).values({"updated_at": then})
        )
        theirs = messages.conversation_id.in_(keys)
        await db.execute(update(messages).where(theirs).values({"created_at": then}))
        ended = theirs & messages.finished_at.is_not(None)
        await db.execute(update(messages).where(ended).values({"finished_at": then}))


async def talked(app: Host[Any, Any], text: str = "SCRIPT:text Hello.", **values: Any) -> Any:
    """A conversation with one turn, which is over and was told of."""
    key = await app.conversation()
    message = await app.agent.turns.start(key, text, values=values)
    await app.agent.turns.run(message.id)
    return key


async def row_of(app: Host[Any, Any], key: Any) -> Any:
    async with app.sessions() as db:
        return await db.get(app.agent.tables.conversation, key)


async def kept(app: Host[Any, Any]) -> set[Any]:
    """The conversations that are there."""
    async with app.sessions() as db:
        return set((await db.scalars(select(app.agent.tables.conversation.id))).all())


async def exists(client: OpencodeClient, session_id: str) -> bool:
    async for page in client.sessions():
        if session_id in [each.session_id for each in page]:
            return True
    return False


async def orphan(app: Host[Any, Any], key: Any, sandbox_key: str | None = None) -> str:
    """A session as a crash between its creation and the commit of its id leaves it."""
    owner = sandbox_key or (await row_of(app, key)).sandbox_key
    return await app.agent.client.create_session(metadata=metadata_of(key, owner))


def conversations(told: Sequence[Removed]) -> list[Any]:
    return [each.id for each in told if each.kind == "conversation"]


@pytest.mark.parametrize("old", [False, True])
async def test_what_nobody_touched_goes_with_all_that_there_is_of_it(
    old: bool, database_url: str, opencode: ScriptedServer, tmp_path: Path
) -> None:
    values: dict[str, Any] = {"tenant_id": 7, "source": "test"} if old else {}
    store = ArtifactPolicy(DirectoryArtifactStore(tmp_path / "kept"))
    options: Any = {"old": old, "files": True, "asks": True, "artifacts": store}
    async with host(database_url, opencode, pool_size=5, **options) as app:
        stale = await app.conversation()
        folder = Path(str(opencode.directory)) / "sandbox" / (await row_of(app, stale)).sandbox_key
        message = await app.agent.turns.start(stale, WRITE % folder.name, values=values)
        await app.agent.turns.run(message.id)
        assert folder.is_dir()
        assert len([each for each in (tmp_path / "kept").rglob("*") if each.is_file()]) == 1
        session_id = (await row_of(app, stale)).opencode_session_id
        empty, young, live, untold, answered = [
            await app.conversation(),
            await talked(app, **values),
            await app.conversation(),
            await talked(app, **values),
            await talked(app, **values),
        ]
        hanging = await app.agent.turns.start(live, "SCRIPT:hang Still here.", values=values)
        await app.says_something(hanging.id)
        await age(app, stale, empty, live, untold)
        kind = app.agent.tables.message
        async with app.sessions.begin() as db:
            of = kind.conversation_id == untold
            late = {"lease_expires_at": database_time(60), "lease_owner": "dead"}
            await db.execute(update(kind).where(of, kind.role == "assistant").values(late))
            conversation = app.agent.tables.conversation
            asked = update(conversation).where(conversation.id == answered)
            await db.execute(asked.values({"updated_at": database_time(-91 * DAY)}))
        told = await removed(app)
        assert sorted(conversations(told), key=str) == sorted([stale, empty], key=str)
        assert await kept(app) == {young, live, untold, answered}
        async with app.sessions() as db:
            assert await db.get(kind, message.id) is None
            assert app.agent.tables.artifact is not None
            assert await db.scalar(select(app.agent.tables.artifact.id)) is None
        assert not await exists(app.agent.client, session_id)
        assert not folder.exists()
        assert not [each for each in (tmp_path / "kept").rglob("*") if each.is_file()]
        assert (await app.row(hanging.id)).status == "pending"
        assert await removed(app) == []
        await app.agent.erase(live)
        assert app.reports.errors == []


async def test_sessions_that_crashes_left_go_and_no_others(
    database_url: str, opencode: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "LISTED", 2)
    async with host(database_url, opencode, dispatch=nowhere) as app:
        talking, silent = await talked(app), await app.conversation()
        creating = await app.conversation()
        current = (await row_of(app, talking)).opencode_session_id
        theirs = [await orphan(app, talking), await orphan(app, silent)]
        in_flight = await orphan(app, creating)
        client = app.agent.client
        # A fork of the conversation's session has its metadata (OpenCode 1.18.33, measured).
        fork = await orphan(app, talking)
        async with client.stream(fork, "SCRIPT:text Mine.") as changes:
            assert [each async for each in changes]
        not_ours = [
            fork,
            await orphan(app, silent, "the key in another database"),
            await client.create_session(metadata={"conversation_id": str(silent)}),
            await client.create_session(metadata={"conversation_id": "nonsense"}),
            await client.create_session(),
        ]
        kind = app.agent.tables.conversation
        async with app.sessions.begin() as db:
            claim = update(kind).where(kind.id == creating)
            await db.execute(claim.values({"session_claimed_until": database_time(45)}))
        told = await removed(app)
        assert {each.id for each in told if each.kind == "session"} == set(theirs)
        assert len(told) == 2
        for session_id in (current, in_flight, *not_ours):
            assert await exists(client, session_id)
            await client.delete_session(session_id)
        for session_id in theirs:
            assert not await exists(client, session_id)
        assert app.reports.errors == []


async def test_a_session_whose_creator_died_is_found_by_what_it_says(
    database_url: str, opencode: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(*arguments: Any, **values: Any) -> bool:
        raise SystemError

    async with host(database_url, opencode) as app:
        key = await app.conversation()
        async with app.sessions() as db:
            session = app.agent.session(db, await row_of(app, key))
            with monkeypatch.context() as patched:
                patched.setattr(Session, "_store", dies)
                with pytest.raises(SystemError):
                    await session.ensure()
        assert await removed(app) == []  # it may be about to store it yet
        kind = app.agent.tables.conversation
        async with app.sessions.begin() as db:
            await db.execute(update(kind).values({"session_claimed_until": database_time(-1)}))
        assert [each.kind for each in await removed(app)] == ["session"]
        assert await kept(app) == {key}


async def test_what_failed_or_was_interrupted_is_done_by_the_next_run(
    database_url: str, opencode: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Store(DirectoryArtifactStore):
        async def delete(self, key: str) -> None:
            raise ArtifactStoreError("delete", "away")

    store = Store(tmp_path / "kept")
    options: Any = {"files": True, "artifacts": ArtifactPolicy(store)}
    async with host(database_url, opencode, **options) as app:
        key = await app.conversation()
        sandbox_key = (await row_of(app, key)).sandbox_key
        message = await app.agent.turns.start(key, WRITE % sandbox_key)
        await app.agent.turns.run(message.id)
        await age(app, key)
        assert await removed(app) == []
        assert [type(error) for error in app.reports.errors] == [ArtifactStoreError]
        assert await kept(app) == {key}
        with pytest.raises(ConversationNotFound):
            await app.agent.turns.start(key, "Too late.")
        monkeypatch.delattr(Store, "delete")
        with monkeypatch.context() as patched:

            async def dies(*arguments: Any) -> bool:
                raise asyncio.CancelledError

            patched.setattr(Eraser, "delete_rows", dies)
            with pytest.raises(asyncio.CancelledError):
                await removed(app)
        assert await kept(app) == {key}
        assert conversations(await removed(app, days=1000)) == [key]  # however old
        assert not [each for each in (tmp_path / "kept").rglob("*") if each.is_file()]
        async with app.sessions() as db:
            assert await db.get(app.agent.tables.message, message.id) is None
        assert len(app.reports.errors) == 1


async def test_an_outage_is_reported_once_and_leaves_all_as_it_was(
    database_url: str, opencode: ScriptedServer
) -> None:
    nobody = Server(f"http://127.0.0.1:{free_port()}")
    place: Server = opencode

    async def client_for(conversation: Any) -> Server:
        return place

    async with host(database_url, nobody, client_for=client_for) as app:
        keys = {await talked(app), await talked(app)}
        await age(app, *keys)
        place = nobody
        assert await removed(app) == []
        assert [type(error) for error in app.reports.errors] == [OpencodeConnectionError]
        assert await kept(app) == keys
        for key in keys:
            row = await row_of(app, key)
            assert row.opencode_session_id is not None
            assert not row.is_being_erased
        place = opencode
        assert set(conversations(await removed(app))) == keys
        assert len(app.reports.errors) == 1


async def test_two_workers_at_once_tell_of_each_conversation_once(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with (
        host(database_url, opencode, inline=False) as first,
        host(database_url, opencode, inline=False) as second,
    ):
        keys = {await first.conversation() for _ in range(20)} | {await talked(first)}
        await age(first, *keys)
        told = await asyncio.gather(removed(first), removed(second))
        both = conversations([*told[0], *told[1]])
        assert sorted(both, key=str) == sorted(keys, key=str)
        assert await kept(first) == set()
        assert first.reports.errors == second.reports.errors == []


async def test_who_posts_meanwhile_keeps_the_conversation_and_who_posts_later_is_told(
    database_url: str, opencode: ScriptedServer
) -> None:
    later: list[str] = []

    async def client_for(conversation: Any) -> Server:
        await app.holds_no_connection()
        try:
            await app.agent.turns.start(conversation.id, "SCRIPT:text I am back.")
        except ConversationNotFound:
            later.append("not found")
        return opencode

    async with host(
        database_url, opencode, inline=False, client_for=client_for, dispatch=nowhere
    ) as app:
        key = await app.conversation()
        await age(app, key)
        assert await removed(app) == []
        assert await kept(app) == {key}
        await app.agent.erase(key)
        assert later == ["not found"]
        assert await kept(app) == set()
        assert app.reports.errors == []


@pytest.fixture
def emptied(opencode: ScriptedServer) -> Server:
    """The same server in a directory of its own."""
    server = opencode.below("emptied")
    Path(str(server.directory)).mkdir(exist_ok=True)
    return server


async def test_what_a_server_keeps_for_a_directory_goes_with_its_last_session(
    emptied: Server, tmp_path: Path
) -> None:
    async with host(f"sqlite+aiosqlite:///{tmp_path}/app.db", emptied) as app:
        client = app.agent.client
        somebodys = await client.create_session()
        await orphan(app, await app.conversation())
        assert [each.kind for each in await removed(app)] == ["session"]
        await client.delete_session(somebodys)
        await orphan(app, await app.conversation())
        session, instance = await removed(app)
        assert session.kind == "session"
        assert instance == Removed("instance", str(emptied.directory))
        assert app.reports.errors == []


async def test_less_than_no_time_is_refused_and_an_agent_that_does_not_run(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode) as app:
        with pytest.raises(ValueError, match="how long ago"):
            app.agent.cleanup(older_than=timedelta(days=-1))
    with pytest.raises(NotRunning):
        app.agent.cleanup(older_than=timedelta())
