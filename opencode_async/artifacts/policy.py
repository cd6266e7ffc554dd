"""What becomes of the files that turns produce."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from opencode_async.artifacts.sandbox import Sandbox
from opencode_async.artifacts.stores.store import ArtifactStore
from opencode_async.artifacts.transform import Transform, Trust
from opencode_async.protocol.paths import checked_key

MOST_ENTRIES = 10_000  # that are looked at in a sandbox, files of earlier turns among them


@dataclass(frozen=True)
class ArtifactPolicy:
    """Where the files of turns are kept, and which of them.

    ``store`` keeps their bytes. ``max_files`` are kept of a message and ``max_bytes`` of a file;
    what is beyond is reported. ``default_attach`` keeps ``all`` files of a turn, or ``none`` but
    what ``transforms`` render. ``secret`` signs those: the same in every process, and kept; without
    one there can be no transforms. A turn waits ``within`` seconds for its files at most.
    ``inline_images`` is how large an image may be, in bytes, that the model is shown when a person
    sends it, and not only told of (0: none is); those of more than 2000 pixels a side are not.
    One that is damaged has its turn refused.
    ``directory`` is the OpenCode server's directory as this process sees it, where that is at
    another path here than there; ``root`` is how the server calls it, which ``Opencode`` knows.
    """

    store: ArtifactStore
    max_files: int = 100
    max_bytes: int = 100_000_000
    default_attach: Literal["all", "none"] = "all"
    transforms: Sequence[Transform] = ()
    secret: str | None = field(default=None, repr=False)
    within: float = 120.0
    inline_images: int = 0
    directory: Path | None = None
    root: str | None = None

    def __post_init__(self) -> None:
        if self.transforms and not self.secret:
            raise ValueError("transforms need a secret, which signs what they render")

    def sandbox(self, directory: str, key: str) -> Sandbox | None:
        """A conversation's sandbox, where it should be on this machine.

        ``directory`` is its server's, a tenant's, say; ``None`` for one that is not below ``root``.
        """
        here = Path(directory)
        if self.directory is not None:
            below, root = PurePosixPath(directory), PurePosixPath(self.root or directory)
            if not below.is_relative_to(root):
                return None
            here = self.directory / below.relative_to(root)
        root_of_it = here / "sandbox" / checked_key(key)
        return Sandbox(root_of_it, max_bytes=self.max_bytes, max_files=MOST_ENTRIES)


def sandbox_here(policy: ArtifactPolicy | None, directory: str, key: str) -> Sandbox | None:
    """``ArtifactPolicy.sandbox``, or where it is without a policy: at the same path as there."""
    if policy is not None:
        return policy.sandbox(directory, key)
    return Sandbox(Path(directory) / "sandbox" / checked_key(key), max_bytes=0)


def trust_of(policy: ArtifactPolicy | None) -> Trust:
    """Tells what the policy's transforms rendered; without a policy, nothing is trusted."""
    return Trust(None if policy is None else policy.secret)
