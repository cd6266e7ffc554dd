"""A ``multipart/form-data`` request, received under limits that hold while it arrives.

Starlette's own form parser spools a request as a whole before anybody can say no. Here whatever is
too much, unknown or malformed is refused at the byte that makes it so, and the rest is not read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Protocol

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Match
from starlette.types import Scope

from opencode_async.web.problems import (
    CrossSite,
    InvalidForm,
    ProblemRoute,
    TooLarge,
    TooManyFiles,
    UnsupportedMediaType,
)
from opencode_async.web.spool import ReceivedFile, Spool

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

TEXT_FIELDS = frozenset({"text", "on_busy", "agent", "model"})
FILES = "files"
MOST_BOUNDARY = 70  # characters, by RFC 2046
MOST_HEADERS = 8192  # bytes of a part's headers; browsers send two, and a name has 255 characters
PIECE = 65_536  # bytes that are parsed before anything else is looked at
MOST_PREAMBLE = 65_536  # bytes before the first boundary; browsers send none
PART_OVERHEAD = 2 * MOST_HEADERS  # with the boundary, the colons and the line ends
UTF_8 = 4  # bytes of a character, at most
IDENTITY = {b"7bit", b"8bit", b"binary"}
# A browser runs what is in these, so a pattern that means pictures or texts does not include them.
ACTIVE = frozenset(
    {"application/xhtml+xml", "application/xml", "image/svg+xml", "text/html", "text/xml"}
)

Sniff = Callable[[bytes], str]


class FormRoute(ProblemRoute):
    """A route for forms, which leaves every other request to the next one of its path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        is_form = Headers(scope=scope).get("content-type", "").lower().startswith("multipart/")
        return (match, child) if is_form else (Match.NONE, {})


def check_same_site(request: Request) -> None:
    """Raise ``CrossSite`` for what a browser says is another site's form, sent with cookies.

    JSON from there is asked about first (CORS); a form is not.
    """
    if "cookie" in request.headers and request.headers.get("sec-fetch-site") == "cross-site":
        raise CrossSite


@dataclass(frozen=True)
class UploadLimits:
    """What one upload may be; sizes are in bytes, ``max_text`` is in characters of each field.

    ``content_types`` are media types, or patterns such as ``image/*``, that what is in a file must
    match; empty: any. A pattern never matches HTML, SVG or XML: those are listed by name.
    """

    max_files: int = 10
    max_bytes: int = 50_000_000
    max_total: int = 100_000_000
    max_text: int = 100_000
    content_types: Sequence[str] = ()

    @property
    def most_parts(self) -> int:
        """Every field, every file, and as many file inputs that were left empty."""
        return len(TEXT_FIELDS) + 2 * max(self.max_files, 1)

    @property
    def most_body(self) -> int:
        """The longest body, in bytes, that can be within these limits."""
        texts = len(TEXT_FIELDS) * UTF_8 * self.max_text
        return self.max_total + texts + self.most_parts * PART_OVERHEAD + MOST_PREAMBLE

    def accept(self, content_type: str) -> bool:
        """Whether files of that type are taken."""
        kind = content_type.lower()
        return not self.content_types or any(
            kind == wanted.lower()
            or ("*" in wanted and kind not in ACTIVE and fnmatchcase(kind, wanted.lower()))
            for wanted in self.content_types
        )


@dataclass(frozen=True)
class Received:
    """An upload: its text fields by name, and its files in their order."""

    fields: dict[str, str]
    files: tuple[ReceivedFile, ...]


@asynccontextmanager
async def received(request: Request, limits: UploadLimits, sniff: Sniff) -> AsyncIterator[Received]:
    """Receive the request's form; its files are gone when the block is left, however that happens.

    The fields are ``text``, ``on_busy``, ``agent`` and ``model``, each once at most, and ``files``.
    ``sniff`` is given a file's first 8 KiB, in a thread, and returns its media type.

    Raises ``TooLarge``, ``TooManyFiles``, ``UnsupportedMediaType`` or ``InvalidForm``, and
    ``OSError`` for a disk that is full.
    """
    boundary = boundary_of(request)
    # A server that has read nothing has not said `100 Continue`, so the client may send nothing.
    if declared_length(request) > limits.most_body:
        raise TooLarge("the upload", limits.max_total)

    def type_of(number: int, head: bytes) -> str:
        content_type = sniff(head)
        if not limits.accept(content_type):
            raise UnsupportedMediaType(f"file {number}", content_type)
        return content_type

    spool = Spool(type_of)
    try:
        form = Form(limits, spool)
        await read(request, boundary, form)
        yield Received(form.fields, spool.results())
    finally:
        await spool.discard()


def boundary_of(request: Request) -> bytes:
    """The boundary in the request's ``Content-Type``."""
    content_type, options = parse_options_header(request.headers.get("content-type"))
    if content_type != b"multipart/form-data":
        raise UnsupportedMediaType("the body", content_type.decode("latin-1"))
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= MOST_BOUNDARY:
        raise InvalidForm("the boundary is missing or too long")
    return boundary


def declared_length(request: Request) -> int:
    """The ``Content-Length``, or 0 if there is none to go by."""
    declared = request.headers.get("content-length", "")
    if not declared.isdecimal():
        return 0  # chunked, or nothing a server would have let pass
    return int(declared) if len(declared) < 20 else 10**20  # int() has a limit of its own


