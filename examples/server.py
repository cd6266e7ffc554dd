"""The OpenCode server that the examples talk to."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from opencode_async import Server
from opencode_async.testing import Impostor, scripted_server
from opencode_async.testing.impostor import RealClock
from opencode_async.testing.impostor.serving import serving

BINARY = ".node/node_modules/.bin/opencode"  # where `make demo` installs it


@asynccontextmanager
async def a_server(folder: Path) -> AsyncIterator[Server]:
    """The one that OPENCODE_BASE_URL names; else one of our own, whose model is a script.

    Nothing to sign in to, nothing leaves the machine; its files are in ``folder``. Where OpenCode
    is not installed, which takes npm, an ``Impostor`` stands in for it.
    """
    if os.environ.get("OPENCODE_BASE_URL"):
        yield Server.from_env()
    elif shutil.which(BINARY):
        async with scripted_server(folder, binary=BINARY) as server:
            yield server
    else:
        workspace = folder / "workspace"
        workspace.mkdir(parents=True, exist_ok=True)
        async with Impostor(workspace, clock=RealClock()) as impostor, serving(impostor) as server:
            yield server
