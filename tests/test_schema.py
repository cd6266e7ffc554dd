"""The rows: what is in the database although a host has tables and table arguments of its own."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, insert, inspect, select
from sqlalchemy import text as sql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from opencode_async import ConversationMixin, MessageMixin, SchemaError, Tables, TurnResult
from opencode_async.database import parsed_key
from opencode_async.database_time import database_time
from opencode_async.models import ArtifactMixin, AskMixin
from tests.support.hosts import Base, Conversation, Entry, Message, OldBase, Thread, engine_for


@pytest.mark.parametrize(
    ("base", "table", "conversation"),
    [(Base, "messages", "conversation_id"), (OldBase, "entries", "thread_id")],
)
async def test_the_indexes_are_in_the_database_beside_the_hosts_own(
    base: type[DeclarativeBase], table: str, conversation: str, database_url: str
) -> None:
    engine = engine_for(database_url)

    def indexes(connection: Connection) -> dict[str, tuple[bool, list[str | None]]]:
        base.metadata.create_all(connection)
        found = inspect(connection).get_indexes(table)
        return {str(i["name"]): (bool(i["unique"]), i["column_names"]) for i in found}

    async with engine.begin() as connection:
        found = await connection.run_sync(indexes)
    await engine.dispose()
    assert found[f"{table}_one_live_turn"] == (True, [conversation])
    assert found[f"{table}_position"] == (True, [conversation, "position"])
    assert found[f"{table}_prompt"] == (True, ["prompt_id"])
    assert found[f"{table}_idempotency"] == (True, [conversation, "idempotency_key"])
    assert ("ix_entries_tenant" in found) == (table == "entries")


@pytest.mark.parametrize("old", [False, True], ids=["uuid", "bigint"])
async def test_two_pending_rows_of_one_conversation_are_impossible(
    old: bool, database_url: str
) -> None:
    engine = engine_for(database_url)
    base: type[DeclarativeBase] = OldBase if old else Base
    conversation: Any = Thread(tenant_id=7) if old else Conversation()
    kind: Any = Entry if old else Message
    own = {"tenant_id": 7, "source": "chat"} if old else {}
    async with engine.begin() as connection:
        await connection.run_sync(base.metadata.create_all)
    async with AsyncSession(engine) as db:
        db.add(conversation)
        await db.flush()
        key = conversation.id
        turn = {"conversation_id": key, "role": "assistant", **own}
        db.add_all([kind(**turn, status="completed"), kind(**turn, status="completed")])
        db.add(kind(**turn, status="pending"))
        await db.commit()
        db.add(kind(**turn, status="pending"))
        with pytest.raises(IntegrityError):
            await db.commit()
        await db.rollback()
        db.add(kind(**turn, status="queued"))
        await db.commit()
    await engine.dispose()


def test_a_class_that_lacks_a_key_is_refused_by_name() -> None:
    class Other(DeclarativeBase):
        pass

    class Talk(ConversationMixin, Other):
        __tablename__ = "talks"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Line(MessageMixin, Other):
        __tablename__ = "lines"
        id: Mapped[int] = mapped_column(primary_key=True)

    with pytest.raises(SchemaError, match="lines lacks conversation_id") as refused:
        Tables(Talk, Line)
    assert refused.value.missing == ["conversation_id"]


def test_the_order_of_base_and_mixin_does_not_matter() -> None:
    class Other(DeclarativeBase):
        pass

    class Talk(Other, ConversationMixin):
        __tablename__ = "talks"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Line(Other, MessageMixin):
        __tablename__ = "lines"
        id: Mapped[int] = mapped_column(primary_key=True)
        conversation_id: Mapped[int]

    class File(Other, ArtifactMixin):
        __tablename__ = "files"
        id: Mapped[int] = mapped_column(primary_key=True)
        message_id: Mapped[int]

    class Wish(Other, AskMixin):
        __tablename__ = "wishes"
        id: Mapped[int] = mapped_column(primary_key=True)
        message_id: Mapped[int]

    Tables(Talk, Line, File, Wish)


def test_every_column_can_be_added_to_a_populated_table() -> None:
    kinds: list[type[DeclarativeBase]] = [Conversation, Message]
    for kind in kinds:
        own = {"id", "conversation_id", "user_id"}
        for column in inspect(kind).columns:
            assert column.key in own or column.nullable or column.server_default is not None


async def test_a_table_with_turns_in_it_gains_the_ledger(database_url: str) -> None:
    engine = engine_for(database_url)
    json = inspect(Message).columns["ledger"].type.compile(engine.dialect)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(sql("ALTER TABLE messages DROP COLUMN ledger"))
    async with engine.begin() as connection:
        conversation = (
            await connection.execute(insert(Conversation).returning(Conversation.id))
        ).scalar_one()
        row = {"id": uuid4(), "conversation_id": conversation, "role": "assistant", "cost": 0.5}
        await connection.execute(insert(Message).values(row))
    async with engine.begin() as connection:
        await connection.execute(sql(f"ALTER TABLE messages ADD COLUMN ledger {json}"))
    async with AsyncSession(engine) as db:
        result = TurnResult.of(await db.get_one(Message, row["id"]))
    await engine.dispose()
    assert (result.cost, result.ledger) == (0.5, ())


@pytest.mark.parametrize(
    ("kind", "text", "key"),
    [
        (Entry, "7", 7),
        (Entry, "-1", -1),
        (Entry, " 7", None),
        (Entry, "07", None),
        (Entry, "7.0", None),
        (Entry, "9" * 30, None),
        (Entry, "x", None),
        (Message, "x", None),
        (Message, "{00000000-0000-0000-0000-000000000000}", None),
    ],
)
def test_a_key_has_one_spelling(kind: Any, text: str, key: int | None) -> None:
    assert parsed_key(kind, text) == key


async def test_statements_with_the_databases_time_are_compiled_once_for_all_offsets(
    database_url: str,
) -> None:
    now, soon, late = (select(database_time(seconds)) for seconds in (0, 2.5, -60))
    keys = [statement._generate_cache_key() for statement in (now, soon, late)]
    assert None not in keys
    assert keys[1] == keys[2]
    assert keys[0] != keys[1]
    engine = engine_for(database_url)
    async with engine.connect() as db:
        times = [(await db.execute(statement)).scalar_one() for statement in (now, soon, late)]
    await engine.dispose()
    apart = [(time - times[0]).total_seconds() for time in times]
    assert apart == [0, pytest.approx(2.5, abs=2), pytest.approx(-60, abs=2)]
