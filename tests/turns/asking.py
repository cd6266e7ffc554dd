"""Turns that ask, and followers who see what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from opencode_async import (
    Change,
    PermissionReply,
    Permissions,
    Server,
    TurnSettings,
)
from opencode_async.turns.message import message_json
from tests.support.hosts import QUICK, Host, host
from tests.support.replay import replay

BASH = 'SCRIPT:bash {"command": "echo hello && uname"}'
ONCE, REJECT = PermissionReply("once"), PermissionReply("reject")
TIMINGS = replace(QUICK, poll=0.3)
Settings = Callable[[Any], Awaitable[TurnSettings]]
Json = dict[str, Any]


def asking(*permissions: str, **settings: Any) -> Settings:
    """Settings under which these tools need leave."""
    rules = Permissions().allow("task")
    for name in permissions:
        rules = rules.ask(name)

    async def settings_for(conversation: Any) -> TurnSettings:
        return TurnSettings(permissions=rules, **settings)

    return settings_for


ASKING_FOR_BASH = asking("bash")


@asynccontextmanager
async def an_app(
    url: str, server: Server, settings: Settings = ASKING_FOR_BASH, **options: Any
) -> AsyncIterator[Host[Any, Any]]:
    given = {"timings": TIMINGS, "settings_for": settings, "asks": True, **options}
    async with host(url, server, **given) as app:
        yield app


class Followed:
    """A turn, and what a follower was told of it so far."""

    def __init__(self, app: Host[Any, Any], message: Any) -> None:
        self.app = app
        self.id = message.id
        self.changes: list[Change] = []
        self._news = asyncio.Condition()

    async def follow(self) -> None:
        async with self.app.agent.turns.follow(self.id) as changes:
            async for change in changes:
                async with self._news:
                    self.changes.append(change)
                    self._news.notify_all()

    @property
    def state(self) -> dict[str, Any]:
        """The message as the follower has it."""
        before, finished = replay(self.changes)
        return finished or before

    async def until(
        self, true: Callable[[dict[str, Any]], bool], *, within: float = 20
    ) -> dict[str, Any]:
        async with asyncio.timeout(within), self._news:
            await self._news.wait_for(lambda: bool(self.changes) and true(self.state))
        return self.state

    async def asks(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait for so many open asks."""

        def opened(state: dict[str, Any]) -> list[dict[str, Any]]:
            asked = [*state["permissions"], *state["questions"]]
            return [ask for ask in asked if ask["status"] == "open"]

        return opened(await self.until(lambda state: len(opened(state)) >= count))

    async def row(self) -> Any:
        """The row at the end, which is what the follower was told."""
        await self.until(lambda state: state["status"] not in ("pending", "queued"))
        row = await self.app.row(self.id)
        async with self.app.sessions() as db:
            stored = message_json(row, await self.app.agent.besides.of(db, [self.id]))
        assert replay(self.changes)[1] == stored
        return row


async def rows_of(app: Host[Any, Any], key: Any) -> list[Any]:
    """What a turn has asked."""
    async with app.sessions() as db:
        return list((await app.agent.besides.of(db, [key])).asks)


@asynccontextmanager
async def a_turn(
    app: Host[Any, Any], script: str, conversation: Any = None, **values: Any
) -> AsyncIterator[Followed]:
    """A turn that is followed; ``values`` are those of the host's own columns."""
    place = conversation or await app.conversation()
    turn = Followed(app, await app.agent.turns.start(place, script, values=values))
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(turn.follow())
        yield turn
        following.cancel()


def tools(row: Any) -> list[dict[str, Any]]:
    return [part for part in row.parts if part["type"] == "tool"]
