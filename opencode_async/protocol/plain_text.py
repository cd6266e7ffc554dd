"""Text of an agent, a tool or a web page, made fit to be looked at: plain text, never markup.

Nothing is escaped: a browser shows such text by a text node (``textContent``), a template by its
own escaping. What is taken care of is what would mislead a reader wherever it is shown: terminal
sequences, control characters, and what turns the direction of text or is not seen at all.
"""

from __future__ import annotations

import re
import unicodedata

REPLACEMENT = "\ufffd"
ELLIPSIS = "…"
MOST_LETTERS = 120  # of one line: more is no name for anything

# ECMA-48: control sequences (colours, cursor), strings such as window titles and links, the rest.
# A string that nothing ends is none: it would hide all that follows.
SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[P\]X^_][^\x07\x1b\n]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]"
)
# Control and format characters, halves of surrogate pairs, odd separators; neither tab and newline,
# nor the joiners, without which emoji and several scripts fall apart, nor the signs that stand
# below Arabic and Syriac numbers, which are seen.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064"
    "\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f]"
)
JOINER = "\u200d"
# Of a URL what is before its host; where it begins is sought once in each word, however long.
USER = re.compile(r"(?<![A-Za-z0-9+.-])([A-Za-z0-9+.-]+://)[^/?#\s]*@")


def plain(text: str) -> str:
    """The text with its lines, without terminal sequences; what else is not seen is U+FFFD."""
    lines = SEQUENCES.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return UNSEEN.sub(REPLACEMENT, lines)


def seen(text: str) -> str:
    """The text with a sign for whatever is not seen in it: for what somebody is to decide on.

    Unlike ``plain`` it leaves nothing out: what a terminal obeys may hide what a shell runs.
    """
    return UNSEEN.sub(REPLACEMENT, text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """The beginning of the text as one line of 120 characters at most, "…" where it is cut."""
    line = " ".join(plain(text.lstrip()[: 8 * MOST_LETTERS]).split())
    return line if len(line) <= MOST_LETTERS else _cut(line)


def short_path(path: str) -> str:
    """The end of a path, as one line: of an absolute one the last three names, as ``…/a/b/c``.

    The folders of the server say nothing to a reader, and are nobody's business.
    """
    names = [name for name in re.split(r"[/\\]", path[-8 * MOST_LETTERS :]) if name]
    is_absolute = re.match(r"[/\\]|[A-Za-z]:[/\\]", path) is not None
    kept = names[-3:] if is_absolute else names
    while len(kept) > 1 and len("/".join(kept)) > MOST_LETTERS - 2:
        kept = kept[1:]
    end = one_line("/".join(kept))
    if len(kept) < len(names):
        return f"{ELLIPSIS}/{end}"
    return f"/{end}" if path.startswith("/") else end


def short_url(url: str) -> str:
    """The URL as one line, without the name and the password it may carry."""
    return line_of_urls(re.sub(r"^(\s*[A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@", r"\1", url))


def line_of_urls(text: str) -> str:
    """As ``one_line``, but URLs anywhere in it are without their names and passwords."""
    return one_line(USER.sub(r"\1", text.lstrip()[: 16 * MOST_LETTERS]))


def _cut(line: str) -> str:
    """As much of it as there is room for; nothing that is written together is torn apart."""
    end = MOST_LETTERS - 1
    while end > MOST_LETTERS // 2 and (_joins(line[end]) or line[end - 1] == JOINER):
        end -= 1
    return line[:end].rstrip() + ELLIPSIS


def _joins(letter: str) -> bool:
    return letter == JOINER or unicodedata.category(letter) in ("Mn", "Me", "Mc")
