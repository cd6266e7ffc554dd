"""How Alembic reaches the help desk's database, which DATABASE_URL names."""

import asyncio
import os

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from examples.existing_tables.models import Base


def run(connection: Connection) -> None:
    # SQLite can neither add a column with a default that is computed nor drop one that is indexed:
    # there, in batches, Alembic copies the table. That drops the old one, and with it, if foreign
    # keys were enforced, all that refers to it; so no PRAGMA foreign_keys on this connection.
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def migrate() -> None:
    engine = create_async_engine(os.environ["DATABASE_URL"], poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(run)


asyncio.run(migrate())
