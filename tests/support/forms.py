"""Forms as browsers and others send them, and an app that receives them."""

# No postponed annotations: FastAPI resolves those of nested functions from the module's names.
import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse

from opencode_async.web.multipart import Sniff, UploadLimits, received
from opencode_async.web.problems import ProblemRoute
from tests.support.serving import serving

BOUNDARY = b"a-boundary"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}
PNG = b"\x89PNG\r\n\x1a\n"
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
HTML = b"<!doctype html><script>alert(1)</script>"
EXE = b"MZ\x90\x00"
SMALL = UploadLimits(
    max_files=2,
    max_bytes=1000,
    max_total=1500,
    max_text=10,
    content_types=("image/*", "text/plain"),
)


def sniff(head: bytes) -> str:
    assert len(head) <= 8192
    kinds = {
        b"\x89PNG": "image/png",
        b"MZ": "application/x-msdownload",
        b"<svg": "image/svg+xml",
        b"<!doctype html": "text/html",
    }
    return next((kind for magic, kind in kinds.items() if head.startswith(magic)), "text/plain")


def part(disposition: str | bytes, data: bytes = b"", *headers: bytes) -> bytes:
    raw = disposition if isinstance(disposition, bytes) else disposition.encode()
    lines = [b"Content-Disposition: form-data; " + raw, *headers, b"", data]
    return b"--" + BOUNDARY + b"\r\n" + b"\r\n".join(lines) + b"\r\n"


def text(value: bytes, name: str = "text") -> bytes:
    return part(f'name="{name}"', value)


def file(data: bytes, name: str = "a.png") -> bytes:
    return part(f'name="files"; filename="{name}"', data, b"Content-Type: image/png")


END = b"--" + BOUNDARY + b"--\r\n"


class Uploads:
    """An app that takes uploads, and a client of it."""

    def __init__(self, client: httpx.AsyncClient, left: asyncio.Event) -> None:
        self.client = client
        self.left = left  # set when a request has left the block

    async def post(self, content: Any, headers: dict[str, str] = FORM) -> httpx.Response:
        return await self.client.post("/uploads", content=content, headers=headers)

    @asynccontextmanager
    async def posting(
        self, sent: bytes, *headers: str
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A request as far as it is sent here: the connection stays open."""
        url = self.client.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        lines = ["POST /uploads HTTP/1.1", "Host: localhost", *headers]
        lines += [f"{name}: {value}" for name, value in FORM.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + sent)
        try:
            await writer.drain()
            yield reader, writer
        finally:
            writer.close()


@asynccontextmanager
async def uploads(limits: UploadLimits = SMALL, sniffed: Sniff = sniff) -> AsyncIterator[Uploads]:
    app, left = FastAPI(), asyncio.Event()
    router = APIRouter(route_class=ProblemRoute)

    @router.post("/uploads")
    async def upload(request: Request) -> JSONResponse:
        try:
            async with received(request, limits, sniffed) as got:
                files = [
                    {
                        "filename": file.filename,
                        "size": file.size,
                        "content_type": file.content_type,
                        "hashed": file.sha256 == await anyio.to_thread.run_sync(sha256, file.path),
                        "mode": oct(file.path.stat().st_mode & 0o777),
                        "folder": oct(file.path.parent.stat().st_mode & 0o777),
                        "path": str(file.path),
                    }
                    for file in got.files
                ]
                return JSONResponse({"fields": got.fields, "files": files})
        finally:
            left.set()

    app.include_router(router)
    async with serving(app) as client:
        yield Uploads(client, left)


def sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def left_in(root: Path) -> list[str]:
    return [path.name for path in root.iterdir()]
