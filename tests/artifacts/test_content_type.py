"""What a file is, by its first bytes, on every version of the library that knows the signatures."""

from __future__ import annotations

import io
import random
import time
import zipfile

import pytest

from opencode_async.artifacts.content_type import sniffed

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\2\0\0\0"
OFFICE = "application/vnd.openxmlformats-officedocument."


def archive(*names: str, first: str | None = None) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as file:
        if first is not None:
            file.writestr("mimetype", first)
        for name in names:
            file.writestr(name, b"<x/>")
    return written.getvalue()


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1", "image/jpeg"),
        (b"GIF89a\1\0\1\0\0\0\0", "image/gif"),
        (b"RIFF\x24\0\0\0WEBPVP8 \0\0\0\0", "image/webp"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "application/pdf"),
        (b"%PDF-1.4\n1 0 obj\n", "application/pdf"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "video/mp4"),
        (archive("a.txt"), "application/zip"),
        (archive("[Content_Types].xml", "word/document.xml"), OFFICE + "wordprocessingml.document"),
        (archive("docProps/app.xml", "xl/workbook.xml"), OFFICE + "spreadsheetml.sheet"),
        (archive("ppt/presentation.xml"), OFFICE + "presentationml.presentation"),
        (
            archive("content.xml", first="application/vnd.oasis.opendocument.text"),
            "application/vnd.oasis.opendocument.text",
        ),
        (archive("a.html", first="text/html"), "application/zip"),
        (b'{"a": 1}\n', "application/json"),
        (b"a,b\n1,2\n", "text/plain"),
        (b"# Title\n\nText with <script>alert(1)</script>\n", "text/plain"),
        ("Zoë schrieb".encode(), "text/plain"),
        ("漢".encode() * 3 + "漢".encode()[:2], "text/plain"),  # cut
        (b"\xef\xbb\xbfhello", "text/plain"),
        ("hello".encode("utf-16"), "text/plain"),
        (b"\x1b[31mred\x1b[0m", "text/plain"),
        (b"", "text/plain"),
        (b"a\0b", "application/octet-stream"),
        (b"a\1b", "application/octet-stream"),
        (b"caf\xe9 in latin-1", "application/octet-stream"),
    ],
)
def test_a_file_is_what_it_begins_as(head: bytes, expected: str) -> None:
    assert sniffed(head) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<!DOCTYPE html><p>", "text/html"),
        ("\n\t <HTML><body>", "text/html"),
        ("<!-- hello --><script>alert(1)</script>", "text/html"),
        ("<?xml version='1.0'?><!DOCTYPE html PUBLIC '-//W3C//DTD XHTML'><html>", "text/html"),
        ("<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "image/svg+xml"),
        ("<?xml version='1.0'?>\n<!-- by hand -->\n<svg:svg>", "image/svg+xml"),
        ("<!DOCTYPE svg PUBLIC 'x' [<!ENTITY a 'b'>]><svg>", "image/svg+xml"),
        ("<?xml version='1.0'?><rss><channel/></rss>", "text/plain"),
        ("<unknown>", "text/plain"),
        ("<!-- never closed <html>", "text/plain"),
        ("< 5 is less than five", "text/plain"),
    ],
)
def test_markup_is_active_or_plain(text: str, expected: str) -> None:
    assert sniffed(text.encode()) == expected
    assert sniffed(text.encode("utf-8-sig")) == expected
    assert sniffed(text.encode("utf-16")) == expected


@pytest.mark.parametrize(
    "signature", [b"BM", b"P1 ", b"P6\n", b"II*", b"GIF89a", b"GIF87a", b"#define ", b"/* XPM */"]
)
@pytest.mark.parametrize("rest", [b"<script>alert(1)</script>", b"\n<html>", b" is a word </svg>"])
def test_text_is_never_called_an_image(signature: bytes, rest: bytes) -> None:
    assert sniffed(signature + rest).partition("/")[0] in ("text", "application")


@pytest.mark.parametrize("page", [b"<html>caf\xe9", b"\n<svg onload='\xe9'>", b"<x>\xff\0"])
def test_markup_in_another_encoding_is_no_image_either(page: bytes) -> None:
    assert sniffed(page) in ("text/html", "image/svg+xml", "application/octet-stream")


def test_no_bytes_are_too_odd() -> None:
    chance = random.Random(20260102)  # noqa: S311 - the same bytes each time
    starts = [
        b"",
        b"<",
        b"<!--",
        b"PK\3\4",
        b"RIFF",
        b"\xff\xfe",
        b"\xfe\xff",
        b"\xef\xbb\xbf",
        PNG,
    ]
    for _ in range(1000):
        head = chance.choice(starts) + chance.randbytes(chance.randrange(300))
        kind, _, name = sniffed(head).partition("/")
        assert kind
        assert name


@pytest.mark.parametrize(
    "hostile",
    [
        "<!---->" * 40_000,
        "<?x?>" * 50_000 + "<!",
        "<!doctype x[" + "]" * 200_000,
        "<!doctype " * 9999,
    ],
)
def test_markup_that_never_gets_to_its_root_takes_no_time(hostile: str) -> None:
    began = time.perf_counter()
    assert sniffed(hostile.encode()) == "text/plain"
    assert time.perf_counter() - began < 2
