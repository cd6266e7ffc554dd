"""Handing out the bytes of an artifact, so that a browser takes them for data and nothing else."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from opencode_async.artifacts.filenames import content_disposition
from opencode_async.artifacts.stores.store import ArtifactStore
from opencode_async.errors import ArtifactStoreError
from opencode_async.models import ArtifactMixin
from opencode_async.observability.error_reporter import ErrorReporter
from opencode_async.web.problems import translated

OCTETS = "application/octet-stream"
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")  # one; of several, all is sent (RFC 9110, 14.2)
# Whatever the type: no script runs, no type is guessed, nothing is fetched.
HARMLESS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
    "Accept-Ranges": "bytes",
}


async def download(
    row: ArtifactMixin,
    store: ArtifactStore,
    request: Request,
    report: ErrorReporter,
    *,
    trusted: bool,
) -> Response:
    """The artifact's bytes, or a redirection to where they are.

    As an attachment, but for a ``trusted`` one, which is shown. One range is heeded, and
    ``If-None-Match``. Raises ``ArtifactStoreError``.
    """
    filename, content_type = row.filename or "file", row.content_type or OCTETS
    key, size = row.key or "", row.size or 0
    if not trusted:
        url = await store.url(key, filename=filename, content_type=content_type)
        if url is not None:
            return RedirectResponse(url, 307, {"Cache-Control": "no-store"})
    tag = f'"{row.sha256}"'
    headers = {**HARMLESS, "ETag": tag}
    known = request.headers.get("if-none-match", "")
    if known.strip() == "*" or tag in known:
        return Response(status_code=304, headers=headers)
    headers["Content-Type"] = content_type
    headers["Content-Disposition"] = content_disposition(filename, inline=trusted)
    wanted = request.headers.get("range")
    if request.headers.get("if-range", tag) != tag:
        wanted = None
    part = None if wanted is None else range_of(wanted, size)
    if part is None:
        return StoredResponse(store, key, 0, size, 200, headers, report)
    start, end = part
    if start >= end:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return StoredResponse(store, key, start, end, 206, headers, report)


def range_of(header: str, size: int) -> tuple[int, int] | None:
    """The range asked for, its end exclusive; ``None`` for one that is to be ignored.

    One that cannot be satisfied is empty.
    """
    match = RANGE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    start, end = int(first), size if not last else min(size, int(last) + 1)
    return None if last and int(last) < start else (start, end)


class StoredResponse(Response):
    """Streams a part of an object; nothing is sent before the store has it."""

    def __init__(
        self,
        store: ArtifactStore,
        key: str,
        start: int,
        end: int,
        status: int,
        headers: dict[str, str],
        report: ErrorReporter,
    ) -> None:
        super().__init__(status_code=status, headers=headers)
        self.headers["content-length"] = str(end - start)
        self._store = store
        self._key = key
        self._start, self._end = start, end
        self._report = report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False
        try:
            async with self._store.open(self._key, self._start, self._end) as chunks:
                start = {"status": self.status_code, "headers": self.raw_headers}
                await send({"type": "http.response.start", **start})
                begun = True
                async for chunk in chunks:
                    more = {"body": chunk, "more_body": True}
                    await send({"type": "http.response.body", **more})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ArtifactStoreError as error:
            self._report(error, severity="error", context={"during": "download"})
            if begun:
                raise  # the connection is cut: the client sees that it has not got all of it
            await translated(error)(scope, receive, send)
