"""Ours beside ``fanout_servers``: ``python -m tests.benchmarks.fanout_library <database>``."""

from __future__ import annotations

import sys
from typing import Any

from starlette.types import ASGIApp

from opencode_async.brokers.broker import turn_topic
from opencode_async.models import PENDING
from opencode_async.protocol.changes import PartDelta
from opencode_async.turns.frames import Cursor, frame_of
from tests.benchmarks.fanout_servers import DELTA, serve_saying
from tests.benchmarks.host_app import HostApp


class Library:
    """Ours: the route of a message's events, whose row somebody else runs."""

    def __init__(self, database: str) -> None:
        self._app = HostApp(database, "http://127.0.0.1:1", follows=True)
        self.app: ASGIApp = self._app
        self._key: Any = None
        self._said = 0

    async def path(self) -> str:
        assert self._app.running is not None
        host = self._app.running
        row = host.agent.tables.message(
            conversation_id=await host.conversation(),
            role="assistant",
            status=PENDING,
            position=1,
            epoch=1,
            cursor=1,
            prompt_id="msg_told",
        )
        async with host.sessions() as db:
            db.add(row)
            await db.commit()
            await db.refresh(row)
            self._key = row.id
        await host.lose_worker(self._key, 3600)
        await self.say(1)
        return f"/agent/messages/{self._key}/events"

    async def say(self, events: int) -> None:
        assert self._app.running is not None
        first, self._said = self._said + 1, self._said + events
        frames = [
            frame_of(PartDelta(0, DELTA), Cursor(str(self._key), 1, seq))
            for seq in range(first, self._said + 1)
        ]
        agent = self._app.running.agent
        topic = turn_topic(agent.name, self._key)
        await agent.broker.publish(topic, 1, frames, stored=self._said)


if __name__ == "__main__":
    serve_saying(Library(sys.argv[1]))
