"""A host that says which server a conversation's agent is on, or fails to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from opencode_async import (
    ConversationNotFound,
    OpencodeConnectionError,
    OutsideRoot,
    Server,
    SessionMoved,
    StaleSessionError,
    UnprotectedServer,
    UsageError,
)
from opencode_async.client.local_server import free_port
from opencode_async.testing import ScriptedServer
from tests.support.hosts import Host, Reports, host

ClientFor = Callable[[Any], Awaitable[str | Server]]
SECRET = "postgres://secret"  # in the host's own error


def always(answer: str | Server | Exception) -> ClientFor:
    async def client_for(conversation: Any) -> str | Server:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return client_for


def kinds(reports: Reports) -> list[type[BaseException]]:
    return [type(error) for error in reports.errors]


async def run(app: Host[Any, Any], text: str = "SCRIPT:text Hello.") -> Any:
    """A turn that is dispatched, not awaited: its row when it has ended."""
    message = await app.agent.turns.start(await app.conversation(), text)
    return await settled(app, message.id)


async def settled(app: Host[Any, Any], key: Any) -> Any:
    async with asyncio.timeout(15), app.agent.turns.follow(key) as changes:
        async for _ in changes:
            pass
    return await app.row(key)


@pytest.fixture
def moved(opencode: ScriptedServer) -> Server:
    """The same server in another directory."""
    server = opencode.below("moved")
    Path(str(server.directory)).mkdir(exist_ok=True)
    return server


async def half_stored(app: Host[Any, Any], key: Any) -> None:
    """Wait until what a turn has said so far is in its row, too."""
    async with app.agent.turns.follow(key) as changes:
        async for change in changes:
            if change.event == "part.delta":
                break
    async with asyncio.timeout(10):
        while (await app.row(key)).content != "Half of it.":  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # no follower is told of a snapshot


async def test_it_is_given_the_stored_row_and_holds_no_connection(
    database_url: str, opencode: ScriptedServer
) -> None:
    asked: list[Any] = []

    async def client_for(conversation: Any) -> Server:
        await app.holds_no_connection()
        asked.append((conversation.id, conversation.user_id))
        return opencode

    # Somewhere that nobody answers: the agent's own server is not asked anything.
    nobody = f"http://127.0.0.1:{free_port()}"
    async with host(database_url, nobody, client_for=client_for) as app:
        row = await run(app)
        assert row.content == "Hello."
        assert asked == [(row.conversation_id, 1)]
        assert app.reports.errors == []


async def test_a_session_of_the_agents_is_on_that_server_too(
    database_url: str, opencode: ScriptedServer
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    options: Any = {"client_for": always(opencode)}
    async with host(database_url, nobody, **options) as app, app.sessions() as db:
        key = await app.conversation()
        session = app.agent.session(db, await db.get_one(app.agent.tables.conversation, key))
        with pytest.raises(UsageError, match="find_client"):
            _ = session.client
        await session.abort()  # it has none yet, so nobody is asked
        session_id = await session.ensure()
        assert session.just_created
        assert session.client is await session.find_client() is not app.agent.client
        await session.client.http.request("GET", f"/session/{session_id}")
        await session.abort()
        again = await session.recreate()
    assert again != session_id


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (LookupError(SECRET), "internal"),
        (UsageError(SECRET), "internal"),
        (Server("http://10.0.0.7"), "internal"),
        (Server("http://127.0.0.1:9", directory="/elsewhere"), "internal"),
        ("http://user:secret@127.0.0.1", "internal"),
        (OpencodeConnectionError(SECRET), "unreachable"),
    ],
    ids=["error", "own error", "no password", "outside", "credentials", "connection"],
)
async def test_what_it_cannot_say_ends_the_turn_with_a_report(
    answer: str | Server | Exception, code: str, database_url: str, opencode: ScriptedServer
) -> None:
    told: list[str] = []

    async def on_turn_finished(result: Any) -> None:
        told.append(result.status)

    options: Any = {"client_for": always(answer), "on_turn_finished": on_turn_finished}
    async with host(database_url, opencode, **options) as app:
        row = await run(app)
        assert (row.status, row.error_code, row.epoch) == ("error", code, 1)
        assert "secret" not in row.error_text
        await app.agent.turns.run(row.id)  # which waits until its host is told
        assert await app.agent.turns.recover() == []
    assert told == ["error"]
    expected: type[BaseException] = ValueError
    if isinstance(answer, Exception):
        expected = type(answer)
    elif isinstance(answer, Server):
        expected = OutsideRoot
    assert kinds(app.reports)[-1] is expected
    assert "user:secret" not in str(app.reports.errors)


async def test_a_server_without_a_password_is_refused_when_it_is_first_needed(
    database_url: str, opencode: ScriptedServer
) -> None:
    own = Server(opencode.url, password=opencode.password)
    async with host(database_url, own, client_for=always(Server("http://10.0.0.7"))) as app:
        row = await run(app)
    assert (row.status, row.error_code) == ("error", "internal")
    assert kinds(app.reports) == [UnprotectedServer]


@pytest.mark.parametrize(
    "error", [TimeoutError(), ConnectionRefusedError(), OSError("unreachable")], ids=repr
)
async def test_a_failure_like_a_lost_databases_is_waited_for_but_not_for_ever(
    error: Exception, database_url: str, opencode: ScriptedServer
) -> None:
    """The host's own directory of servers is away: no worker is to take the turn over and over."""
    async with host(database_url, opencode, client_for=always(error)) as app:
        row = await run(app)
        assert (row.status, row.error_code, row.epoch) == ("error", "unreachable", 1)
        await app.agent.turns.run(row.id)
        assert await app.agent.turns.recover() == []
    assert set(kinds(app.reports)) == {OpencodeConnectionError}
    assert app.reports.errors[-1].__cause__ is error


