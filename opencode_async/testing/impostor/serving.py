"""An Impostor on a port, for other processes and other event loops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import uvicorn

from opencode_async.client.server import Server
from opencode_async.testing.impostor.impostor import Impostor

GRACE = 1  # s for answers that are still sent when it ends


class Quiet(uvicorn.Server):
    """Leaves the signals to who runs it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(impostor: Impostor, port: int = 0) -> AsyncIterator[Server]:
    """Serve it on the loopback interface while the block lasts; port 0 is a free one.

    The Impostor is entered before, and left behind it. Raises ``OSError`` for a port that is taken.
    """
    # Named as TCP, or asyncio leaves half of each answer waiting 40 ms for an acknowledgement.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(100)
        config = uvicorn.Config(
            impostor.app,
            lifespan="off",
            # A connection that a fault breaks is none of its errors.
            log_level="critical",
            timeout_graceful_shutdown=GRACE,
        )
        server = Quiet(config)
        # In no task group, which would put an error of the block into an ExceptionGroup.
        serve = asyncio.create_task(server.serve([listening]), name="impostor's port")
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            yield replace(impostor.server, url=url, transport=None)
        finally:
            await impostor.crash()  # ends the streams, which would keep it from ending
            server.should_exit = True
            await serve
