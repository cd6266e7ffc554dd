"""The chat on this machine: ``python -m examples.chat.demo``, or ``make demo``.

Without OPENCODE_BASE_URL it starts an OpenCode server whose model is a script: nothing to sign in
to, nothing leaves the machine. PORT (8000) and DATABASE_URL are read as well.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from examples.chat.app import create_app
from examples.server import a_server
from opencode_async import OpencodeError, Server
from opencode_async.testing import ScriptedServer

SCRIPTS = ("slow", "reasoning", "bash", "todo", "write", "question")
SUGGESTIONS = [f"SCRIPT:{name}" for name in SCRIPTS]


class Demo(uvicorn.Server):
    """Uvicorn, but it says where it is once it is up, and takes Ctrl-C for a wish, not an error."""

    def __init__(self, server: Server, banner: str, suggestions: list[str]) -> None:
        self.banner = banner
        app = create_app(server, suggestions=suggestions)
        super().__init__(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self.banner, flush=True)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


async def main() -> None:
    port = int(os.environ.get("PORT") or 8000)
    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError:
        sys.exit(f"Port {port} is in use. Choose another one: PORT={port + 1} make demo")
    with listening:
        here = f"http://127.0.0.1:{port}"
        async with a_server(Path(".demo")) as server:
            if os.environ.get("OPENCODE_BASE_URL"):
                await Demo(server, f"Chat with {server.url} on {here}", []).serve([listening])
                return
            real = isinstance(server, ScriptedServer)
            stands_in = "a stand-in for OpenCode, which takes npm"
            whose = f"an OpenCode server of its own ({server.url})" if real else stands_in
            banner = (
                f"Chat and {whose} on {here}\n"
                f"The model is a scripted stand-in. Try: {', '.join(SUGGESTIONS)}\n"
                "Your own model: npm install -g opencode-ai; opencode auth login; "
                "OPENCODE_SERVER_PASSWORD=… opencode serve; "
                "OPENCODE_BASE_URL=http://127.0.0.1:4096 OPENCODE_SERVER_PASSWORD=… make demo"
            )
            await Demo(server, banner, SUGGESTIONS).serve([listening])


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass  # while OpenCode was still starting
    except OpencodeError as error:
        sys.exit(str(error))
