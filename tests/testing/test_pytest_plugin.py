"""The fixtures in the suite of a host, run as one is: under pytest-asyncio and under anyio."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.support.parts import REPOSITORY

PLUGIN = REPOSITORY / "opencode_async" / "testing" / "pytest_plugin.py"
ENTRY_POINT = "_opencode_async_pytest"
HEAVY = ("opencode_async", "sqlalchemy", "fastapi", "starlette", "pydantic", "httpx", "anyio")
BOTH = (
    *("-p", "pytest_asyncio.plugin", "-o", "asyncio_mode=strict"),
    *("-o", "asyncio_default_fixture_loop_scope=function", "-p", "anyio"),
)
SUITE = """
import pytest
from examples.chat.app import create_app
from opencode_async.testing import live


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def app(opencode_server, tmp_path):
    return create_app(opencode_server, f"sqlite+aiosqlite:///{tmp_path}/app.db")


@pytest.mark.asyncio
async def test_under_pytest_asyncio(app):
    await a_turn(app)


@pytest.mark.anyio
async def test_under_anyio(app):
    await a_turn(app)


@pytest.mark.asyncio
async def test_an_impostor_under_pytest_asyncio(impostor, tmp_path):
    await as_told(impostor, tmp_path)


@pytest.mark.anyio
async def test_an_impostor_under_anyio(impostor, tmp_path):
    await as_told(impostor, tmp_path)


async def as_told(impostor, tmp_path):
    impostor.on("hello").text("Hello there.")
    async with impostor:
        await a_turn(create_app(impostor.server, f"sqlite+aiosqlite:///{tmp_path}/app.db"), "hello")


async def a_turn(app, text="SCRIPT:text Hello there."):
    async with live(app, headers={"Cookie": "visitor=ann"}) as client:
        message = await client.post(await client.conversation(), text)
        assert (await client.finished(message))["content"] == "Hello there."


def test_it_is_one_for_all_tests(opencode_server):
    said = [request for request in opencode_server.model.requests if request.script.name == "text"]
    assert len(said) == 2
"""


def run_suite(folder: Path, source: str, *options: str, **env: str) -> str:
    """What pytest says of a suite with that module, which has all its tests passed or skipped.

    It has the plugin as an installation has it, and else what the options name, whatever is here.
    """
    (folder / "test_host.py").write_text(source)
    (folder / f"{ENTRY_POINT}.py").write_text(PLUGIN.read_text())
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-rs", "-W", "error", "--tb=short"),
            *("-p", ENTRY_POINT, *options),
            *("--rootdir", str(folder), "--basetemp", str(folder / "temp"), str(folder)),
        ],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            **env,
        },
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_both_fixtures_serve_the_tests_of_two_plugins(
    opencode_binary: Path, tmp_path: Path
) -> None:
    said = run_suite(tmp_path, SUITE, *BOTH, OPENCODE_BINARY=str(opencode_binary))
    assert "5 passed" in said


def test_without_the_executable_they_are_skipped_by_name(tmp_path: Path) -> None:
    source = "def test_a_turn(opencode_server): raise AssertionError\n"
    said = run_suite(tmp_path, source, OPENCODE_BINARY=str(tmp_path / "opencode"))
    assert "1 skipped" in said
    assert "npm install -g opencode-ai" in " ".join(said.split())
    assert f"opencode_server: {tmp_path / 'opencode'}" in " ".join(said.split())


def test_who_uses_no_fixture_imports_nothing_of_the_library(tmp_path: Path) -> None:
    """As the entry point has it: a module of its own, for the package imports all of itself."""
    (tmp_path / f"{ENTRY_POINT}.py").write_text(PLUGIN.read_text())
    program = f"""
import sys
import pytest
before = set(sys.modules)
import {ENTRY_POINT}
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    imported = {name.partition(".")[0] for name in done.stdout.split()}
    assert ENTRY_POINT in imported
    assert not imported & set(HEAVY)


def test_the_entry_point_is_the_copy_beside_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["pytest11"] == {"opencode_async": ENTRY_POINT}
    copies = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert copies == {str(PLUGIN.relative_to(REPOSITORY)): f"{ENTRY_POINT}.py"}
