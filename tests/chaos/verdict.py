"""What must hold of a turn at its end, whatever was broken on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import select, text

from opencode_async import Change, Finished
from opencode_async.turns.message import message_json
from tests.support.hosts import Host
from tests.support.replay import replay
from tests.turns.ended import answers_in, assert_all_said_is_stored, messages_of

ENDS = (["pending", "completed"], ["completed"])


class Follower:
    """One who follows a turn from its start to its end, in a task of that group."""

    def __init__(self, tasks: asyncio.TaskGroup, app: Host[Any, Any], key: object) -> None:
        self.changes: list[Change] = []
        self._begun = asyncio.Event()
        self._task = tasks.create_task(self._follow(app, key))

    async def begun(self) -> None:
        """Wait for the first change."""
        await self._begun.wait()

    async def finished(self) -> list[Change]:
        """All changes, once there are no more."""
        await self._task
        return self.changes

    async def _follow(self, app: Host[Any, Any], key: object) -> None:
        async with app.agent.turns.follow(key) as following:
            async for change in following:
                self.changes.append(change)
                self._begun.set()


async def conversation(app: Host[Any, Any]) -> Any:
    """One that has its session: the right to create it is held for 45 s."""
    key = await app.conversation()
    async with app.sessions() as db:
        await app.agent.session(db, await db.get_one(app.agent.tables.conversation, key)).ensure()
    return key


async def stored(app: Host[Any, Any], key: object) -> dict[str, Any]:
    """Every column of a row, and which transaction wrote it last."""
    table = app.agent.tables.message.__table__
    async with app.sessions() as db:
        query = select(table, text("xmin::text AS written_by")).where(table.c.id == key)
        return dict((await db.execute(query)).mappings().one())


async def begun(app: Host[Any, Any], key: object) -> None:
    """Wait until the turn has some text."""
    async with asyncio.timeout(20):
        while not (await app.row(key)).content:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def settled(app: Host[Any, Any], key: object) -> Any:
    """The row of a turn that nobody runs any more, once that is so."""
    async with asyncio.timeout(60):
        while True:
            row = await app.row(key)
            if row.status != "pending" and row.lease_expires_at is None:
                return row
            await asyncio.sleep(0.05)


async def watched(app: Host[Any, Any], key: object) -> None:
    """See a turn through to its end: one worker runs it, and nothing goes back."""
    seen = [await stored(app, key)]
    async with asyncio.timeout(30):
        while seen[-1]["lease_expires_at"] is not None:
            await asyncio.sleep(0.05)
            seen.append(await stored(app, key))
    assert len({row["lease_owner"] for row in seen[:-1]}) <= 1
    assert len({row["epoch"] for row in seen}) == 1
    cursors = [row["cursor"] for row in seen]
    assert cursors == sorted(cursors)
    assert [status for status, _ in groupby(row["status"] for row in seen)] in ENDS


async def assert_said_once_and_completed(app: Host[Any, Any], row: Any) -> None:
    """The turn was asked once, and its row holds what REST says was answered."""
    how = (row.status, row.finish, row.error_code)
    assert how == ("completed", "stop", None), how
    messages = await messages_of(app, await app.session_id(row))
    asked = [m["info"]["id"] for m in messages if m["info"]["role"] == "user"]
    assert asked.count(row.prompt_id) == 1, asked
    assert len(asked) == len(set(asked)), asked
    answers = [m for m in answers_in(messages) if m["info"]["parentID"] == row.prompt_id]
    await assert_all_said_is_stored(app.agent.client, row, answers)


def assert_told_the_end_once(changes: Sequence[Change], row: Any) -> None:
    """A follower's last word is the row as it is stored, and there is one such word."""
    assert sum(isinstance(change, Finished) for change in changes) == 1
    assert replay(changes)[1] == message_json(row)
