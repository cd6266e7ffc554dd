"""Names that somebody else chose, made fit to be shown, stored and sent in a header."""

from __future__ import annotations

import random
import unicodedata
from urllib.parse import unquote

import pytest

from opencode_async.artifacts.filenames import content_disposition, numbered, safe_filename


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("report.pdf", "report.pdf"),
        ("Übersicht 2026.xlsx", "Übersicht 2026.xlsx"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\plan.docx", "plan.docx"),
        ("a/b\\c/d.txt", "d.txt"),
        ("..", "file"),
        ("", "file"),
        (" . . ", "file"),
        ("folder/", "file"),
        (".bashrc", "bashrc"),
        (" notes.txt. ", "notes.txt"),
        ("a\r\nSet-Cookie: x", "a__Set-Cookie: x"),
        ("a\0b", "a_b"),
        ("line\u2028para\u2029", "line_para_"),
        ("invoice\u202efdp.exe", "invoice_fdp.exe"),
        ("\u2066x\u2069\u200e\u200f\u061c", "_x____"),
        ("zero\u200bwidth\ufeff", "zero_width_"),
        ("half \ud800 a pair", "half _ a pair"),
        ("undecodable \udcff", "undecodable _"),
        ("cafe\u0301.txt", "caf\u00e9.txt"),
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("Com1 .tar.gz", "_Com1 .tar.gz"),
        ("lpt\u00b9", "_lpt\u00b9"),
        ("CONSOLE.log", "CONSOLE.log"),
    ],
)
def test_a_name_is_made_safe(name: str, safe: str) -> None:
    assert safe_filename(name) == safe


@pytest.mark.parametrize("letter", ["x", "é", "漢", "🦀"])
def test_a_long_name_keeps_its_extension_and_whole_letters(letter: str) -> None:
    safe = safe_filename(letter * 300 + ".tar.gz")
    assert safe.endswith(".gz")
    assert 250 < len(safe.encode()) <= 255
    assert set(safe) <= {letter, *".targz"}


def test_what_is_no_extension_is_cut_as_well() -> None:
    assert safe_filename("a." + "b" * 300) == "a." + "b" * 253


@pytest.mark.parametrize("name", ["CON" + " " * 300 + "x", "CON" + " " * 300 + "x.txt"])
def test_a_name_that_is_a_devices_once_cut_is_none(name: str) -> None:
    assert safe_filename(name).startswith("_CON")


def test_whatever_the_name_the_safe_one_is_safe() -> None:
    chance = random.Random(20260101)  # noqa: S311 - the same names each time
    odd = "./\\ \n\0\t\r\u202e\u2066\u200f\ud800\udcff\u0301éA漢🦀-_\"'%;:*?<>|\u00a0\u3000"
    for _ in range(20_000):
        letters = [
            chance.choice(odd) if chance.random() < 0.6 else chr(chance.randrange(0x110000))
            for _ in range(chance.choice([0, 1, 3, 10, 100, 400]) and chance.randrange(400))
        ]
        name = "".join(letters)
        safe = safe_filename(name)
        assert 0 < len(safe.encode()) <= 255
        assert safe not in (".", "..")
        assert not set(safe) & set("/\\")
        assert safe == safe.strip() == safe.strip(".")
        assert not {unicodedata.category(each) for each in safe} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
        assert safe == unicodedata.normalize("NFC", safe) == safe_filename(safe)
        assert safe_filename(numbered(safe, 2)) == numbered(safe, 2) != safe
        header = content_disposition(name)
        assert header.isascii()
        assert header.isprintable()
        assert header.count('"') == 2
        assert unquote(header.partition("filename*=UTF-8''")[2]) == safe


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("report.pdf", "report-2.pdf"),
        ("Makefile", "Makefile-2"),
        ("a" * 251 + ".pdf", "a" * 249 + "-2.pdf"),
    ],
)
def test_a_number_comes_before_the_extension(name: str, second: str) -> None:
    assert numbered(name, 2) == second


def test_a_header_names_the_file_for_old_clients_and_new_ones() -> None:
    assert content_disposition("Résumé 1.pdf") == (
        "attachment; filename=\"Resume 1.pdf\"; filename*=UTF-8''R%C3%A9sum%C3%A9%201.pdf"
    )
    assert content_disposition("a.png", inline=True) == (
        "inline; filename=\"a.png\"; filename*=UTF-8''a.png"
    )


def test_a_name_cannot_end_the_header_or_its_quotes() -> None:
    header = content_disposition('x"; %41\r\n.txt')
    assert (
        header == "attachment; filename=\"x_; _41__.txt\"; filename*=UTF-8''x%22%3B%20%2541__.txt"
    )
