"""Names of files that an agent or a user chose, made fit to be shown, stored and downloaded."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container
from urllib.parse import quote

MOST_BYTES = 255  # of one name, as UTF-8: what Linux and macOS allow
EXTENSION_BYTES = 32  # a longer one is no extension, but a name with a dot in it
NAMELESS = "file"

# Other, and separators of lines and paragraphs: control characters, what changes the direction of
# text or is not seen at all, halves of surrogate pairs.
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
DEVICE = re.compile(
    r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9\u00b9\u00b2\u00b3]) *(\.|$)", re.IGNORECASE
)


def safe_filename(name: str) -> str:
    """The name of one file, whatever ``name`` is: never empty, no path, 255 bytes of UTF-8 at most.

    The last component, in NFC; what is not seen or changes the direction of text becomes ``_``; no
    dots or spaces around it; the extension is kept where it is cut; nothing that Windows takes for
    a device. Safe names stay as they are.
    """
    last = unicodedata.normalize("NFC", re.split(r"[/\\]", name)[-1])
    seen = "".join("_" if unicodedata.category(each) in UNSEEN else each for each in last)
    # Twice: a name may become a device's by being cut, and then it is short.
    return _no_device(_cut(_no_device(_stripped(seen)))) or NAMELESS


def numbered(name: str, number: int) -> str:
    """A safe name's variant: ``report-2.pdf``; as safe, and no longer than 255 bytes."""
    return _cut(name, f"-{number}")


def free(path: str, taken: Container[str]) -> str:
    """The path, or the next one that is not taken: names that differ may be the same once safe."""
    folder, slash, name = path.rpartition("/")
    number, candidate = 1, path
    while candidate in taken:
        number += 1
        candidate = f"{folder}{slash}{numbered(name, number)}"
    return candidate


def content_disposition(name: str, *, inline: bool = False) -> str:
    """The value of that header for a file of any name, which is made safe (RFC 6266)."""
    safe = safe_filename(name)
    apart = unicodedata.normalize("NFD", safe)  # not NFKD, which makes a slash of some letters
    letters = (each for each in apart if not unicodedata.combining(each))
    fallback = "".join(each if each.isascii() and each not in '"\\%' else "_" for each in letters)
    encoded = quote(safe, safe="!#$&+^`|")  # attr-char, RFC 5987
    kind = "inline" if inline else "attachment"
    return f"{kind}; filename=\"{fallback}\"; filename*=UTF-8''{encoded}"


def _no_device(name: str) -> str:
    return f"_{name}" if DEVICE.match(name) else name


def _stripped(name: str) -> str:
    start, end = 0, len(name)
    while start < end and _is_margin(name[start]):
        start += 1
    while start < end and _is_margin(name[end - 1]):
        end -= 1
    return name[start:end]


def _is_margin(letter: str) -> bool:
    return letter == "." or letter.isspace()


def _cut(name: str, suffix: str = "") -> str:
    """The name with the suffix before its extension, and as much of it as there is room for."""
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode()) > EXTENSION_BYTES:
        stem, dot, extension = name, "", ""
    room = MOST_BYTES - len((suffix + dot + extension).encode())
    if len(stem.encode()) > room:
        stem = _stripped(stem.encode()[:room].decode(errors="ignore"))
    return stem + suffix + dot + extension
