"""An Impostor in the test's own event loop, and the library's client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from opencode_async import OpencodeClient
from opencode_async.testing import Impostor


@pytest.fixture
async def impostor(tmp_path: Path) -> AsyncIterator[Impostor]:
    async with Impostor(tmp_path) as impostor:
        yield impostor


@pytest.fixture
async def client(impostor: Impostor) -> AsyncIterator[OpencodeClient]:
    async with OpencodeClient(impostor.server) as client:
        yield client
