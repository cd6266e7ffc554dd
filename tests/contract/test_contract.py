"""One suite for both: what is done to a real OpenCode is done to an Impostor, and told the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from opencode_async.client.server import Server
from opencode_async.testing import Impostor, ScriptedServer
from opencode_async.testing.impostor import RealClock
from tests.contract.normal import normal
from tests.contract.scenarios import SCENARIOS
from tests.contract.witness import witness


async def told_by(server: Server, name: str) -> list[str]:
    async with witness(server) as found:
        await SCENARIOS[name](found)
    return normal(found)


@pytest.fixture(scope="module")
def real(opencode: ScriptedServer) -> Server:
    """The real server, in a folder that no other tests use: each new one costs it 40 MB."""
    folder = Path(str(opencode.directory)) / "contract"
    folder.mkdir()
    return replace(opencode, directory=folder)


@pytest.mark.parametrize("name", SCENARIOS)
async def test_the_impostor_tells_what_the_real_one_does(
    name: str, real: Server, tmp_path: Path
) -> None:
    theirs = await told_by(real, name)
    async with Impostor(tmp_path, clock=RealClock()) as impostor:
        ours = await told_by(impostor.server, name)
    assert ours == theirs
