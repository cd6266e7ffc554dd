"""What the repository holds, and what it must not name."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.support.parts import REPOSITORY, skip_without

TOP_LEVEL = {
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "examples",
    "opencode_async",
    "pyproject.toml",
    "requirements.lock",
    "tests",
}

# Put together here, so that this file does not contain what it looks for.
REGISTRY_HOSTS = [
    ".".join(host)
    for host in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("yarnpkg", "com"),
        ("deb", "debian", "org"),
    )
]
MACHINE_PATH = re.compile(r"(?<![\w.}])/(home|root|work|Users)/")


@cache
def tracked_files() -> list[Path]:
    git = shutil.which("git") or skip_without("git", "`apt-get install git`")
    listed = subprocess.run(
        [git, "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    names = listed.stdout.split("\0")[:-1]
    return [path for path in map(Path, names) if (REPOSITORY / path).is_file()]


def text_of(path: Path) -> str:
    return (REPOSITORY / path).read_text(errors="replace")


def test_the_top_level_holds_nothing_unexpected() -> None:
    tops = {path.parts[0] for path in tracked_files()}
    assert {top for top in tops if not top.startswith(".")} <= TOP_LEVEL


@pytest.mark.parametrize("host", REGISTRY_HOSTS)
def test_no_file_names_a_package_registry(host: str) -> None:
    assert [str(path) for path in tracked_files() if host in text_of(path)] == []


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    found = [
        f"{path}:{number}: {line.strip()}"
        for path in tracked_files()
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []


def test_no_module_is_too_long_to_read() -> None:
    lengths = {path: len(text_of(path).splitlines()) for path in tracked_files()}
    assert [str(p) for p, lines in lengths.items() if p.suffix == ".py" and lines >= 500] == []
