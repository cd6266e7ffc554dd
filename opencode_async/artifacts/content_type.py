"""What a file is, judged by its first bytes: its name and its writer say what they like.

The answer is what a browser is told, so text is never called an image: it would be shown, and a
page in disguise would run. Text that begins as markup is a page, a drawing, or plain text.
"""

from __future__ import annotations

import codecs
import re

import puremagic

HEAD = 8192  # bytes that tell what a file is
TEXT = "text/plain"
BYTES = "application/octet-stream"

CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")  # all but \t \n \f \r and escape
MIME_TYPE = re.compile(r"[a-z0-9][a-z0-9.+-]*/[a-z0-9][a-z0-9.+-]*")

# Possessive (`*+`), for else a thousand comments can be told apart in more ways than there is time.
BEFORE_ROOT = r"(?:\s|<\?.*?\?>|<!--.*?-->|<!doctype\s[^<>\[]*(?:\[.*?\]\s*)?>)*+"
ROOT = re.compile(rf"{BEFORE_ROOT}<([a-z][\w.-]*:)?([a-z][\w.-]*)", re.I | re.S | re.A)
DOCTYPE_HTML = re.compile(r"(?:\s|<\?.*?\?>|<!--.*?-->)*+<!doctype\s+html\b", re.I | re.S | re.A)
PAGE = re.compile(  # elements that a page begins with: those that a browser looks for, and more
    "html|head|body|script|iframe|h[1-6]|div|font|table|a|style|title|b|br|p|base|link|meta|img|"
    "span|form|input|button|object|embed|video|audio|template|noscript|main"
)

# What a text may be beside text/…, for a signature of two letters is found in many an essay.
TEXTUAL = {
    "application/json",
    "application/pdf",
    "application/postscript",
    "application/rtf",
    "message/rfc822",
}

OFFICE = "application/vnd.openxmlformats-officedocument."
OFFICE_FOLDERS = {  # of a zip archive -> what it is
    b"word": f"{OFFICE}wordprocessingml.document",
    b"xl": f"{OFFICE}spreadsheetml.sheet",
    b"ppt": f"{OFFICE}presentationml.presentation",
}
ZIP = b"PK\x03\x04"
ZIP_ENTRY = re.compile(rb"PK\x03\x04.{26}(word|xl|ppt)/", re.DOTALL)
ZIP_MIME_TYPE = re.compile(  # OpenDocument and EPUB say what they are at the beginning
    rb"PK\x03\x04.{26}mimetype(application/(?:vnd\.oasis\.opendocument\.[a-z-]+|epub\+zip))PK",
    re.DOTALL,
)


def sniffed(head: bytes) -> str:
    """The MIME type of what begins with these bytes; some kilobytes of them do. Never raises."""
    text = _text(head)
    start = text if text is not None else head.decode("latin-1")
    markup = _markup(start)
    if markup is not None:
        return markup
    if start.lstrip().startswith("<"):
        return TEXT if text is not None else BYTES
    if head.startswith(ZIP):
        return _zipped(head)
    best = _best_match(head)
    if text is None:
        return best or BYTES
    return best if best and (best.startswith("text/") or best in TEXTUAL) else TEXT


def _text(head: bytes) -> str | None:
    """The bytes as text, whose last character may be cut; ``None`` where they are none."""
    encoding = "utf-8-sig"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeError:
        return None
    return None if CONTROL.search(text) else text


def _markup(text: str) -> str | None:
    if DOCTYPE_HTML.match(text):
        return "text/html"
    root = ROOT.match(text)
    name = root[2].lower() if root else ""
    if name == "svg":
        return "image/svg+xml"
    return "text/html" if PAGE.fullmatch(name) else None


def _zipped(head: bytes) -> str:
    """Which archive it is: puremagic takes each for a Word document."""
    if said := ZIP_MIME_TYPE.match(head):
        return said[1].decode()
    entry = ZIP_ENTRY.search(head)
    return OFFICE_FOLDERS[entry[1]] if entry else "application/zip"


def _best_match(head: bytes) -> str | None:
    try:
        matches = puremagic.magic_string(head)
    except (LookupError, ValueError):  # nothing known; nothing at all
        return None
    for match in matches:
        # A negative offset counts from the end of the file, which is not the end of its head.
        mime_type = str(match.mime_type).lower()
        if match.offset >= 0 and MIME_TYPE.fullmatch(mime_type):
            return mime_type
    return None
