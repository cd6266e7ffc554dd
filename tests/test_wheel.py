"""The wheel, as somebody installs it who has nothing else: the quickstart runs and type-checks."""

from __future__ import annotations

import re
import subprocess
import venv
from pathlib import Path

import pytest

from tests.support.parts import REPOSITORY, skip_without

QUICKSTART = re.search(
    r"<!-- quickstart -->\n```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL
)

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


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(400)
def test_a_wheel_in_an_empty_environment_runs_and_checks_the_quickstart(tmp_path: Path) -> None:
    assert QUICKSTART is not None
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check")
    built = subprocess.run(
        [*map(str, pip), "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(REPOSITORY)],
        capture_output=True,
        text=True,
    )
    if "No matching distribution" in built.stderr or "Connection" in built.stderr:
        skip_without("a package registry", "the network, or a mirror")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("opencode_async-*.whl")
    run(*pip, "install", f"{wheel}[sqlite]", "mypy", cwd=tmp_path)
    app = tmp_path / "app"
    app.mkdir()
    code = QUICKSTART[1].replace(
        "postgresql+asyncpg://localhost/app", f"sqlite+aiosqlite:///{app}/app.db"
    )
    (app / "app.py").write_text(code)
    (app / "run.py").write_text(RUN)
    assert run(python, "run.py", cwd=app) == '["completed", "Two files."]\n'
    checked = run(python, "-m", "mypy", "--strict", "--no-incremental", "app.py", "run.py", cwd=app)
    assert "Success" in checked
