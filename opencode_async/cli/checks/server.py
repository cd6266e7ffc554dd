"""The OpenCode server: there, of a version that was tested, and its events arrive."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator

from opencode_async.cli.checks.clocks import check_clock
from opencode_async.cli.checks.finding import Finding
from opencode_async.client.client import OpencodeClient
from opencode_async.client.server import TESTED_VERSIONS, Server
from opencode_async.errors import (
    AuthenticationError,
    OpencodeConnectionError,
    OpencodeError,
    UnprotectedServer,
)
from opencode_async.protocol.wire import mapping, number

DELIVERY = 10.0  # s an event may take: the first use of a directory takes seconds
IN_ORDER = (1, 18)  # the first version that does not go by the times in ids
# s: an older server makes its answer's id as soon as that behind a prompt's, or a little later.
SKEW_OF_IDS = 0.02


async def check_server(server: Server) -> AsyncIterator[Finding]:
    """Connect as the agent would; nothing is left behind. Never raises what the client raises."""
    try:
        async with OpencodeClient(server) as client:
            async for finding in _findings(client):
                yield finding
    except UnprotectedServer as error:
        yield Finding("error", f"{server.url} has no password", str(error))
    except AuthenticationError:
        remedy = "give Server(password=…) what the server has as OPENCODE_SERVER_PASSWORD"
        yield Finding("error", f"{server.url} refuses the password", remedy)
    except OpencodeConnectionError as error:
        remedy = "start it with `opencode serve`, and look at the agent's URL"
        yield Finding("error", f"no answer: {error}", remedy)
    except OpencodeError as error:
        yield Finding("error", f"{server.url}: {error}", "look at the server's log")


async def _findings(client: OpencodeClient) -> AsyncIterator[Finding]:
    server = client.server
    version = await client.version()
    if version in TESTED_VERSIONS:
        yield Finding("ok", f"OpenCode {version} answers at {server.url}")
    else:
        tested = ", ".join(TESTED_VERSIONS)
        yield Finding(
            "warning",
            f"OpenCode {version} was not tested with this version of the library",
            f"tested are {tested}; run your own tests against it, or use one of these",
        )
    if not server.password:
        yield Finding(
            "warning",
            "the server has no password: whoever reaches it can have its agent run commands",
            "start it with OPENCODE_SERVER_PASSWORD",
        )
    yield Finding("ok", f"it works in {(await client.paths()).directory}")
    for finding in await _with_a_session(client, version):
        yield finding


async def _with_a_session(client: OpencodeClient, version: str) -> list[Finding]:
    """What is seen when one is made; it is deleted again."""
    async with client.http.events("/event") as frames:
        await anext(frames)  # which says that the stream stands
        before = time.time()
        session_id = await client.create_session(title="opencode-async doctor")
        after = time.time()
        try:
            path = f"/session/{session_id}"
            created = await client.http.read(_created, "GET", path)
            return [_clock(created, before, after, version), await _delivery(frames, session_id)]
        finally:
            await client.delete_session(session_id)


def _created(session: object) -> float:
    return number(mapping(mapping(session).get("time")), "created") / 1000


def _clock(created: float, before: float, after: float, version: str) -> Finding:
    """What is known of the server's clock by the time of what it made between these two."""
    most = created + 0.001 - before  # it tells whole milliseconds
    ahead = max(created - after, min(most, 0.0))
    found = re.match(r"(\d+)\.(\d+)\.", version)
    if found is None or (int(found[1]), int(found[2])) >= IN_ORDER:
        return check_clock(ahead, "which files a turn made is told by their time")
    why = (
        "before OpenCode 1.18 prompts and answers are told apart by the times in their ids, which "
        "both machines make: one that is out of order is answered again and again, or not at all"
    )
    return check_clock(ahead, why, within=SKEW_OF_IDS)


async def _delivery(frames: AsyncIterator[str], session_id: str) -> Finding:
    """Whether what happens is told: some versions and proxies let only heartbeats through."""
    try:
        async with asyncio.timeout(DELIVERY):
            async for frame in frames:
                if session_id in frame:
                    return Finding("ok", "its event stream delivers")
    except TimeoutError:
        pass
    return Finding(
        "error",
        f"its event stream delivered nothing within {DELIVERY:.0f} s",
        "a proxy in between must not buffer GET /event; else try a tested version of OpenCode",
    )
