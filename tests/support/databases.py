"""The databases that tests run on, each of them empty."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.fast import FAST
from tests.support.postgres import new_database

DATABASES = ("sqlite",) if FAST else ("sqlite", "postgresql")


@asynccontextmanager
async def empty_database(
    kind: str, request: pytest.FixtureRequest, folder: Path
) -> AsyncIterator[str]:
    """One of a kind, as an SQLAlchemy URL."""
    if kind == "sqlite":
        yield f"sqlite+aiosqlite:///{folder / 'test.db'}"
    else:
        async with new_database(request.getfixturevalue("postgres_url")) as url:
            yield url
