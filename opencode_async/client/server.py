"""Where an OpenCode server is and how one signs in."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Server:
    """An OpenCode server: its base URL, its HTTP Basic credentials and the directory it works in.

    ``directory`` is a path on the server's machine; ``None`` means the one it was started in. One
    directory is one trust domain: the conversations in it can read each other's files.
    """

    url: str
    username: str = "opencode"
    password: str | None = field(default=None, repr=False)
    directory: str | Path | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"a server's URL is http://host:port, not {self.url!r}")
        if parts.username is not None:
            raise ValueError("credentials in the URL end up in logs: give username= and password=")

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
