"""An app with the library in it, as one deploys it, for the benchmarks that are about servers.

``python -m tests.benchmarks.host_app <database> <upstream> <broker> [follows]``
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from opencode_async import Access, Timings
from opencode_async.observability.error_reporter import Severity
from opencode_async.web.followers import FollowerLimits
from tests.benchmarks.processes import serve
from tests.support.brokers import Job, broker_of
from tests.support.hosts import Host, host, nowhere

NO_LIMITS = FollowerLimits(process=10**6, conversation=10**6, caller=10**6)


def anybody() -> Access:
    return Access(True)  # type: ignore[arg-type]


def complain(error: BaseException, *, severity: Severity, context: dict[str, str]) -> None:
    print(severity, type(error).__name__, error, context, file=sys.stderr)


class HostApp(FastAPI):
    """The app; ``running`` is what it runs once it has started.

    One that only ``follows`` runs no turns.
    """

    def __init__(
        self, database: str, upstream: str, broker: Job = None, *, follows: bool = False
    ) -> None:
        super().__init__(lifespan=self._running)
        self.running: Host[Any, Any] | None = None
        self._database = database
        self._upstream = upstream
        self._broker = broker
        self._options: dict[str, Any] = {"dispatch": nowhere} if follows else {}

    @asynccontextmanager
    async def _running(self, app: FastAPI) -> AsyncIterator[None]:
        async with (
            broker_of(self._broker) as broker,
            host(
                self._database,
                self._upstream,
                broker=broker,
                timings=Timings(),
                error_reporter=complain,
                **self._options,
            ) as self.running,
        ):
            router = self.running.agent.router(access=anybody, followers=NO_LIMITS)
            self.include_router(router, prefix="/agent")
            yield


if __name__ == "__main__":
    database, upstream, broker, *more = sys.argv[1:]
    serve(HostApp(database, upstream, json.loads(broker), follows=bool(more)), {})
