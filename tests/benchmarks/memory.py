"""What a follower takes who has nothing to hear."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.fanout import following, saying

PEERS = ("opencode_async", "sse-starlette", "limit")
FIRST = 100  # followers, whose coming costs what is paid once


async def idle(peer: str, folder: Path, followers: int) -> dict[str, float]:
    """The kilobytes of resident memory for each of so many."""
    async with saying(peer, folder) as (server, path):
        first = min(FIRST, followers)
        async with following(server.url, path, first):
            before = (await server.ask("usage"))["memory"]
            async with following(server.url, path, followers):
                after = (await server.ask("usage"))["memory"]
    return {"kb": (after - before) / followers / 1000}
