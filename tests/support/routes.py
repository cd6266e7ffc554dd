"""Every route of an agent's router, as its OpenAPI has it, to be asked with somebody's ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import httpx
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

PREFIX = "/agent"
# What a body must have, by its JSON type: enough to pass validation and reach the route.
EXAMPLES: dict[str, Any] = {"string": "SCRIPT:text", "boolean": True, "array": [], "object": {}}
NO_IDS = {"limit"}  # query parameters that name no row


@dataclass(frozen=True)
class Call:
    """One request; ``ids`` are those in it."""

    method: str
    path: str
    body: Any = None
    ids: tuple[str, ...] = ()

    async def made(self, client: httpx.AsyncClient) -> httpx.Response:
        # One that is let in where it should not be may be an endless stream.
        return await client.request(self.method, self.path, json=self.body, timeout=10)


@dataclass(frozen=True)
class Operation:
    """A method of a path, the parameters that name rows, and a body that it takes."""

    method: str
    path: str
    parameters: tuple[str, ...]
    queries: tuple[str, ...]
    body: Any

    @property
    def writes(self) -> bool:
        return self.method != "GET"

    def call(self, ids: Mapping[str, str]) -> Call:
        """With those ids; ``KeyError`` for a parameter that nobody has told us how to fill."""
        filled = {name: ids[name] for name in self.parameters}
        return Call(self.method, self.path.format(**filled), self.body, tuple(filled.values()))

    def calls_across(self, mine: Mapping[str, str], theirs: Mapping[str, str]) -> Iterator[Call]:
        """Each way to ask it with at least one id of somebody else's."""
        owners = product((mine, theirs), repeat=len(self.parameters))
        for each in owners:
            ids = {name: owner[name] for name, owner in zip(self.parameters, each, strict=True)}
            if any(owner is theirs for owner in each):
                yield self.call(ids)
        for query, foreign in product(self.queries, theirs.values()):
            call = self.call(mine)
            yield Call(self.method, f"{call.path}?{query}={foreign}", self.body, (foreign,))


def operations(app: FastAPI, router: APIRouter) -> list[Operation]:
    """All of the router's, which is in the app below ``PREFIX``, hidden ones included."""
    schema = app.openapi()
    found = [
        Operation(
            method.upper(),
            path,
            tuple(p["name"] for p in operation["parameters"] if p["in"] == "path"),
            tuple(
                p["name"]
                for p in operation["parameters"]
                if p["in"] == "query" and p["name"] not in NO_IDS
            ),
            body_of(operation, schema),
        )
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    routes = [route for route in router.routes if isinstance(route, APIRoute)]
    assert len(routes) == len(router.routes)
    declared = {(method, PREFIX + route.path) for route in routes for method in route.methods or ()}
    assert declared == {(o.method, o.path) for o in found}, "a route is not in the schema"
    assert {query for o in found for query in o.queries} == {"before"}, "a parameter is unknown"
    return found


def body_of(operation: Mapping[str, Any], schema: Mapping[str, Any]) -> Any:
    """The least that it takes; ``KeyError`` where it wants more than we know to give."""
    if not operation.get("requestBody", {}).get("required"):
        return None
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    model = schema["components"]["schemas"][reference.rpartition("/")[2]]
    properties = model["properties"]
    # Where a body may be of several shapes, the first one.
    return {name: example(properties[name]) for name in model.get("required") or [*properties][:1]}


def example(schema: Mapping[str, Any]) -> Any:
    """A value that such a field takes."""
    schema = schema.get("anyOf", [schema])[0]
    return schema["enum"][0] if "enum" in schema else EXAMPLES[schema["type"]]
