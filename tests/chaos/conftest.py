"""PostgreSQL alone: what is broken here is not the database, and several processes use it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.postgres import new_database


@pytest.fixture
async def database_url(postgres_url: str) -> AsyncIterator[str]:
    """An empty database."""
    async with new_database(postgres_url) as url:
        yield url
