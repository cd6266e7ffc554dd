"""A real Valkey for the tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from examples.scaled.parts import valkey
from examples.scaled.parts.valkey import ValkeyServer as ValkeyServer
from tests.support.parts import skipped_where_missing


@contextmanager
def valkey_server() -> Iterator[ValkeyServer]:
    """A server that runs (20 ms) and is removed at the end."""
    with skipped_where_missing(), valkey.valkey_server() as server:
        yield server
