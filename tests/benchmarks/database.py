"""What a turn writes to its database and costs in CPU time, by the size of its reply."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import event

from opencode_async import Timings
from tests.benchmarks.host_app import complain
from tests.benchmarks.upstream import Load
from tests.support.hosts import host

# Ten times faster than a server that gives all it has, in deltas of 20 characters, to one turn; so
# rows are written ten times as often, too.
PER_SECOND, SIZE = 10_000, 100
TIMINGS = Timings(snapshot=Timings().snapshot / 10)


async def written(database: str, upstream: str, characters: int) -> dict[str, float]:
    """The statements of one turn, the bytes of their parameters, and the seconds of CPU time."""
    statements = size = 0

    def count(_: Any, __: Any, statement: str, parameters: Any, *more: Any) -> None:
        nonlocal statements, size
        statements += 1
        size += sum(len(value.encode()) for value in parameters if isinstance(value, str))

    load = Load(max(1, characters // SIZE), SIZE, per_second=PER_SECOND)
    async with host(database, upstream, timings=TIMINGS, error_reporter=complain) as app:
        cid = await app.conversation()
        event.listen(app.engine.sync_engine, "before_cursor_execute", count)
        began = time.process_time()
        message = await app.agent.turns.start(cid, str(load))
        result = await app.agent.turns.run(message.id)
        cpu = time.process_time() - began
    if len(result.content) != load.deltas * SIZE:
        raise ValueError(f"{len(result.content)} characters of {load}")
    return {"statements": statements, "bytes": size, "cpu": cpu}
