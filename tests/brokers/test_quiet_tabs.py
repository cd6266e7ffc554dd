"""A tab in which nothing happens: with a shared broker it waits to hear of something."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opencode_async import Opencode
from opencode_async.brokers import shared
from opencode_async.brokers.redis import RedisBroker
from opencode_async.testing import ScriptedServer
from opencode_async.turns import following_conversation
from opencode_async.turns.frames import change_of
from tests.support.hosts import QUICK, Host, host, nowhere
from tests.support.valkey import ValkeyServer, valkey_server

# Not in a test's time: what comes nevertheless was heard of.
NEVER = replace(QUICK, poll=3600.0, lease=6000.0)
OFTEN = replace(QUICK, poll=0.02, lease=6000.0)


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'test.db'}"


class Tab:
    """Somebody who follows a conversation, and how often its rows were looked at for that."""

    def __init__(self, app: Host[Any, Any], conversation: Any) -> None:
        self.looks = 0
        self.told: list[tuple[str, str]] = []
        self.closed = False
        self._app = app
        self._conversation = conversation
        self._changed = asyncio.Event()

    async def follow(self) -> None:
        conversations = self._app.agent.turns.conversations
        entries = conversations.entries

        async def counted(conversation_id: Any, behind: int) -> Any:
            self.looks += 1
            self._change()
            return await entries(conversation_id, behind)

        conversations.entries = counted  # type: ignore[method-assign]
        first = await conversations.start_of(self._conversation, None)
        async for frames in conversations.frames(self._conversation, None, first):
            for change in map(change_of, frames):
                said = change.to_json().get("message", {}).get("content", "")
                self.told.append((change.event, said))
            self._change()
        self.closed = True
        self._change()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await self._changed.wait()

    async def looks_again(self, times: int) -> None:
        before = self.looks
        await self.until(lambda: self.looks >= before + times)

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@asynccontextmanager
async def tabs(*tabs: Tab) -> AsyncIterator[None]:
    """They are open for the block."""
    following = [asyncio.create_task(tab.follow()) for tab in tabs]
    try:
        for tab in tabs:
            await tab.until(lambda tab=tab: tab.looks > 0)  # type: ignore[misc]
        yield
    finally:
        for task in following:
            task.cancel()
        await asyncio.wait(following)
    for task in following:
        assert task.cancelled() or task.exception() is None


async def test_the_rows_are_polled_only_while_the_broker_is_not_heard(
    database: str, opencode: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "AGAIN", 0.2)
    with valkey_server() as valkey:
        async with AsyncExitStack() as stack:
            heard, alone = [
                await stack.enter_async_context(
                    host(database, opencode, timings=OFTEN, dispatch=nowhere, broker=broker)
                )
                for broker in (RedisBroker(valkey.url), None)
            ]
            quiet, polling = [Tab(app, await app.conversation()) for app in (heard, alone)]

            async def is_left_alone() -> None:
                """Wait until the one looks at nothing while the other looks twenty times."""
                before = None
                async with asyncio.timeout(20):
                    while before != quiet.looks:
                        before = quiet.looks
                        await polling.looks_again(20)

            async with tabs(quiet, polling):
                await is_left_alone()
                valkey.kill()
                await quiet.looks_again(20)
                valkey.start()
                await is_left_alone()
                before = quiet.looks
                await heard.agent.turns.start(quiet._conversation, "Hello.")
                await quiet.until(lambda: len(quiet.told) == 2)
                assert quiet.looks <= before + 2
    assert {type(error).__name__ for error in heard.reports.errors} <= {"ConnectionError"}


async def test_whatever_happens_in_a_conversation_is_heard_of(
    database: str,
    opencode: ScriptedServer,
    valkey: ValkeyServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(following_conversation, "PATIENCE", NEVER.poll)
    options_of_each: list[dict[str, Any]] = [{}, {"timings": NEVER, "dispatch": nowhere}]
    async with AsyncExitStack() as stack:
        there, here = [
            await stack.enter_async_context(
                host(database, opencode, broker=RedisBroker(valkey.url), **options)
            )
            for options in options_of_each
        ]
        conversation = await there.conversation()
        tab = Tab(here, conversation)
        turns = there.agent.turns

        async def hears(happens: Awaitable[Any], *told: tuple[str, str]) -> None:
            already = len(tab.told)
            await happens
            await tab.until(lambda: {*told} <= {*tab.told[already:]})

        async with tabs(tab):
            await hears(
                turns.start(conversation, "SCRIPT:text One."),
                ("message.added", "SCRIPT:text One."),
                ("finished", "One."),
            )
            running = await turns.start(conversation, "SCRIPT:hang Two.")
            await there.says_something(running.id)
            async with another(there, opencode, valkey).attached() as tool:  # an operator's
                waiting = await tool.start(conversation, "Three.", on_busy="enqueue")
                await tab.until(lambda: ("message.added", "Three.") in tab.told)
                await hears(tool.cancel(waiting.id), ("finished", ""))
            await hears(turns.cancel(running.id), ("finished", "Two."))
            await hears(a_turn_of_the_hosts_own(there, conversation), ("finished", "Four."))
            await there.agent.erase(conversation)
            await tab.until(lambda: tab.closed)
    assert there.reports.errors == here.reports.errors == []


def another(
    app: Host[Any, Any], opencode: ScriptedServer, valkey: ValkeyServer
) -> Opencode[Any, Any]:
    """The same agent in another process, as it were."""
    broker = RedisBroker(valkey.url)
    return Opencode(opencode, app.sessions, app.agent.tables, broker=broker)


async def a_turn_of_the_hosts_own(app: Host[Any, Any], conversation: Any) -> None:
    """One whose row the library did not make, so that it could tell nobody."""
    kind = app.agent.tables.message
    row = kind(conversation_id=conversation, role="assistant", status="pending", position=100)
    async with app.sessions() as db:
        db.add(row)
        await db.commit()
        await app.agent.turn(db, row, text="SCRIPT:text Four.")
