"""The example of a host's suite passes, with the fixtures as they are in this tree."""

from __future__ import annotations

from pathlib import Path

from tests.support.examples import environment, run_program

PLUGIN = "opencode_async.testing.pytest_plugin"


async def test_it_passes(opencode_binary: Path, tmp_path: Path) -> None:
    said = await run_program(
        *("-m", "pytest", "-p", PLUGIN, "--basetemp", str(tmp_path / "temp")),
        "examples/testing_your_app.py",
        env=environment(OPENCODE_BINARY=str(opencode_binary)),
    )
    assert "4 passed" in said
