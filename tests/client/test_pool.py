"""One client for each server and directory, for as long as the agent runs."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from opencode_async import NotRunning, OpencodeClient, OutsideRoot, Server, UnprotectedServer
from opencode_async.client.http import HttpConnection
from opencode_async.client.pool import ClientPool
from opencode_async.observability.error_reporter import log_error
from opencode_async.testing import ScriptedServer

ROOT = Server("http://127.0.0.1:9", directory="/srv")


async def all_of(pool: ClientPool, *servers: Server) -> list[OpencodeClient]:
    """What they get who ask at once."""
    return await asyncio.gather(*(pool.client(server) for server in servers))


async def test_all_who_ask_for_a_server_and_directory_get_one_client() -> None:
    async with ClientPool(ROOT, log_error) as pool:
        first, *others = await all_of(pool, *[ROOT.below("a")] * 20)
        assert all(client is first for client in others)
        assert await pool.client(ROOT.below("a")) is first
        assert first.server == ROOT.below("a")


async def test_spelling_and_kind_make_no_difference(opencode: ScriptedServer) -> None:
    spelled = [
        Server("http://127.0.0.1:9", directory=Path("/srv")),
        Server("http://127.0.0.1:9/", directory="/srv"),
    ]
    async with ClientPool(ROOT, log_error) as pool:
        assert len(set(await all_of(pool, ROOT, *spelled))) == 1
    same = Server(opencode.url, password=opencode.password, directory=opencode.directory)
    async with ClientPool(same, log_error) as pool:
        assert len(set(await all_of(pool, opencode, same))) == 1


async def test_what_differs_has_a_client_of_its_own() -> None:
    url = "http://127.0.0.1:9"
    servers = [
        *(Server(url), Server("http://127.0.0.1:10"), Server(url, password="a")),
        *(Server(url, password="b"), Server(url, username="u", password="a")),
        *(Server(url, directory="/a"), Server(url, directory="/b")),
    ]
    async with ClientPool(Server(url), log_error) as pool:
        clients = await all_of(pool, *servers)
        assert len(set(clients)) == len({client.hub for client in clients}) == len(servers)
        assert [client.server for client in clients] == servers


async def test_they_are_closed_with_the_pool_and_no_more_are_opened() -> None:
    before = asyncio.all_tasks()
    async with ClientPool(ROOT, log_error) as pool:
        clients = await all_of(pool, ROOT, ROOT.below("a"))
        assert all(client.hub for client in clients)
    for client in clients:
        with pytest.raises(NotRunning):
            _ = client.http
    with pytest.raises(NotRunning):
        await pool.client(ROOT)
    assert asyncio.all_tasks() == before


async def test_one_that_cannot_be_opened_leaves_nothing_behind_and_harms_no_other() -> None:
    root = Server("http://127.0.0.1:9")
    open_to_all = Server("http://10.0.0.7")
    async with ClientPool(root, log_error) as pool:
        good = await pool.client(root)
        before = asyncio.all_tasks()
        for _ in range(2):
            asked = (pool.client(open_to_all) for _ in range(20))
            refused = await asyncio.gather(*asked, return_exceptions=True)
            assert [type(error) for error in refused] == [UnprotectedServer] * 20
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == before
        assert await pool.client(root) is good
        _ = good.http  # it is still open
        protected = Server("http://10.0.0.7", password="secret")
        assert (await pool.client(protected)).server is protected


async def test_one_that_could_not_be_opened_is_opened_by_the_next_who_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def out_of_files(server: Server) -> HttpConnection:
        monkeypatch.undo()
        raise OSError(errno.EMFILE, "too many open files")

    async with ClientPool(ROOT, log_error) as pool:
        monkeypatch.setattr("opencode_async.client.client.HttpConnection", out_of_files)
        with pytest.raises(OSError, match="too many open files"):
            await pool.client(ROOT)
        assert (await pool.client(ROOT)).server is ROOT


async def test_who_gives_up_waiting_takes_nobody_along() -> None:
    async with ClientPool(ROOT, log_error) as pool:
        hasty = asyncio.create_task(pool.client(ROOT))
        patient = asyncio.create_task(pool.client(ROOT))
        await asyncio.sleep(0)  # both wait
        hasty.cancel()
        assert await patient is await pool.client(ROOT)
        assert hasty.cancelled()


async def test_only_directories_below_the_root_have_one() -> None:
    async with ClientPool(ROOT, log_error) as pool:
        for server in (Server("http://127.0.0.1:9"), Server("http://[::1]", directory="/etc")):
            with pytest.raises(OutsideRoot):
                await pool.client(server)


async def test_a_link_that_is_moved_out_is_noticed_by_the_next_who_asks(tmp_path: Path) -> None:
    (tmp_path / "root" / "real").mkdir(parents=True)
    link = tmp_path / "root" / "link"
    link.symlink_to(tmp_path / "root" / "real")
    root = Server("http://127.0.0.1:9", directory=tmp_path / "root")
    async with ClientPool(root, log_error) as pool:
        await pool.client(root.below("link"))
        link.unlink()
        link.symlink_to(tmp_path)
        with pytest.raises(OutsideRoot):
            await pool.client(root.below("link"))


async def test_what_its_block_raises_comes_out_as_it_is() -> None:
    error = ValueError("the host's")

    async def failing() -> None:
        async with ClientPool(ROOT, log_error) as pool:
            await pool.client(ROOT)
            raise error

    with pytest.raises(ValueError, match="the host's") as caught:
        await failing()
    assert caught.value is error
