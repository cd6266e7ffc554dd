"""Where an OpenCode server is and how one signs in."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path, PureWindowsPath
from typing import Self
from urllib.parse import urlsplit

import httpx

from opencode_async.errors import OutsideRoot, UnprotectedServer

TESTED_VERSIONS = ("1.18.33",)  # of OpenCode, by the whole suite; others are not refused


@dataclass(frozen=True)
class Server:
    """An OpenCode server: its base URL, its HTTP Basic credentials and the directory it works in.

    ``directory`` is a path on the server's machine; ``None`` means the one it was started in. One
    directory is one trust domain: the conversations in it can read each other's files. A server
    without a password is refused when it is first used, unless it is on this machine's loopback
    interface or ``unprotected`` says that only the host's own processes reach it: whoever does can
    have its agent run commands. ``transport`` carries the requests in place of sockets, for tests:
    it is lent, so whoever made it closes it.
    """

    url: str
    username: str = "opencode"
    password: str | None = field(default=None, repr=False)
    directory: str | Path | None = None
    unprotected: bool = field(default=False, kw_only=True)
    transport: httpx.AsyncBaseTransport | None = field(
        default=None, repr=False, compare=False, kw_only=True
    )

    def __post_init__(self) -> None:
        # Before anything else, for the other refusal quotes it. OpenCode takes credentials in a
        # query, too: `?auth_token=`.
        if any(mark in self.url for mark in "@?#"):
            raise ValueError(
                "a server's URL has no query, and no credentials, which would end up in logs: give "
                "username= and password="
            )
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"a server's URL is http://host:port, not {self.url!r}")

    @classmethod
    def from_env(cls) -> Server:
        """The server that OPENCODE_BASE_URL, …_SERVER_USERNAME and …_SERVER_PASSWORD name.

        Raises ``KeyError`` when OPENCODE_BASE_URL is not set.
        """
        return cls(
            os.environ["OPENCODE_BASE_URL"],
            os.environ.get("OPENCODE_SERVER_USERNAME") or "opencode",
            os.environ.get("OPENCODE_SERVER_PASSWORD") or None,
        )

    def below(self, name: str) -> Self:
        """The same server in the folder of that name in its directory, such as ``str(tenant.id)``.

        The name may be anybody's. The folder is the host's to make, and before its first turn: used
        while it is absent, OpenCode answers nothing there until it is restarted (1.18.33,
        measured). Raises ``ValueError`` for a name that is not that of one folder (empty, ``..``,
        one with a separator, …) and for a server without a ``directory``.
        """
        if self.directory is None:
            raise ValueError("a server without a directory has no folder below it")
        # As Windows reads it, too: there a backslash separates, and dots at the end are nothing.
        plain = PureWindowsPath(name).name == name and name.isprintable()
        if not plain or not name.strip(" ."):
            raise ValueError(f"{name!r} is not the name of one folder")
        return replace(self, directory=Path(self.directory) / name)

    def check_protected(self) -> None:
        """Raise ``UnprotectedServer`` where others may reach it and need no password."""
        if not (self.password or self.unprotected or on_loopback(self.url)):
            raise UnprotectedServer(self.url)

    def check_inside(self, root: Server) -> None:
        """Raise ``OutsideRoot`` unless its directory is that of ``root``, if it has one, or below.

        Judged by where the paths lead, as far as they exist on this machine.
        """
        if root.directory is None or self.directory == root.directory:
            return
        inner, outer = Path(self.directory or ""), Path(root.directory)
        # A relative one is relative to where the server was started, which only the server knows.
        absolute = inner.is_absolute() and outer.is_absolute()
        if not absolute or not inner.resolve().is_relative_to(outer.resolve()):
            raise OutsideRoot(self.directory, root.directory)


def as_server(server: str | Server) -> Server:
    """The server, which may be said by its URL alone."""
    return Server(server) if isinstance(server, str) else server


def on_loopback(url: str) -> bool:
    """Whether its host is ``localhost`` or an address of the loopback interface.

    Any other name is not: what it means is the network's to say.
    """
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
