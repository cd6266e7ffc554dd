"""Uploads hold to their limits while they arrive."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from opencode_async.web.multipart import UploadLimits
from tests.support.forms import (
    BOUNDARY,
    END,
    EXE,
    HTML,
    PNG,
    SVG,
    file,
    left_in,
    part,
    sniff,
    text,
    uploads,
)
from tests.web.test_bad_requests import assert_problem


@pytest.mark.parametrize("files_first", [False, True])
async def test_texts_and_files_in_any_order(root: Path, *, files_first: bool) -> None:
    texts = [text("grüß".encode()), text(b"enqueue", "on_busy"), text(b"build", "agent")]
    files = [file(PNG + b"x" * 20), file(b"plain", "b.txt")]
    async with uploads() as app:
        parts = [*files, *texts] if files_first else [*texts, *files]
        answer = await app.post(b"".join([*parts, END]))
        assert answer.status_code == 200, answer.text
        got = answer.json()
        assert got["fields"] == {"text": "grüß", "on_busy": "enqueue", "agent": "build"}
        first, second = got["files"]
        assert (first["filename"], first["size"], first["content_type"]) == (
            "a.png",
            28,
            "image/png",
        )
        assert (second["filename"], second["size"], second["content_type"]) == (
            "b.txt",
            5,
            "text/plain",
        )
        for received_file in got["files"]:
            assert received_file["hashed"]
            assert (received_file["mode"], received_file["folder"]) == ("0o600", "0o700")
            assert Path(received_file["path"]).is_relative_to(root)
        assert left_in(root) == []


async def test_httpx_and_its_boundary_are_understood(root: Path) -> None:
    async with uploads() as app:
        answer = await app.client.post(
            "/uploads",
            data={"text": "hi", "model": "a/b"},
            files=[("files", ('q"\n✓.png', PNG, "text/html")), ("files", ("b", b"", None))],
        )
        got = answer.json()
        assert got["fields"] == {"text": "hi", "model": "a/b"}
        assert [(f["filename"], f["size"], f["content_type"]) for f in got["files"]] == [
            ("q%22%0A✓.png", 8, "image/png"),
            ("b", 0, "text/plain"),
        ]
        assert left_in(root) == []


@pytest.mark.parametrize("size", [1, 7, 64, 8191, 8192, 8193])
async def test_it_does_not_matter_how_a_body_is_cut(root: Path, size: int) -> None:
    # Beginnings of boundaries, which a parser must hold back until it knows.
    tricky = (b"\r\n--" + BOUNDARY[:-1] + b"\r\n--" + BOUNDARY + b"-\r\r\n\n") * 10
    body = text(b"hi") + file(PNG + tricky) + file(b"") + END

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), size):
            yield body[at : at + size]

    async with uploads() as app:
        answer = await app.post(pieces())
        assert answer.status_code == 200, answer.text
        first, second = answer.json()["files"]
        assert (first["size"], first["hashed"]) == (len(PNG + tricky), True)
        assert (second["size"], second["hashed"]) == (0, True)


@pytest.mark.parametrize(
    "body",
    [
        END,
        text(b"") + END,
        text(b"hi") + file(b"", "") + END,
        b"\r\n" + text(b"x" * 10) + END + b"\r\nwhat follows means nothing",
        file(b"x" * 1000) + file(b"x" * 500) + END,
        text("😀".encode() * 10) + END,
    ],
    ids=["nothing", "no text", "an unused input", "preamble, epilogue", "the limits", "emoji"],
)
async def test_what_is_just_within_the_limits_is_taken(root: Path, body: bytes) -> None:
    async with uploads() as app:
        answer = await app.post(body)
        assert answer.status_code == 200, answer.text
        assert left_in(root) == []


NAMES: dict[str, tuple[str, str]] = {
    "escaped quotes": (r'filename="a\"b.png"', 'a"b.png'),
    "browser's quotes and newlines": ('filename="a%22b%0D%0A.png"', "a%22b%0D%0A.png"),
    "semicolon": ('filename="a; name=text.png"', "a; name=text.png"),
    "above": ('filename="../../etc/passwd"', "../../etc/passwd"),
    "absolute": ('filename="/etc/passwd"', "/etc/passwd"),
    "backslashes": (r'filename="..\..\x.png"', r"..\..\x.png"),
    "dots": ('filename=".."', ".."),
    "unicode": ('filename="naïve ✓ 😀 \u202egnp.exe"', "naïve ✓ 😀 \u202egnp.exe"),
    "no quotes": ("filename=a.png", "a.png"),
    "long": (f'filename="{"ä" * 255}"', "ä" * 255),
    "RFC 5987 besides": (r"""filename="a.png"; filename*=UTF-8''b.exe""", "a.png"),
}


@pytest.mark.parametrize("kind", NAMES)
async def test_names_are_only_words(root: Path, kind: str) -> None:
    sent, filename = NAMES[kind]
    async with uploads() as app:
        answer = await app.post(part(f'name="files"; {sent}', PNG) + END)
        assert answer.status_code == 200, answer.text
        (got,) = answer.json()["files"]
        assert got["filename"] == filename
        assert Path(got["path"]).name == "1"
        assert Path(got["path"]).parent.parent == root
        assert left_in(root) == []


LONG = b"x" * 9000
MANY_HEADERS = part('name="text"', b"hi", *[b"X%d: " % n for n in range(5000)])
INVALID, LARGE = "invalid-request", "too-large"
TYPE, MANY = "unsupported-media-type", "too-many-files"
BAD: dict[str, tuple[bytes, int, str]] = {
    "a byte too many in a file": (file(b"x" * 1001) + END, 413, LARGE),
    "a byte too many in all": (file(b"x" * 1000) + file(b"x" * 501) + END, 413, LARGE),
    "a file too many": (file(PNG) * 3 + END, 422, MANY),
    "many unused inputs": (file(b"", "") * 50 + END, 422, MANY),
    "a program": (file(EXE) + END, 415, TYPE),
    "a program, large": (file(EXE + b"x" * 900) + END, 415, TYPE),
    "SVG": (file(SVG) + END, 415, TYPE),
    "HTML": (file(HTML) + END, 415, TYPE),
    "a good file and a bad one": (file(PNG) + file(HTML) + END, 415, TYPE),
    "no last boundary": (text(b"hi") + file(PNG), 422, INVALID),
    "half a boundary": (text(b"hi") + file(PNG) + END[:-5], 422, INVALID),
    "half the headers": (file(PNG) + text(b"hi")[:30], 422, INVALID),
    "no body": (b"", 422, INVALID),
    "another boundary": (b"--other\r\n\r\n--other--\r\n", 422, INVALID),
    "JSON": (b'{"text": "hi"}', 422, INVALID),
    "an endless preamble": (b"\r\n" * 70_000 + text(b"hi") + END, 422, INVALID),
    "an endless epilogue": (text(b"hi") + END + b"x" * 300_000, 413, LARGE),
    "a long header": (part('name="text"', b"hi", b"X: " + LONG) + END, 422, INVALID),
    "a long header name": (part('name="text"', b"hi", LONG + b": x") + END, 422, INVALID),
    "a long name": (part(b'name="' + LONG + b'"') + END, 422, INVALID),
    "many headers": (
        part('name="text"', b"hi", *[b"X%d: " % n for n in range(5000)]),
        422,
        INVALID,
    ),
    "headers twice": (part('name="text"', b"hi", b"X: 1", b"x: 2") + END, 422, INVALID),
    "no header": (b"--" + BOUNDARY + b"\r\n\r\nhi\r\n" + END, 422, INVALID),
    "an attachment": (text(b"hi").replace(b"form-data", b"attachment") + END, 422, INVALID),
    "no name": (part('filename="a.png"', PNG) + END, 422, INVALID),
    "another name": (text(b"hi", "system") + END, 422, INVALID),
    "a name in capitals": (text(b"hi", "Text") + END, 422, INVALID),
    "a name that is not UTF-8": (part(b'name="\xff"', b"hi") + END, 422, INVALID),
    "another file": (part('name="file"; filename="a.png"', PNG) + END, 422, INVALID),
    "the text twice": (text(b"hi") + text(b"ho") + END, 422, INVALID),
    "an empty text twice": (text(b"") + text(b"") + END, 422, INVALID),
    "a text that is not UTF-8": (text(b"\xff\xfe") + END, 422, INVALID),
    "half a character": (text("ä".encode()[:1]) + END, 422, INVALID),
    "a surrogate": (text(b"\xed\xa0\x80") + END, 422, INVALID),
    "a long text": (text(b"x" * 11) + END, 422, INVALID),
    "a very long text": (text(b"x" * 100_000) + END, 422, INVALID),
    "a long model": (text(b"x" * 11, "model") + END, 422, INVALID),
    "a text as a file": (part('name="text"; filename="a.txt"', b"hi") + END, 422, INVALID),
    "a file without a name": (part('name="files"', PNG) + END, 422, INVALID),
    "a file with an empty name": (file(PNG, "") + END, 422, INVALID),
    "a filename that is not UTF-8": (
        part(b'name="files"; filename="\xff.png"', PNG) + END,
        422,
        INVALID,
    ),
    "only an RFC 5987 filename, which RFC 7578 forbids": (
        part(r"""name="files"; filename*=UTF-8''a.png""", PNG) + END,
        422,
        INVALID,
    ),
    "a line feed in a filename": (file(PNG, "a\nb.png") + END, 422, INVALID),
    "a line end in a filename": (file(PNG, "a\r\nb.png") + END, 422, INVALID),
    "a NUL in a filename": (file(PNG, "a\0b.png") + END, 422, INVALID),
    "base64": (
        part('name="text"', b"aGk=", b"Content-Transfer-Encoding: base64") + END,
        422,
        INVALID,
    ),
}


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_upload_is_a_problem_and_leaves_nothing(root: Path, kind: str) -> None:
    body, status, slug = BAD[kind]
    async with uploads() as app:
        answer = await app.post(body)
        assert_problem(answer, status)
        assert answer.json()["type"] == f"urn:opencode-async:{slug}"
        assert left_in(root) == []
        # The connection is of use to the next request.
        assert (await app.post(text(b"hi") + END)).status_code == 200


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("multipart/form-data", 422),
        ("multipart/form-data; boundary=", 422),
        ('multipart/form-data; boundary=""', 422),
        (f"multipart/form-data; boundary={'x' * 71}", 422),
        ("multipart/mixed; boundary=a-boundary", 415),
        ("application/x-www-form-urlencoded", 415),
        ("", 415),
    ],
)
async def test_a_body_that_says_it_is_something_else(
    root: Path, content_type: str, status: int
) -> None:
    async with uploads() as app:
        answer = await app.post(text(b"hi") + END, {"Content-Type": content_type})
        assert_problem(answer, status)


async def test_a_limit_is_named(root: Path) -> None:
    async with uploads() as app:
        answer = await app.post(file(PNG) + file(b"x" * 1001) + END)
        assert answer.json()["detail"] == "file 2 is larger than 1000 bytes"
        answer = await app.post(file(b"x" * 1000) + file(b"x" * 501) + END)
        assert answer.json()["detail"] == "the upload is larger than 1500 bytes"
        answer = await app.post(file(PNG) * 3 + END)
        assert answer.json()["detail"] == "an upload has at most 2 files"
        answer = await app.post(file(HTML) + END)
        assert answer.json()["detail"] == "file 1 is text/html, which is not accepted here"


def test_patterns_do_not_match_what_a_browser_runs() -> None:
    def taken(content_type: str, *patterns: str) -> bool:
        return UploadLimits(content_types=patterns).accept(content_type)

    assert taken("image/png", "image/*")
    assert taken("Image/PNG", "image/png")
    assert not taken("text/plain", "image/*", "application/pdf")
    assert not taken("image/svg+xml", "image/*", "*/*", "*")
    assert taken("image/svg+xml", "image/*", "image/svg+xml")
    assert not taken("text/html", "text/*")
    assert taken("text/html")


UNFINISHED: dict[str, tuple[bytes, int]] = {
    "a file too large": (file(b"x" * 20_001), 413),
    "a file too many": (file(PNG) * 2 + file(b"")[:-2], 422),
    "a type that is not taken": (file(EXE + b"x" * 9000)[:-2], 415),
    "an unknown field": (text(b"", "system")[:-2], 422),
    "headers too long": (part('name="text"', b"", b"X: " + LONG)[:-4], 422),
    "a text too long": (text(b"x" * 41)[:-2], 422),
}


@pytest.mark.parametrize("kind", UNFINISHED)
async def test_the_answer_does_not_wait_for_the_rest(root: Path, kind: str) -> None:
    sent, status = UNFINISHED[kind]
    limits = UploadLimits(2, 20_000, 20_000, 10, content_types=("image/*", "text/plain"))
    async with (
        uploads(limits) as app,
        app.posting(sent, "Content-Length: 50000") as (reader, _),
    ):
        assert f" {status} ".encode() in await reader.readline()
        assert left_in(root) == []


async def test_a_length_beyond_the_limits_is_refused_before_anything_is_sent(root: Path) -> None:
    headers = "Content-Length: 10000000", "Expect: 100-continue"
    async with uploads() as app, app.posting(b"", *headers) as (reader, _):
        assert b" 413 " in await reader.readline()
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"application/problem+json" in head
        problem = json.loads(await reader.readuntil(b"}"))
        assert problem["detail"] == "the upload is larger than 1500 bytes"
    assert left_in(root) == []


async def test_a_client_that_goes_in_mid_upload_leaves_nothing(root: Path) -> None:
    loop, sniffing, folders = asyncio.get_running_loop(), asyncio.Event(), list[str]()

    def sniffed(head: bytes) -> str:
        folders.extend(left_in(root))
        loop.call_soon_threadsafe(sniffing.set)
        return sniff(head)

    async with uploads(UploadLimits(), sniffed) as app:
        sent = text(b"hi") + file(PNG + b"x" * 2_000_000)[:-2]
        async with app.posting(sent, "Content-Length: 5000000"):
            await sniffing.wait()
        await app.left.wait()
        assert len(folders) == 1  # so there was something to leave
        assert left_in(root) == []
        assert (await app.post(text(b"hi") + END)).status_code == 200


async def test_100_mb_take_little_memory(root: Path) -> None:
    block = bytes(range(256)) * 256
    blocks = 100_000_000 // len(block) + 1

    async def body() -> AsyncIterator[bytes]:
        yield text(b"hi") + file(b"")[:-2]
        for _ in range(blocks):
            yield block
        yield b"\r\n" + END

    async with uploads(UploadLimits(max_bytes=110_000_000, max_total=110_000_000)) as app:
        await app.post(text(b"hi") + file(PNG) + END)  # what is imported late is not counted
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            answer = await app.post(body())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        (got,) = answer.json()["files"]
        assert (got["size"], got["hashed"]) == (blocks * len(block), True)
        assert peak - before < 16_000_000, f"{peak - before:,} bytes"
        assert left_in(root) == []
