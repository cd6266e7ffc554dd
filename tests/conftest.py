"""The real parts that the tests run against; what a machine lacks is skipped by name."""

from __future__ import annotations

import os
import shutil
from asyncio import AbstractEventLoop
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from opencode_async.testing import ScriptedServer, scripted_server
from tests.support.databases import DATABASES, empty_database
from tests.support.fast import FAST, new_event_loop
from tests.support.impostor import own_impostor, standing_impostor
from tests.support.parts import opencode_executable, skip_without
from tests.support.postgres import new_database, postgres_server
from tests.support.valkey import ValkeyServer, valkey_server

OwnServer = Callable[[Path], AbstractAsyncContextManager[ScriptedServer]]


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No test leaves anything in the folder that all of them are run in."""
    before = set(os.listdir())
    yield
    left = set(os.listdir()) - before
    assert {name for name in left if not name.startswith(".")} == set()


@pytest.fixture(scope="session")
def opencode_binary() -> Path:
    """The OpenCode executable."""
    return opencode_executable() or skip_without("OpenCode", "`make .node`")


@pytest.fixture(scope="session")
def opencode(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ScriptedServer]:
    """One real server for all tests, with the first turn's delays behind it.

    With OPENCODE=impostor an Impostor takes its place.
    """
    folder = tmp_path_factory.mktemp("opencode")
    if stands_in():
        with standing_impostor(folder) as server:
            yield server
    else:
        with warm_server(folder, request.getfixturevalue("opencode_binary")) as server:
            yield server


@pytest.fixture
def own_opencode(request: pytest.FixtureRequest) -> OwnServer:
    """Starts a server in a folder, for a test that kills it."""
    if stands_in():
        return own_impostor
    return partial(scripted_server, binary=request.getfixturevalue("opencode_binary"))


def stands_in() -> bool:
    """Whether the Impostor takes the real server's place."""
    return FAST or os.environ.get("OPENCODE") == "impostor"


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], AbstractEventLoop]]:
    """What the event loops of tests and of their fixtures are made by."""
    return {"loop": new_event_loop}


@pytest.fixture(scope="module")
def other_opencode(
    opencode_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ScriptedServer]:
    """Another server, with data of its own; it takes 600 MB, so a module has it while it runs."""
    with warm_server(tmp_path_factory.mktemp("other"), opencode_binary) as server:
        yield server


@contextmanager
def warm_server(folder: Path, binary: Path) -> Iterator[ScriptedServer]:
    """A server that needs no event loop while it runs, so it may be restarted from a test's own."""
    running = scripted_server(folder, binary=binary)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(running) as server:
        warm_up(server)
        yield server


def warm_up(server: ScriptedServer) -> None:
    """Run one turn and forget it: the first one takes seconds, the later ones do not."""
    credentials = httpx.BasicAuth(server.username, server.password or "")
    with httpx.Client(base_url=server.url, auth=credentials, trust_env=False, timeout=50) as client:
        session = client.post("/session", json={"title": "warm-up"}).raise_for_status().json()
        prompt = {"parts": [{"type": "text", "text": "SCRIPT:text Warm."}]}
        client.post(f"/session/{session['id']}/message", json=prompt).raise_for_status()
        client.delete(f"/session/{session['id']}").raise_for_status()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A database server, as an SQLAlchemy URL; tests take ``database_url`` instead."""
    with postgres_server() as url:
        yield url


@pytest.fixture(params=DATABASES)
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """An empty database of each kind, as an SQLAlchemy URL."""
    async with empty_database(request.param, request, tmp_path) as url:
        yield url


@pytest.fixture
async def postgres_database(postgres_url: str) -> AsyncIterator[str]:
    """An empty database of PostgreSQL's, for tests that are about something else."""
    async with new_database(postgres_url) as url:
        yield url


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """A server for all tests; one that stops it starts its own."""
    with valkey_server() as server:
        yield server


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The Chromium executable, for Playwright's ``executable_path``."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    return Path(found) if found else skip_without("Chromium", "`apt-get install chromium`")
