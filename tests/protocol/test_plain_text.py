"""Text of somebody else, made fit to be looked at."""

from __future__ import annotations

import sys
import time
import unicodedata

import pytest

from opencode_async.protocol.plain_text import (
    UNSEEN,
    line_of_urls,
    one_line,
    plain,
    short_path,
    short_url,
)

ESC, BEL = "\x1b", "\x07"
JOINERS = {"\u200c", "\u200d"}
FIGURES = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\n\tb\n", "a\n\tb\n"),
        ("<b>&amp;</b>", "<b>&amp;</b>"),  # not markup, and not made into any
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        (f"{ESC}[1;31mred{ESC}[0m", "red"),
        (f"{ESC}]0;a title{BEL}text", "text"),
        (f"{ESC}]8;;https://a.example{ESC}\\link{ESC}]8;;{ESC}\\", "link"),
        (f"{ESC}]0;a title that nothing ends\ntext", "0;a title that nothing ends\ntext"),
        (f"{ESC}[2J{ESC}(Bgone{ESC}", "gone\ufffd"),
        ("a\0b\x08c\x9bd", "a\ufffdb\ufffdc\ufffdd"),
        ("if admin \u202e\u2066{\u2069", "if admin \ufffd\ufffd{\ufffd"),
        ("zero\u200bwidth\ufeff\u00ad", "zero\ufffdwidth\ufffd\ufffd"),
        ("hidden \U000e0041\U000e0042", "hidden \ufffd\ufffd"),
        ("half \ud83d a pair", "half \ufffd a pair"),
        ("line\u2028para\u2029", "line\ufffdpara\ufffd"),
        ("\U0001f469\u200d\U0001f680 क्\u200dष", "\U0001f469\u200d\U0001f680 क्\u200dष"),
    ],
)
def test_what_is_not_seen_is_made_visible_or_goes(text: str, shown: str) -> None:
    assert plain(text) == shown
    assert plain(shown) == shown


def test_no_character_that_is_not_seen_is_left_out() -> None:
    unseen = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    letters = list(map(chr, range(sys.maxunicode + 1)))
    known = {letter for letter in letters if unicodedata.category(letter) in unseen}
    found = {letter for letter in letters if UNSEEN.match(letter)}
    assert known - found == {"\t", "\n", *JOINERS, *FIGURES}
    # Python's Unicode may be older than the list.
    assert {unicodedata.category(letter) for letter in found - known} <= {"Cn"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("  ls \n\t -la  ", "ls -la"),
        ("cat <<EOF\n<b>\nEOF", "cat <<EOF <b> EOF"),
        ("x" * 120, "x" * 120),
        ("x" * 121, "x" * 119 + "…"),
        ("x" * 119 + "e\u0301", "x" * 119 + "…"),
        ("x" * 118 + "e\u0301\u0301", "x" * 118 + "…"),
        ("x" * 117 + "\U0001f469\u200d\U0001f680.", "x" * 117 + "…"),
        ("x" * 118 + " y" * 9, "x" * 118 + "…"),
        ("\n" * 100_000 + "far down", "far down"),
    ],
)
def test_one_line_is_cut_between_letters(text: str, line: str) -> None:
    assert one_line(text) == line
    assert one_line(line) == line


def test_a_letter_under_a_heap_of_accents_is_cut_all_the_same() -> None:
    assert len(one_line("a" + "\u0301" * 5000)) <= 120


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("", ""),
        ("notes.txt", "notes.txt"),
        ("src/web/shown.py", "src/web/shown.py"),
        ("a/b/c/d/e.py", "a/b/c/d/e.py"),
        ("/notes.txt", "/notes.txt"),
        ("/srv/tenants/acme/sandbox/x1/notes.txt", "…/sandbox/x1/notes.txt"),
        ("C:\\Users\\me\\work\\plan.docx", "…/me/work/plan.docx"),
        ("../../etc/passwd", "../../etc/passwd"),
        ("a/" * 100 + "e.py", "…" + "/a" * 57 + "/e.py"),
        ("/a/b/in\u202efdp.exe\n", "/a/b/in\ufffdfdp.exe"),
        ("/srv/app/" + "long " * 60 + ".py", "…/" + ("long " * 60)[:119].rstrip() + "…"),
    ],
)
def test_a_path_is_told_by_its_end(path: str, shown: str) -> None:
    assert short_path(path) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.org/a?b=c#d", "https://example.org/a?b=c#d"),
        ("https://me:s3cret@example.org/@x", "https://example.org/@x"),
        (" ftp://a@b@host/", "ftp://host/"),
        ("https://example.org/?mail=me@example.org", "https://example.org/?mail=me@example.org"),
        ("me@example.org", "me@example.org"),
        ("javascript:alert(1)", "javascript:alert(1)"),  # text, and nothing makes it a link
        ("https://" + "x" * 200, "https://" + "x" * 111 + "…"),
    ],
)
def test_a_url_is_told_without_a_password(url: str, shown: str) -> None:
    assert short_url(url) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a ssh://me@h:22 b", "a ssh://h:22 b"),
        ("two http://a:b@c,http://d:e@f", "two http://c,http://f"),
        ("x=1git+https://t0ken@h/r.git@v2", "x=1git+https://h/r.git@v2"),
        ("mail me@example.org, see http://h/?a@b", "mail me@example.org, see http://h/?a@b"),
    ],
)
def test_urls_in_a_text_are_told_without_passwords(text: str, shown: str) -> None:
    assert line_of_urls(text) == shown


@pytest.mark.parametrize("text", ["a" * 10**6, "a://" * 10**6, "a:" * 10**6, "a://b" * 10**6])
def test_however_long_the_text_its_urls_are_soon_found(text: str) -> None:
    began = time.perf_counter()
    line_of_urls(text)
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize("piece", [f"{ESC}]", f"{ESC}[", f"{ESC}[1", "\x9b1", ESC, "\r", "\u202e"])
def test_a_hostile_output_costs_no_more_than_a_long_one(piece: str) -> None:
    text = piece * (200_000 // len(piece)) + "1" * 50_000
    began = time.perf_counter()
    plain(text)
    assert time.perf_counter() - began < 2
