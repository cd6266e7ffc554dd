"""The whole deployment on this machine: ``python -m examples.scaled``, or ``make scaled``.

PostgreSQL, Valkey, a bucket (Ceph's), OpenCode with a model that is a script, two web processes and
two turn workers: real ones, without containers. Nothing is kept, and Ctrl-C ends all of it. PORT
(8000) and the next one are the web processes'; OPENCODE_BASE_URL is read as `make demo` does.
"""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import boto3
import httpx

from examples.scaled.parts.ceph import ceph_cluster
from examples.scaled.parts.missing import Missing
from examples.scaled.parts.postgres import private_server
from examples.scaled.parts.valkey import valkey_server
from examples.server import a_server
from opencode_async import OpencodeError, Server

BUCKET = "chat"
TO_STOP = 15.0  # s a process has to end by itself
HINT = """\
Two web processes and two turn workers are coming up. Open both pages in one browser, write
SCRIPT:slow on one of them, and kill -9 the worker that runs it. Nothing that ends here is started
again: in production whatever runs the processes does that. Ctrl-C ends everything."""
Environment = Mapping[str, str]


async def deploy(ports: tuple[int, int]) -> None:
    """Start everything, say where it is, and leave it running until it is cancelled."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="scaled-")))
        _, database_url = stack.enter_context(private_server())
        valkey = stack.enter_context(valkey_server())
        server = await stack.enter_async_context(a_server(folder))
        env = {
            **os.environ,
            **of_server(server),
            **stack.enter_context(bucket()),
            "DATABASE_URL": database_url,
            "REDIS_URL": valkey.url,
        }
        async with program("-m", "examples.scaled.migrate", env=env) as migration:
            if await migration.wait():
                raise SystemExit("The tables could not be made.")
        print(HINT, flush=True)
        async with asyncio.TaskGroup() as tasks:
            for port in ports:
                tasks.create_task(serve(port, env))
            for _ in range(2):
                tasks.create_task(work(env))


async def serve(port: int, env: Environment) -> None:
    """A web process."""
    here = f"http://127.0.0.1:{port}"
    quietly = ("--log-level", "warning", "--timeout-graceful-shutdown", "5")
    uvicorn = ("-m", "uvicorn", "examples.scaled.web:app", "--port", str(port), *quietly)
    async with program(*uvicorn, env=env) as process, httpx.AsyncClient(trust_env=False) as http:
        while process.returncode is None:
            with suppress(httpx.TransportError):
                await http.get(here)
                break
            await asyncio.sleep(0.1)
        print(f"web process {process.pid}: {here}", flush=True)
        print(f"web process {process.pid} has ended ({await process.wait()})", flush=True)


async def work(env: Environment) -> None:
    """A turn worker."""
    async with program("-m", "examples.scaled.worker", env=env) as process:
        print(f"turn worker {process.pid} is started", flush=True)
        print(f"turn worker {process.pid} has ended ({await process.wait()})", flush=True)


def of_server(server: Server) -> Environment:
    """What `Server.from_env` reads."""
    return {
        "OPENCODE_BASE_URL": server.url,
        "OPENCODE_SERVER_USERNAME": server.username,
        "OPENCODE_SERVER_PASSWORD": server.password or "",
    }


@contextmanager
def bucket() -> Iterator[Environment]:
    """An empty bucket, as `create_store` is told of it; nothing where Ceph is not installed."""
    try:
        with ceph_cluster() as ceph:
            env = {
                "S3_BUCKET": BUCKET,
                "S3_ENDPOINT_URL": ceph.endpoint_url,
                "AWS_ACCESS_KEY_ID": ceph.access_key_id,
                "AWS_SECRET_ACCESS_KEY": ceph.secret_access_key,
                "AWS_REGION": "us-east-1",
            }
            boto3.client(
                "s3",
                endpoint_url=ceph.endpoint_url,
                region_name=env["AWS_REGION"],
                aws_access_key_id=ceph.access_key_id,
                aws_secret_access_key=ceph.secret_access_key,
            ).create_bucket(Bucket=BUCKET)
            yield env
    except Missing as missing:
        print(f"{missing}. Until then files are kept in .demo/files.", flush=True)
        yield {}


@asynccontextmanager
async def program(*arguments: str, env: Environment) -> AsyncIterator[Process]:
    """A Python program, ended with the block; Ctrl-C is for this process to pass on."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env=env, start_new_session=True
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(TO_STOP):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def main() -> None:
    port = int(os.environ.get("PORT") or 8000)
    ports = port, port + 1
    try:
        for each in ports:
            socket.create_server(("127.0.0.1", each)).close()
    except OSError:
        sys.exit(f"Port {each} is in use. Choose another one: PORT={port + 10} make scaled")
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with asyncio.TaskGroup() as tasks:
        deployment = tasks.create_task(deploy(ports))
        await stopping.wait()
        deployment.cancel()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except* (OpencodeError, Missing) as failed:
        sys.exit(str(failed.exceptions[0]))
