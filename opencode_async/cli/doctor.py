"""All checks of one agent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from opencode_async.cli.checks.database import check_database
from opencode_async.cli.checks.finding import Finding
from opencode_async.cli.checks.routes import check_routes
from opencode_async.cli.checks.server import check_server
from opencode_async.cli.checks.store import check_store
from opencode_async.opencode import Opencode


async def examined(agent: Opencode[Any, Any]) -> AsyncIterator[tuple[str, Finding]]:
    """Each finding, and of which part of the deployment it is."""
    async for finding in check_server(agent.server):
        yield "server", finding
    async for finding in check_database(agent.sessionmaker, agent.tables):
        yield "database", finding
    if agent.artifacts is not None:
        async for finding in check_store(agent.artifacts.store):
            yield "files", finding
    for finding in check_routes(agent.routers):
        yield "routes", finding