async def read(request: Request, boundary: bytes, form: Form) -> None:
    """Feed the body to the form, and the form's files to the disk."""
    parser = MultipartParser(boundary, form.callbacks())
    length = 0
    try:
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                # A server's chunks have any length, and what a check is late by should not.
                for piece in (chunk[at : at + PIECE] for at in range(0, len(chunk), PIECE)):
                    length += len(piece)
                    if length > form.limits.most_body:
                        raise TooLarge("the upload", form.limits.max_total)
                    if not form.ended:  # what follows the last boundary means nothing
                        parser.write(piece)
                    if not form.parts and not form.ended and length > MOST_PREAMBLE:
                        raise InvalidForm("there is too much before the first boundary")
                    if form.spool.due:
                        await form.spool.flush()
    except FormParserError as error:
        raise InvalidForm("the body is not well-formed multipart") from error
    except ClientDisconnect as error:
        # Nobody reads this answer, but the host's log has no error for a tab that was closed.
        raise InvalidForm("the upload was broken off") from error
    if not form.ended:
        raise InvalidForm("the last boundary is missing")
    await form.spool.flush()


class Part(Protocol):
    """What a part's data goes to."""

    def data(self, data: bytes) -> None: ...

    def end(self) -> None: ...


class Form:
    """The form as it arrives: what is in it so far, and whether that is still within the limits."""

    def __init__(self, limits: UploadLimits, spool: Spool) -> None:
        self.limits = limits
        self.spool = spool
        self.fields: dict[str, str] = {}
        self.parts = 0
        self.ended = False
        self.files = 0
        self.total = 0
        self._names: set[str] = set()
        self._part: Part = Nothing()
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self._name, self._value = bytearray(), bytearray()

    def callbacks(self) -> MultipartCallbacks:
        """What the parser is to call."""
        return {
            "on_part_begin": self._part_begins,
            "on_header_field": lambda data, start, end: self._header(self._name, data[start:end]),
            "on_header_value": lambda data, start, end: self._header(self._value, data[start:end]),
            "on_header_end": self._header_ends,
            "on_headers_finished": self._headers_end,
            "on_part_data": lambda data, start, end: self._part.data(data[start:end]),
            "on_part_end": lambda: self._part.end(),
            "on_end": self._ends,
        }

    def _part_begins(self) -> None:
        self.parts += 1
        if self.parts > self.limits.most_parts:
            raise TooManyFiles(self.limits.max_files)
        self._headers, self._header_bytes = {}, 0

    def _header(self, to: bytearray, data: bytes) -> None:
        self._header_bytes += len(data)
        if self._header_bytes > MOST_HEADERS:
            raise InvalidForm("the headers of a part are too long")
        to += data

    def _header_ends(self) -> None:
        name, value = bytes(self._name).lower(), bytes(self._value)
        self._name.clear()
        self._value.clear()
        # RFC 9110 calls these invalid and dangerous; two headers of a name are two stories.
        if name in self._headers or b"\n" in value or b"\0" in value:
            raise InvalidForm("a part's headers are not well-formed")
        self._headers[name] = value

    def _headers_end(self) -> None:
        header = self._headers.get(b"content-disposition", b"")
        disposition, options = parse_options_header(header.decode("latin-1"))
        if disposition != b"form-data":
            raise InvalidForm("a part is not form-data")
        encoding = self._headers.get(b"content-transfer-encoding", b"binary")
        if encoding.lower() not in IDENTITY:
            raise InvalidForm("a part is encoded")
        name = decoded(options.get(b"name", b""), "a field's name")
        filename = options.get(b"filename")
        if name == FILES:
            self._part = self._file(filename)
        elif name in TEXT_FIELDS:
            self._part = self._text(name, filename)
        else:
            raise InvalidForm(f"only {', '.join(sorted(TEXT_FIELDS | {FILES}))} are known fields")

    def _file(self, filename: bytes | None) -> Part:
        if filename is None:
            raise InvalidForm("a file has no filename")
        if not filename:
            return Nothing()  # what a browser sends for an input that nobody used
        self.files += 1
        if self.files > self.limits.max_files:
            raise TooManyFiles(self.limits.max_files)
        return File(self, decoded(filename, "a filename"))

    def _text(self, name: str, filename: bytes | None) -> Part:
        if filename is not None:
            raise InvalidForm(f"{name} is not a file")
        if name in self._names:
            raise InvalidForm(f"{name} is there twice")
        self._names.add(name)
        return Text(self, name)

    def _ends(self) -> None:
        self.ended = True


class Text:
    """A text field."""

    def __init__(self, form: Form, name: str) -> None:
        self._form = form
        self._name = name
        self._data = bytearray()

    def data(self, data: bytes) -> None:
        self._data += data
        self._check(len(self._data) / UTF_8)  # so that memory has a bound, too

    def end(self) -> None:
        text = decoded(bytes(self._data), self._name)
        self._check(len(text))
        self._form.fields[self._name] = text

    def _check(self, characters: float) -> None:
        most = self._form.limits.max_text
        if characters > most:
            raise InvalidForm(f"{self._name} is longer than {most} characters")


class File:
    """A file with a name."""

    def __init__(self, form: Form, filename: str) -> None:
        self._form = form
        self._incoming = form.spool.begin(filename)

    def data(self, data: bytes) -> None:
        limits = self._form.limits
        if self._incoming.size + len(data) > limits.max_bytes:
            raise TooLarge(f"file {self._incoming.number}", limits.max_bytes)
        self._form.total += len(data)
        if self._form.total > limits.max_total:
            raise TooLarge("the upload", limits.max_total)
        self._form.spool.write(self._incoming, data)

    def end(self) -> None:
        self._form.spool.end(self._incoming)


class Nothing:
    """A file input that was left empty."""

    def data(self, data: bytes) -> None:
        raise InvalidForm("a file has no filename")

    def end(self) -> None:
        pass


def decoded(value: bytes, what: str) -> str:
    """The value as text; forms are UTF-8, whatever a part's headers say."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidForm(f"{what} is not UTF-8") from error
