"""An app of a host's, as a module that the command line is given."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from opencode_async import Server
from tests.support.parts import REPOSITORY

MODULE = """
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from opencode_async import Access, ArtifactPolicy, DirectoryArtifactStore, Opencode, Server, Tables
from tests.support.hosts import QUICK, Ask, Conversation, File, Message, engine_for

engine = engine_for({database!r})
sessions = async_sessionmaker(engine)
agent = Opencode(
    Server({url!r}, password={password!r}, directory={directory!r}),
    sessions,
    Tables(Conversation, Message, File, Ask),
    artifacts=ArtifactPolicy(DirectoryArtifactStore(Path(__file__).parent / "files")),
    timings=QUICK,
)


async def get_db() -> AsyncIterator[AsyncSession]:
    async with sessions() as db:
        yield db


def mine(db: Annotated[AsyncSession, Depends(get_db{scope})]) -> Access:
    return Access(Conversation.user_id == 1)


agent.router(access=mine)
"""


@dataclass(frozen=True)
class App:
    """A folder with ``host.py`` in it."""

    folder: Path

    @classmethod
    def written(cls, folder: Path, database: str, server: Server, *, scope: str = "") -> App:
        """``scope`` is what its database dependency says besides its name."""
        folder.mkdir(exist_ok=True)
        module = MODULE.format(
            database=database,
            url=server.url,
            password=server.password,
            directory=server.directory and str(server.directory),
            scope=scope,
        )
        (folder / "host.py").write_text(module)
        return cls(folder)

    async def command(self, *arguments: str) -> tuple[int, str]:
        """The command's exit code, and what it printed."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "opencode_async.cli", *arguments),
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "80", "TERM": "dumb"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        printed, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, printed.decode()
