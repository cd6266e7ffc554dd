"""A broker on the host's own PostgreSQL: a table for the frames, NOTIFY for where there are new.

A notification carries topics only, many at a time: each takes a lock of the whole server when its
transaction commits, and 8,000 bytes are its limit (PostgreSQL's documentation of NOTIFY).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    Connection,
    DateTime,
    Text,
    and_,
    delete,
    event,
    func,
    literal,
    select,
    tuple_,
)
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.schema import ExecutableDDLElement

from opencode_async.brokers.broker import Frame
from opencode_async.brokers.journal import END, Bell, Entry, Place, decoded, encoded
from opencode_async.brokers.shared import SharedBroker
from opencode_async.database_time import database_time

KEPT = 600.0  # s that a frame is kept at least
SWEEP = 60.0  # s between two times that older ones are deleted
SWEPT = 2_000  # rows that are deleted at a time
MOST = 7_900  # bytes of a notification
PAUSE = 0.02  # s between two transactions: what is published meanwhile goes with the next
QUIET = 3.0  # s without a notification behind which the connection is tried
UNLOGGED: ExecutableDDLElement = DDL("ALTER TABLE %(fullname)s SET UNLOGGED")  # type: ignore[no-untyped-call]


class FramesMixin:
    """The frames of turns that run, for minutes: several of one epoch of a turn in a row.

    It is the whole of a table of the host's metadata, its key too. ``create_all`` makes the table
    unlogged on PostgreSQL: nothing is written to the WAL, and a crash empties it, which costs
    followers a snapshot. A migration says ``ALTER TABLE … SET UNLOGGED`` itself.
    """

    topic: Mapped[str] = mapped_column(Text, primary_key=True)
    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    last: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    frames: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=database_time(), index=True
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__table__" in cls.__dict__:
            unlogged = UNLOGGED.execute_if(dialect="postgresql")
            event.listen(sa_inspect(cls).local_table, "after_create", unlogged)


class PostgresBroker(SharedBroker):
    """An ``EventBroker`` for several processes on ``engine``, which is asyncpg's, and a table.

    It writes and reads through ``engine``'s pool. Per process one more connection listens, outside
    the pool; it is opened by ``listen_on`` where ``engine`` goes through PgBouncer, which passes no
    notifications on. ``channel`` is the one they go over. Without a connection that listens, the
    table is looked at every second.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        frames: type[FramesMixin],
        *,
        listen_on: AsyncEngine | None = None,
        channel: str = "opencode_async",
    ) -> None:
        super().__init__(PostgresJournal(engine, frames, listen_on or engine, channel))


class PostgresJournal:
    """Keeps entries in a table."""

    def __init__(
        self, engine: AsyncEngine, frames: type[FramesMixin], listen_on: AsyncEngine, channel: str
    ) -> None:
        self._engine = engine
        self._frames = frames
        self._listen_on = listen_on
        self._channel = channel
        self._swept = time.monotonic()

    async def append(self, entries: Sequence[Entry], news: Collection[str]) -> None:
        async with self._engine.begin() as connection:
            if rows := list(_rows(entries)):
                await connection.execute(insert(self._frames).on_conflict_do_nothing(), rows)
            for payload in encoded(entries, news, most=MOST):
                await connection.execute(select(func.pg_notify(self._channel, payload)))
        if time.monotonic() - self._swept > SWEEP:
            self._swept = time.monotonic()
            await self._sweep()
        await asyncio.sleep(PAUSE)

    async def _sweep(self) -> None:
        """Delete some of what is old; the rest with what is published next."""
        kind = self._frames
        key = tuple_(kind.topic, kind.epoch, kind.last)
        old = (
            select(kind.topic, kind.epoch, kind.last)
            .where(kind.created_at < database_time(-KEPT))
            .limit(SWEPT)
            .with_for_update(skip_locked=True)  # other processes sweep, too
        )
        async with self._engine.begin() as connection:
            rows = await connection.execute(delete(kind).where(key.in_(old)))
        if rows.rowcount >= SWEPT:
            self._swept -= SWEEP

    async def read(self, behind: Mapping[str, Place]) -> Mapping[str, Sequence[Entry]]:
        if not behind:
            return {}
        kind = self._frames
        places = func.unnest(
            literal(list(behind), ARRAY(Text)),
            literal([epoch for epoch, _ in behind.values()], ARRAY(BigInteger)),
            literal([last for _, last in behind.values()], ARRAY(BigInteger)),
        ).table_valued("topic", "epoch", "last")
        places = places.render_derived(name="places")
        newer = tuple_(kind.epoch, kind.last) > tuple_(places.c.epoch, places.c.last)
        query = (
            select(kind.topic, kind.epoch, kind.frames)
            .join(places, and_(kind.topic == places.c.topic, newer))
            .order_by(kind.topic, kind.epoch, kind.last)
        )
        found: dict[str, list[Entry]] = {}
        async with self._engine.connect() as connection:
            for topic, epoch, frames in await connection.execute(query):
                found.setdefault(topic, []).extend(_entries(topic, epoch, frames))
        return found

    async def listen(self, bell: Bell) -> None:
        lost = asyncio.Event()
        async with self._listen_on.connect() as connection:
            # asyncpg's own, which is none of the pool's any more.
            asyncpg: Any = (await connection.get_raw_connection()).driver_connection
            await connection.run_sync(Connection.detach)
            asyncpg.add_termination_listener(lambda _: lost.set())
            try:
                await asyncpg.add_listener(
                    self._channel, lambda *news: bell.ring(decoded(news[-1]))
                )
                bell.connected.set()
                while not lost.is_set():
                    try:
                        async with asyncio.timeout(QUIET):
                            await lost.wait()
                    except TimeoutError:
                        await asyncpg.fetchval("SELECT 1", timeout=QUIET)
            finally:
                asyncpg.terminate()  # a farewell would wait for one who may be gone
        raise ConnectionError("the connection that listens was lost")

    async def close(self) -> None:
        """Nothing: the engines are the host's."""


def _rows(entries: Sequence[Entry]) -> Iterator[dict[str, Any]]:
    """One row for what is new of an epoch of a turn, one for its end."""
    ordered = sorted(entries, key=lambda entry: (entry.topic, entry.place))
    for (topic, epoch, ended), several in groupby(
        ordered, key=lambda entry: (entry.topic, entry.epoch, entry.frame is None)
    ):
        frames = [entry.frame for entry in several if entry.frame is not None]
        last = END if ended else frames[-1].seq
        content = [(frame.id, frame.seq, frame.event, frame.data) for frame in frames]
        yield {"topic": topic, "epoch": epoch, "last": last, "frames": json.dumps(content)}


def _entries(topic: str, epoch: int, frames: str) -> list[Entry]:
    found = [Entry(topic, epoch, Frame(*each)) for each in json.loads(frames)]
    return found or [Entry(topic, epoch, None)]
