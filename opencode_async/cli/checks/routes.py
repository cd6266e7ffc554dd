"""The host's dependencies under ``access``: which of them hold something for a whole request."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator

from fastapi import APIRouter
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from opencode_async.cli.checks.finding import Finding


def check_routes(routers: Iterable[APIRouter]) -> Iterator[Finding]:
    """Warn of each dependency that yields and stays open behind the answer, as FastAPI has it."""
    routers = list(routers)
    if not routers:
        remedy = "name the agent by a module whose import makes its router, to have that looked at"
        yield Finding("warning", "no router of this agent is made there", remedy)
        return
    pinned = {
        call: dependant
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute)
        for dependant in _below(route.dependant)
        if (call := dependant.call) is not None and _stays_open(dependant)
    }
    for call in pinned:
        name = getattr(call, "__qualname__", repr(call))
        yield Finding(
            "warning",
            f"{name} stays open for a whole request: if it holds a database connection, each "
            f"request takes two, and a pool of ten serves five at once",
            f'Depends({name}, scope="function"), or `async with sessions() as db` inside',
        )
    if not pinned:
        yield Finding("ok", "no dependency of the routes stays open for a whole request")


def _below(dependant: Dependant) -> Iterator[Dependant]:
    for each in dependant.dependencies:
        yield each
        yield from _below(each)


def _stays_open(dependant: Dependant) -> bool:
    call = inspect.unwrap(dependant.call) if dependant.call else None
    call = call if inspect.isroutine(call) else getattr(call, "__call__", None)  # noqa: B004
    yields = inspect.isasyncgenfunction(call) or inspect.isgeneratorfunction(call)
    return yields and dependant.scope != "function"