async def test_one_that_is_away_for_a_moment_costs_the_turn_nothing(
    database_url: str, opencode: ScriptedServer
) -> None:
    answers: list[Exception | Server] = [TimeoutError(), ConnectionResetError(), opencode]
    hooks = map(always, answers)

    async def client_for(conversation: Any) -> str | Server:
        return await next(hooks)(conversation)

    async with host(database_url, opencode, client_for=client_for) as app:
        row = await run(app)
    assert (row.status, row.content, row.epoch) == ("completed", "Hello.", 1)


async def test_a_stop_ends_the_wait_for_it(database_url: str, opencode: ScriptedServer) -> None:
    asked = asyncio.Event()

    async def client_for(conversation: Any) -> Server:
        asked.set()
        raise TimeoutError

    async with host(database_url, opencode, client_for=client_for) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:text")
        await asked.wait()
        await app.agent.turns.cancel(message.id)
        row = await settled(app, message.id)
    assert (row.status, row.epoch) == ("cancelled", 1)


async def test_one_that_fails_after_a_takeover_ends_the_turn_with_its_partial_text(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(database_url, opencode, client_for=always(opencode)) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:hang Half of it.")
        await half_stored(app, message.id)
        session_id = await app.session_id(message)
    async with host(database_url, opencode, client_for=always(LookupError(SECRET))) as app:
        row = await settled(app, message.id)
        assert (row.status, row.error_code, row.epoch) == ("error", "internal", 2)
        assert row.content == "Half of it."
        await app.agent.turns.run(row.id)
        assert await app.agent.turns.recover() == []
        assert kinds(app.reports) == [LookupError]
        await app.agent.client.abort_tree(session_id)


async def test_erasing_erases_the_rows_whatever_it_says(
    database_url: str, opencode: ScriptedServer
) -> None:
    async with host(
        database_url, opencode, client_for=always(LookupError(SECRET)), inline=False
    ) as app:
        row = await run(app)
        await app.agent.erase(row.conversation_id)
        async with app.sessions() as db:
            for kind in app.agent.tables.all:
                assert await db.scalar(select(kind.id)) is None
        assert kinds(app.reports) == [LookupError, LookupError]
        with pytest.raises(ConversationNotFound):
            await app.agent.erase(row.conversation_id)
        assert len(app.reports.errors) == 2


async def test_a_conversation_that_moves_to_another_directory_gets_a_session_there(
    database_url: str, opencode: ScriptedServer, moved: Server
) -> None:
    """OpenCode would go on in the old directory, whatever it is told with the prompt."""
    places = iter((opencode, opencode, moved, moved))

    async def client_for(conversation: Any) -> Server:  # asked once for each turn
        return next(places)

    async with host(database_url, opencode, client_for=client_for) as app:
        conversation = await app.conversation()
        sessions, seen = [], []
        for _ in range(4):
            message = await app.agent.turns.start(conversation, "SCRIPT:text Hello.")
            row = await settled(app, message.id)
            assert (row.status, row.content, row.epoch) == ("completed", "Hello.", 1)
            sessions.append(await app.session_id(row))
            path = f"/session/{sessions[-1]}"
            seen.append((await app.agent.client.http.request("GET", path)).json()["directory"])
        assert sessions[0] == sessions[1] != sessions[2] == sessions[3]
        assert seen == [str(opencode.directory)] * 2 + [str(moved.directory)] * 2
        assert kinds(app.reports) == [StaleSessionError]


async def test_one_that_moves_in_mid_answer_ends_with_what_was_read(
    database_url: str, opencode: ScriptedServer, moved: Server
) -> None:
    async with host(database_url, opencode, client_for=always(opencode)) as app:
        message = await app.agent.turns.start(await app.conversation(), "SCRIPT:hang Half of it.")
        await half_stored(app, message.id)
        session_id = await app.session_id(message)
    async with host(database_url, opencode, client_for=always(moved)) as app:
        row = await settled(app, message.id)
        assert (row.status, row.error_code, row.epoch) == ("error", "internal", 2)
        assert row.content == "Half of it."
        assert await app.session_id(row) == session_id
        assert not await app.agent.client.busy(session_id)  # it was stopped where it was
        assert kinds(app.reports) == [SessionMoved]
        again = await app.agent.turns.start(row.conversation_id, "SCRIPT:text Here.")
        assert (await settled(app, again.id)).content == "Here."
        assert await app.session_id(row) != session_id
