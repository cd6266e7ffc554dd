"""The agent that a command is about: from ``module:attribute``, to the end of its connections."""

from __future__ import annotations

import importlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import reduce
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from opencode_async.database import engine_of
from opencode_async.errors import SharedConnection, UsageError
from opencode_async.opencode import Opencode


def agent_of(app: str) -> Opencode[Any, Any]:
    """The ``Opencode`` of that name, importing from the current folder, too.

    Raises ``UsageError``; what the module raises passes.
    """
    module, _, attribute = app.partition(":")
    if not module or not attribute:
        raise UsageError(f"--app is module:attribute, as in app.main:agent, not {app!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise UsageError(
            f"there is no module {module!r} here: run this in your app's folder"
        ) from None
    try:
        found = reduce(getattr, attribute.split("."), imported)
    except AttributeError:
        raise UsageError(f"{module} has no {attribute!r}") from None
    if not isinstance(found, Opencode):
        kind = type(found).__name__
        raise UsageError(f"{app} is a {kind}, not an Opencode: name the agent, not the app")
    return found


@asynccontextmanager
async def without_connections(agent: Opencode[Any, Any]) -> AsyncIterator[None]:
    """Behind the block the database has no connection of the agent's.

    A pool keeps them, and with SQLAlchemy before 2.0.46 those of aiosqlite 0.22 the process, too.
    """
    try:
        yield
    finally:
        with suppress(SharedConnection):  # which no agent runs on
            async with agent.sessions() as db:
                engine = engine_of(db, agent.tables.message)
            await AsyncEngine(engine).dispose()
