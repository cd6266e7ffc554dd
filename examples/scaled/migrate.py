"""Makes the tables of an empty database: ``python -m examples.scaled.migrate``.

An app has migrations instead, its own (Alembic) and Procrastinate's.
"""

import asyncio

from examples.chat.models import Base
from examples.scaled.wiring import engine, queue


async def migrate() -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()
    async with queue.open_async():
        await queue.schema_manager.apply_schema_async()


if __name__ == "__main__":
    asyncio.run(migrate())
