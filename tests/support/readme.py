"""The README's blocks of code, and the app of its quickstart."""

from __future__ import annotations

import re
from typing import Any

from opencode_async import Server
from tests.support.hosts import engine_for
from tests.support.parts import REPOSITORY

README = (REPOSITORY / "README.md").read_text("utf-8")
PYTHON = dict(re.findall(r"<!-- (\w+) -->\n```python\n(.*?)```", README, re.DOTALL))
SERVER = '"http://localhost:4096"'
DATABASE = "postgresql+asyncpg://localhost/app"
ENGINE = f'create_async_engine("{DATABASE}")'


def blocks() -> list[tuple[str, str]]:
    """Language and text of each, in order; what is fenced without a language is no code."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """What the blocks for a terminal have typed, without the comments."""
    lines = [
        line for language, text in blocks() if language == "console" for line in text.split("\n")
    ]
    typed = [line for line in lines if line]
    assert all(line.startswith("$ ") for line in typed), typed
    return [line.removeprefix("$ ").partition(" #")[0].rstrip() for line in typed]


def command(start: str) -> str:
    """The one command that starts so."""
    (found,) = (each for each in commands() if each.startswith(start))
    return found


def quickstart(url: str, server: Server) -> dict[str, Any]:
    """The names of the quickstart, on that database and server."""
    code = PYTHON["quickstart"]
    assert SERVER in code
    assert ENGINE in code
    names: dict[str, Any] = {"__name__": "quickstart", "server": server, "engine": engine_for(url)}
    code = code.replace(SERVER, "server").replace(ENGINE, "engine")
    exec(compile(code, "README", "exec", dont_inherit=True), names)  # noqa: S102
    return names


async def create_tables(names: dict[str, Any]) -> None:
    """Create the tables of the names that ``quickstart`` gave."""
    async with names["engine"].begin() as connection:
        await connection.run_sync(names["Base"].metadata.create_all)
