"""Fixtures for the tests of hosts: ``impostor`` and ``opencode_server``.

pytest finds them by itself. It imports its plugins in every run of whoever has them installed, so
what it finds is a copy of this file beside the package (``_opencode_async_pytest``): to import the
package takes a second, and would come before a measurement of coverage begins. So nothing of the
package is imported here before a fixture is used. The fixtures are not asynchronous: they are the
same under pytest-asyncio, in either mode, under anyio's plugin, and in tests that await nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from opencode_async.testing import Impostor, ScriptedServer


@pytest.fixture
def impostor(tmp_path_factory: pytest.TempPathFactory) -> Impostor:
    """An ``Impostor`` with a folder of its own, for the test to enter: ``async with impostor``.

    What its agent does may be told before that.
    """
    from opencode_async.testing import Impostor

    return Impostor(tmp_path_factory.mktemp("impostor"))


@pytest.fixture(scope="session")
def opencode_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedServer]:
    """A real OpenCode server with the scripted model, one for all tests that ask for it.

    The executable is the one that OPENCODE_BINARY names, else the ``opencode`` on the PATH; where
    there is none the tests are skipped, and say so. It runs in a thread and needs no event loop of
    a test. It is ready in 3 to 4 s, takes 600 MB, and its first turn takes seconds.
    """
    wanted = os.environ.get("OPENCODE_BINARY") or "opencode"
    binary = shutil.which(wanted)
    if binary is None:
        pytest.skip(
            f"opencode_server: {wanted} is not an executable here. Install OpenCode with "
            f"`npm install -g opencode-ai`, or name it with OPENCODE_BINARY"
        )
    from anyio.from_thread import start_blocking_portal

    from opencode_async.testing import scripted_server

    running = scripted_server(tmp_path_factory.mktemp("opencode"), binary=binary)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(running) as server:
        yield server
