"""SQLite without a thread: for tests of thousands of turns, of which the threads are a third."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator
from typing import Any

import aiosqlite


class InlineConnection(aiosqlite.Connection):
    """Does at once, in the event loop's own thread, what aiosqlite hands to one of its own.

    For an engine that has only one: two that wait for each other's locks would wait for ever.
    """

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    async def _connect(self) -> aiosqlite.Connection:
        self._connection = self._connector()
        return self

    def __await__(self) -> Generator[Any, None, aiosqlite.Connection]:
        return self._connect().__await__()

    def stop(self) -> None:
        """There is nothing to stop."""


def inline_connection(database: str, **options: Any) -> InlineConnection:
    """An ``async_creator_fn`` for SQLAlchemy's ``connect_args``."""
    return InlineConnection(lambda: sqlite3.connect(database, **options), iter_chunk_size=64)
