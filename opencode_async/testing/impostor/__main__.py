"""``python -m opencode_async.testing.impostor --port 0`` serves until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from opencode_async.testing.impostor import Impostor, RealClock


async def serve(directory: Path, port: int) -> None:
    """Serve on the loopback interface and print where.

    The password is that of OPENCODE_SERVER_PASSWORD, else one is made up and printed.
    """
    from opencode_async.testing.impostor.serving import serving

    password = os.environ.get("OPENCODE_SERVER_PASSWORD") or None
    async with AsyncExitStack() as stack:
        impostor = Impostor(directory, password=password, clock=RealClock())
        await stack.enter_async_context(impostor)
        try:
            server = await stack.enter_async_context(serving(impostor, port))
        except (OSError, OverflowError) as error:
            sys.exit(f"port {port} cannot be had: {error}")
        print(server.url, flush=True)  # noqa: T201 - how a caller learns the port
        if password is None:
            print(f"OPENCODE_SERVER_PASSWORD={server.password}", flush=True)  # noqa: T201
        await asyncio.Event().wait()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="A deterministic OpenCode server for tests.")
    parser.add_argument("--port", type=int, default=0, help="0 (the default) for a free port")
    parser.add_argument(
        "--directory", type=Path, default=Path(), help="where its agent works (default: here)"
    )
    options = parser.parse_args()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve(options.directory, options.port))
    except ModuleNotFoundError as missing:
        if missing.name != "uvicorn":
            raise
        sys.exit("to serve on a port it needs uvicorn: pip install uvicorn")


if __name__ == "__main__":
    main()
