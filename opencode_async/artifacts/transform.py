"""What a host makes of the files that an agent wrote, and who may be trusted with a name."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

from opencode_async.artifacts.artifact import Artifact
from opencode_async.models import ArtifactMixin


class Transform:
    """The host's rendering of a file of the agent's: override ``render``, and what else differs.

    ``report.md`` becomes ``report.html``, say. The rendered file is the host's, so it is trusted
    and may be shown in the page; nothing that the agent itself writes ever gets the name
    ``destination_filename``. Names are compared without regard to case.
    """

    source_filename: str
    destination_filename: str

    def applies_to(self, file: Artifact) -> bool:
        """Whether this is a file to render; those named ``source_filename`` are."""
        return file.filename.casefold() == self.source_filename.casefold()

    async def render(self, file: Artifact) -> Artifact:
        """The file to keep beside it, with its ``content_type``; its path is given by the library.

        What is read of ``file`` is untrusted. An error is reported, and nothing is kept.
        """
        raise NotImplementedError

    def owns(self, filename: str) -> bool:
        """Whether only this transform may make a file of that name."""
        return filename.casefold() == self.destination_filename.casefold()


@dataclass(frozen=True, slots=True)
class Trust:
    """Tells the host's own artifacts by a signature in their rows, keyed with its ``secret``."""

    secret: str | None = field(default=None, repr=False)

    def sign(self, row: ArtifactMixin) -> str | None:
        """The signature of a row that says what it is; ``None`` without a secret."""
        if self.secret is None:
            return None
        said = [str(row.message_id), row.path, row.content_type, row.sha256]
        message = "\0".join(value or "" for value in said)
        return hmac.new(self.secret.encode(), message.encode(), hashlib.sha256).hexdigest()

    def holds(self, row: ArtifactMixin) -> bool:
        """Whether the row is one that this host has signed, unchanged since."""
        signature = self.sign(row)
        return signature is not None and hmac.compare_digest(row.signature or "", signature)


NOBODY = Trust()
