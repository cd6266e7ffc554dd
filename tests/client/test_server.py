"""Which servers are refused, and which directories are below another."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker

from opencode_async import Opencode, OpencodeClient, OutsideRoot, Server, Tables, UnprotectedServer
from opencode_async.testing import ScriptedServer
from tests.support.hosts import Conversation, Message, engine_for

ROOT = Server("http://127.0.0.1:4096", directory="/srv/agents")


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:4096", "127.0.0.1:4096", "127.8.9.10", "[::1]:4096"]
)
async def test_on_loopback_a_server_needs_no_password(host: str) -> None:
    for scheme in ("http", "https"):
        async with OpencodeClient(f"{scheme}://{host}") as client:
            assert client.server.password is None


@pytest.mark.parametrize(
    "host",
    [
        *("opencode:4096", "localhost.example.org", "ip6-localhost", "127.0.0.1.nip.io"),
        *("10.0.0.7", "192.168.127.1", "128.0.0.1", "[::]", "[fe80::1]", "127.1"),
    ],
)
async def test_anywhere_else_it_does(host: str, tmp_path: Path) -> None:
    url = f"http://{host}"
    refused: list[Any] = [Server(url), Server(url, password=""), url]
    for server in refused:
        with pytest.raises(UnprotectedServer, match=r"password=.*unprotected=True") as error:
            async with OpencodeClient(server):
                pass
        assert error.value.url == url
    for server in (Server(url, password="secret"), Server(url, unprotected=True)):
        async with OpencodeClient(server) as client:
            assert client.server is server


async def test_an_agent_on_a_server_without_a_password_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENCODE_BASE_URL", "http://opencode:4096")
    for name in ("OPENCODE_SERVER_PASSWORD", "OPENCODE_SERVER_UNPROTECTED", "OPENCODE_UNPROTECTED"):
        monkeypatch.setenv(name, "" if name.endswith("PASSWORD") else "1")
    engine = engine_for(f"sqlite+aiosqlite:///{tmp_path}/no.db")
    tables = Tables(Conversation, Message)
    agent = Opencode(Server.from_env(), async_sessionmaker(engine), tables)
    for _ in range(2):
        with pytest.raises(UnprotectedServer, match="OPENCODE_SERVER_PASSWORD"):
            async with agent:
                pytest.fail("it started")
    await engine.dispose()


@pytest.mark.parametrize(
    "url",
    [
        *("http://user:s3cret@host", "http://:s3cret@host", "http://s3cret@host:4096/"),
        *("user:s3cret@host", "ftp://user:s3cret@host", "http://user:s3cret@", "//u:s3cret@host"),
        *("http://user:s3cret@[::1", "http://user:s3cret@host:port", "http://user:/s3cret@host"),
        *("http://host/?auth_token=s3cret", "http://host/#s3cret", "?s3cret", "host?s3cret"),
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="username= and password=") as error:
        Server(url)
    assert "s3cret" not in "".join(traceback.format_exception_only(error.value))
    assert error.value.__cause__ is error.value.__context__ is None


@pytest.mark.parametrize("url", ["host:4096", "ftp://host", "http://", "/srv", "", "http:///path"])
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="http://host:port"):
        Server(url)


def test_a_folder_of_a_server_is_named_by_its_name(tmp_path: Path) -> None:
    root = Server("http://host", password="secret", directory=str(tmp_path))
    for name in ("7", "5bd1a3a4-26fd", "Ärzte & Co.", "%2e%2e", "...x", "a b", "~"):
        below = root.below(name)
        assert below == Server("http://host", password="secret", directory=tmp_path / name)
        assert Path(str(below.directory)).resolve().parent == tmp_path.resolve()
        below.check_inside(root)
    assert Server("http://h", directory="/srv", unprotected=True).below("7").unprotected


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "...", ". .", ".. ", " ", "/", "\\", "a/b", "a\\b", "/etc", "a/", "./a"),
        *(
            "../b",
            "..\\b",
            "a/../../b",
            "C:",
            "C:x",
            "C:\\x",
            "\\\\host\\share",
            "a\0",
            "\0",
            "a\nb",
        ),
        *("a\x7f", "\ud800", "a\u202eb"),
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of one folder"):
        ROOT.below(name)


def test_without_a_directory_there_is_nothing_below() -> None:
    with pytest.raises(ValueError, match="without a directory"):
        Server("http://localhost").below("7")


@pytest.mark.parametrize(
    "directory",
    [
        "/srv/agents",
        "/srv/agents/",
        "/srv/agents/7",
        Path("/srv/agents/a/b"),
        "/srv/./agents/a/../b",
    ],
)
def test_a_directory_below_the_root_is_inside(directory: str | Path) -> None:
    Server("http://elsewhere", directory=directory).check_inside(ROOT)


@pytest.mark.parametrize(
    "directory",
    [
        *("/srv", "/", "/srv/agents2", "/srv/agents/..", "/srv/agents/../other", "/etc"),
        *("/srv/agents/a/../../../etc", "agents/7", "7", ".", "", "//srv/../etc", None),
    ],
)
def test_any_other_is_not(directory: str | None) -> None:
    with pytest.raises(OutsideRoot) as error:
        Server("http://localhost:4096", directory=directory).check_inside(ROOT)
    assert (error.value.directory, error.value.root) == (directory, "/srv/agents")
    assert str(directory) in str(error.value)
    assert "/srv/agents" in str(error.value)


def test_links_count_as_what_they_lead_to(tmp_path: Path) -> None:
    (tmp_path / "root" / "real").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "root" / "inner").symlink_to(tmp_path / "root" / "real")
    (tmp_path / "way").symlink_to(tmp_path / "root")
    root = Server("http://localhost", directory=tmp_path / "root")
    root.below("inner").check_inside(root)
    Server("http://localhost", directory=tmp_path / "way" / "real").check_inside(root)
    root.below("real").check_inside(Server("http://localhost", directory=tmp_path / "way"))
    for directory in (tmp_path / "root" / "link", tmp_path / "root" / "link" / "deeper"):
        with pytest.raises(OutsideRoot):
            Server("http://localhost", directory=directory).check_inside(root)


def test_a_root_that_is_relative_holds_itself_alone() -> None:
    root = Server("http://localhost", directory="work")
    root.check_inside(root)
    for directory in ("work/7", str(Path("work/7").resolve())):
        with pytest.raises(OutsideRoot):
            Server("http://localhost", directory=directory).check_inside(root)


def test_without_a_directory_of_its_own_an_agent_has_no_root() -> None:
    for directory in (None, "/etc", "relative"):
        Server("http://host", directory=directory).check_inside(Server("http://localhost"))


@pytest.mark.parametrize("name", ["%2e%2e", "a%2fb", "%252e%252e", "100%", "a+b", "ü x"])
async def test_opencode_works_in_the_folder_that_was_named(
    name: str, opencode: ScriptedServer
) -> None:
    """It decodes the directory twice: what looks encoded would otherwise be another folder."""
    server = opencode.below(name)
    async with OpencodeClient(server) as client:
        path = (await client.http.request("GET", "/path")).json()
    assert path["directory"] == str(server.directory)
