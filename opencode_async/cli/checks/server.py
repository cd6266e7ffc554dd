"""The OpenCode server: there, of a version that was tested, and its events arrive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime

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

DELIVERY = 10.0  # s an event may take: the first use of a directory takes seconds


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
    yield _skew(await client.http.request("GET", "/global/health"))
    yield Finding("ok", f"it works in {(await client.paths()).directory}")
    yield await _delivery(client)


def _skew(answer: object) -> Finding:
    date = getattr(answer, "headers", {}).get("date")
    off = time.time() - parsedate_to_datetime(date).timestamp() if date else 0.0
    return check_clock(off, "which files a turn made is told by their time")


async def _delivery(client: OpencodeClient) -> Finding:
    """Whether what happens is told: some versions and proxies let only heartbeats through."""
    async with client.http.events("/event") as frames:
        await anext(frames)  # which says that the stream stands
        session_id = await client.create_session(title="opencode-async doctor")
        try:
            async with asyncio.timeout(DELIVERY):
                async for frame in frames:
                    if session_id in frame:
                        return Finding("ok", "its event stream delivers")
        except TimeoutError:
            pass
        finally:
            await client.delete_session(session_id)
    return Finding(
        "error",
        f"its event stream delivered nothing within {DELIVERY:.0f} s",
        "a proxy in between must not buffer GET /event; else try a tested version of OpenCode",
    )
