"""Starts and ends a real ``opencode serve`` on this machine."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import anyio
import httpx

from opencode_async.client.server import Server
from opencode_async.errors import BinaryNotFound, OpencodeConnectionError, OpencodeTimeoutError

logger = logging.getLogger(__name__)

POLL_INTERVAL = 0.05
STOP_TIMEOUT = 3.0  # OpenCode 1.18.33 is gone 0.1 s after SIGTERM, measured
KEPT_LINES = 20
# Its own SDK waits for this line too. 1.18.33 accepts connections 0.3 s before, and never answers
# what it is asked on those, measured.
LISTENING = "opencode server listening on "


class LocalServer:
    """``opencode serve`` on a free port of the loopback interface, for as long as the block lasts.

    ::

        async with LocalServer("workspace", config={"model": "…"}) as server:
            ...

    Inside the block the server answers; after it neither the server nor anything the agent started
    is running. ``config`` is OpenCode's own configuration and wins over the user's files; ``env``
    is added to this process's environment, whose OPENCODE… variables are not inherited. With
    ``home``, all that OpenCode reads and stores of its user is kept below that folder. What the
    server prints goes to this module's logger, at debug level.

    Not bound to an event loop: ``restart()`` may be awaited in another one than ``__aenter__``.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        binary: str | Path = "opencode",
        password: str | None = None,
        config: Mapping[str, object] | None = None,
        env: Mapping[str, str] | None = None,
        home: Path | None = None,
        start_timeout: float = 60.0,
    ) -> None:
        self._binary = str(binary)
        self._directory = Path(directory).resolve()
        self._password = password or secrets.token_urlsafe(24)
        self._start_timeout = start_timeout
        # Every descendant inherits it, so that those in process groups of their own are found.
        self._mark = secrets.token_hex(16)
        self._env = {
            **{name: v for name, v in os.environ.items() if not name.startswith("OPENCODE")},
            **(home_environment(home.resolve()) if home else {}),
            **({"OPENCODE_CONFIG_CONTENT": json.dumps(dict(config))} if config else {}),
            **(env or {}),
            "OPENCODE_SERVER_USERNAME": "opencode",
            "OPENCODE_SERVER_PASSWORD": self._password,
            "OPENCODE_ASYNC_SERVER": self._mark,
        }
        self._port = 0
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._listening = threading.Event()

    @property
    def server(self) -> Server:
        """Where it answers, and its password."""
        url = f"http://127.0.0.1:{self._port}"
        return Server(url, password=self._password, directory=self._directory)

    @property
    def pid(self) -> int | None:
        """The process id of the server; ``None`` when it was ended from here."""
        return self._process.pid if self._process else None

    async def __aenter__(self) -> Server:
        """Start it and wait until it answers.

        Raises ``BinaryNotFound``, ``OpencodeConnectionError`` when it ends by itself, and
        ``OpencodeTimeoutError`` when it does not answer within ``start_timeout`` seconds.
        """
        await self._start()
        return self.server

    async def __aexit__(self, *exc: object) -> None:
        with anyio.CancelScope(shield=True):
            await self._stop()

    async def restart(self) -> None:
        """Start it again on the same port, with the same data, whether it still runs or not."""
        await self._stop()
        await self._start()

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL); what the agent started goes on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def _start(self) -> None:
        executable = shutil.which(self._binary)
        if executable is None:
            raise BinaryNotFound(self._binary)
        self._port = self._port or free_port()
        self._spawn(executable)
        healthy = False
        try:
            with anyio.move_on_after(self._start_timeout) as limit:
                healthy = await self._becomes_healthy()
        finally:
            if not healthy:
                with anyio.CancelScope(shield=True):
                    await self._stop()
        if limit.cancelled_caught:
            seconds = f"{self._start_timeout:g} s"
            raise OpencodeTimeoutError(self._told(f"did not answer within {seconds}"))
        if not healthy:
            raise OpencodeConnectionError(self._told("ended before it answered"))

    def _spawn(self, executable: str) -> None:
        # `--port 0` is no help: 1.18.33 then tries 4096 first, where another server may be
        # expected.
        command = [
            os.path.abspath(executable),
            "serve",
            "--hostname",
            "127.0.0.1",
            "--port",
            str(self._port),
        ]
        self._process = subprocess.Popen(  # noqa: S603 - the host names the executable
            [*command, "--print-logs"],
            cwd=self._directory,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._last_lines.clear()
        self._listening.clear()
        self._reader = threading.Thread(
            target=self._drain, args=[self._process.stdout], name="opencode-output", daemon=True
        )
        self._reader.start()

    def _drain(self, output: IO[str]) -> None:
        """Read for ever: a server that finds the pipe full stands still."""
        with output:
            for line in output:
                self._last_lines.append(line.rstrip())
                logger.debug("%s", line.rstrip())
                if line.startswith(LISTENING):
                    self._listening.set()

    async def _becomes_healthy(self) -> bool:
        server = self.server
        credentials = httpx.BasicAuth(server.username, self._password)
        async with httpx.AsyncClient(auth=credentials, trust_env=False, timeout=5) as client:
            while self._process is not None and self._process.poll() is None:
                if self._listening.is_set():
                    with suppress(httpx.TransportError):
                        if (await client.get(f"{server.url}/global/health")).status_code == 200:
                            return True
                await anyio.sleep(POLL_INTERVAL)
        return False

    def _told(self, what: str) -> str:
        lines = "\n".join(self._last_lines) or "(nothing)"
        return f"`{self._binary} serve` {what}; the last it printed:\n{lines}"

    async def _stop(self) -> None:
        """End the server and all that it started, politely first."""
        if not await self._end(signal.SIGTERM):
            await self._end(signal.SIGKILL)
        if self._reader is not None:
            await anyio.to_thread.run_sync(self._reader.join, STOP_TIMEOUT)
        self._process = self._reader = None

    async def _end(self, number: signal.Signals) -> bool:
        """Signal each process that is left, once; true when none is left in time."""
        told: set[int] = set()
        with anyio.move_on_after(STOP_TIMEOUT):
            while left := self._left():
                for pid in left - told:
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
                told |= left
                await anyio.sleep(POLL_INTERVAL)
            return True
        return False

    def _left(self) -> set[int]:
        """The bash tool's commands are sessions of their own: no signal to a group reaches them."""
        left = marked_processes(self._mark.encode())
        if self._process is not None and self._process.poll() is None:
            left.add(self._process.pid)
        return left


def home_environment(home: Path) -> dict[str, str]:
    """The variables that keep all OpenCode stores for its user below ``home``."""
    kinds = ("DATA", "CONFIG", "STATE", "CACHE")
    return {"HOME": str(home), **{f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in kinds}}


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def marked_processes(mark: bytes) -> set[int]:
    """The live processes with ``mark`` in their environment; none where there is no /proc."""
    found = set()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it ended meanwhile, or belongs to another user
            if mark in environment.read_bytes():
                found.add(int(environment.parent.name))
    return found
