"""The direction of imports is a test, not a convention."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "opencode_async"

PURE = {"errors", "protocol"}
ROWS = {"models", "database", "database_time"}
LAYERS: dict[str, set[str]] = {  # layer -> which others of ours it may import
    "errors": set(),
    "protocol": {"errors"},
    "observability": {"errors"},
    "timings": set(),
    "timed_event": set(),
    "client": PURE | {"observability", "timed_event", "timings"},
    "database_time": set(),
    "models": PURE | {"database_time"},
    "database": {"errors", "models", "observability", "protocol"},
    "settings": {"artifacts", "models", "protocol"},
    "session": PURE | ROWS | {"client", "observability", "settings"},
    "brokers": {"database_time", "observability", "timed_event"},
    "artifacts": PURE | ROWS | {"observability"},
    "tables": {"database", "errors", "models"},
    "turns": PURE
    | ROWS
    | {"artifacts", "brokers", "client", "observability", "session", "settings", "tables"}
    | {"timings"},
    "web": PURE
    | {"artifacts", "brokers", "database", "models", "observability", "tables", "timings", "turns"},
    "opencode": PURE
    | ROWS
    | {"artifacts", "brokers", "client", "observability", "session", "settings", "tables"}
    | {"timings", "turns", "web"},
    "cli": PURE | ROWS | {"artifacts", "client", "opencode", "tables"},
    "testing": {"artifacts", "brokers", "client", "errors", "protocol"},
}
TECHNOLOGY = {  # third party -> the only places that may import it
    "aioboto3": {"artifacts"},
    "aiobotocore": {"artifacts"},
    "aiohttp": {"artifacts"},
    "botocore": {"artifacts"},
    "puremagic": {"artifacts"},
    "imagesize": {"artifacts"},
    "anyio": {"artifacts", "client", "testing", "web"},
    "httpx": {"client", "testing"},
    "httpx_sse": {"client", "testing"},
    "sqlalchemy": {*ROWS, "artifacts", "session", "tables", "turns", "web", "opencode", "cli"}
    | {"brokers/postgres.py"},
    "asyncpg": set(),
    "redis": {"brokers/redis.py"},
    "fastapi": {"web", "opencode", "cli"},
    "typer": {"cli"},
    "rich": {"cli"},
    "starlette": {"testing", "web"},
    "sse_starlette": {"web"},
    "pydantic": {"web"},
    "python_multipart": {"web"},
    "opentelemetry": {"observability/otel.py"},
}
IMPURE = {"asyncio", "logging", "os", "random", "socket", "time", "datetime", "threading"}


def imported_names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: absolute imports only"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def violations() -> list[str]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        where = path.relative_to(PACKAGE).as_posix()
        layer = where.partition("/")[0].removesuffix(".py")
        if layer == "__init__":
            continue
        allowed = LAYERS[layer] | {layer}  # a KeyError here is a module without a layer
        for name in sorted(imported_names(path)):
            root, _, rest = name.partition(".")
            ours = root == "opencode_async" and rest.partition(".")[0] not in allowed
            theirs = root in TECHNOLOGY and not {layer, where} & TECHNOLOGY[root]
            impure = layer == "protocol" and root in IMPURE
            if (ours or theirs or impure) and not type_checking_only(path, name):
                found.append(f"{where} imports {name}")
    return found


def type_checking_only(path: Path, name: str) -> bool:
    """The type of what the routes are given is the one cycle, and exists for mypy alone."""
    routes = ("router.py", "artifact_routes.py")
    return path.name in routes and name == "opencode_async.opencode.Opencode"


def test_every_module_imports_only_what_its_layer_may() -> None:
    assert violations() == []


def test_the_rules_would_notice() -> None:
    assert "sqlalchemy.select" in imported_names(PACKAGE / "turns" / "turns.py")
    assert "json" in imported_names(PACKAGE / "protocol" / "wire.py")
