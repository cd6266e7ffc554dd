"""The wheel, as the README has it installed: with nothing else there the quickstart runs."""

from __future__ import annotations

import os
import re
import subprocess
import venv
from pathlib import Path

import pytest

from tests.support.parts import REPOSITORY, skip_without
from tests.support.readme import DATABASE, PYTHON, command

RUN = """
import asyncio
import json
from pathlib import Path

from opencode_async import PartDelta
from opencode_async.testing import Impostor, live

import app as module


async def main() -> None:
    folder = Path.cwd() / "workspace"
    folder.mkdir()
    async with Impostor(folder) as impostor:
        impostor.on("folder").text("Two files.")
        module.agent.server = impostor.server
        async with live(module.app, prefix="/agent") as client:
            message = await client.post(await client.conversation(), "What is in this folder?")
            finished = await client.finished(message)
    print(json.dumps([finished["status"], finished["content"]]))


asyncio.run(main())
"""


def run(command: str, cwd: Path, env: Path) -> str:
    """What a command prints that is typed with the environment active."""
    path = f"{env / 'bin'}{os.pathsep}{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        ["sh", "-c", command],  # noqa: S607
        cwd=cwd,
        env=variables,
        capture_output=True,
        text=True,
    )
    if command.startswith("pip") and re.search("No matching distribution|Connection", done.stderr):
        skip_without("a package registry", "the network, or a mirror")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(400)
def test_what_the_readme_installs_in_an_empty_environment_runs_and_checks_the_quickstart(
    tmp_path: Path,
) -> None:
    env = tmp_path / "env"
    venv.create(env, with_pip=True)
    # From a clone: pip builds the wheel, which is all that the environment then has of it.
    run(command("pip install"), REPOSITORY, env)
    run("pip install mypy", tmp_path, env)
    app = tmp_path / "app"
    app.mkdir()
    assert DATABASE in PYTHON["quickstart"]
    url = f"sqlite+aiosqlite:///{app}/app.db"
    (app / "app.py").write_text(PYTHON["quickstart"].replace(DATABASE, url))
    (app / "run.py").write_text(RUN)
    assert run("python run.py", app, env) == '["completed", "Two files."]\n'
    assert "Success" in run("mypy --strict --no-incremental app.py run.py", app, env)
