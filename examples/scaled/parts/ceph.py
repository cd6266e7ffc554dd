"""A real Ceph, as small as it goes: a monitor, an OSD in memory, and its S3 gateway.

Everything listens on the loopback interface, and nothing is kept (1 s to start, 130 MB).
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from examples.scaled.parts.missing import Missing
from opencode_async.client.local_server import free_port

START_TIMEOUT = 30.0  # s
CALL_TIMEOUT = 20.0  # without an OSD these programs wait for minutes
STOP_TIMEOUT = 1.0
PROGRAMS = (
    *("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin"),
)
CONFIGURATION = """[global]
fsid = {fsid}
mon_host = [v1:127.0.0.1:{monitor_port}/0]
; with the second protocol and no authentication the gateway hangs
ms_bind_msgr2 = false
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
; with the default of a second, each step of the start waits for several
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = true
mon_data_avail_crit = 1
mon_data_avail_warn = 2
osd_crush_chooseleaf_type = 0
; one start in four ended with "wrong fsid" otherwise
osd_crush_update_on_start = false
osd_class_update_on_start = false
osd_objectstore = memstore
memstore_device_bytes = 2147483648
osd_class_load_list = *
osd_class_default_list = *
run_dir = {folder}
admin_socket = {folder}/$name.asok
log_file = {folder}/$name.log
keyring = {folder}/keyring
mon_data = {folder}/mon
osd_data = {folder}/osd
rgw_data = {folder}/rgw
rgw_frontends = beast endpoint=127.0.0.1:{port}
rgw_enable_ops_log = false
; else a new bucket waits 25 s for a gateway that was killed to confirm that it heard of it
rgw_cache_enabled = false
"""


@contextmanager
def ceph_cluster() -> Iterator[Ceph]:
    """A running one; at the end it is removed with all its objects. Raises ``Missing``."""
    if not all(map(shutil.which, PROGRAMS)):
        raise Missing("Ceph", "`apt-get install ceph-mon ceph-osd radosgw`")
    with tempfile.TemporaryDirectory(prefix="ceph-") as name:
        ceph = Ceph(Path(name))
        try:
            ceph.start()
            yield ceph
        finally:
            ceph.stop()


class Ceph:
    """The cluster's processes, the S3 endpoint and one user's keys."""

    def __init__(self, folder: Path) -> None:
        self.access_key_id, self.secret_access_key = secrets.token_hex(10), secrets.token_hex(20)
        self._port, self._monitor_port = free_port(), free_port()
        self.endpoint_url = f"http://127.0.0.1:{self._port}"
        self._folder, self._fsid = folder, str(uuid.uuid4())
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {**os.environ, "CEPH_CONF": str(folder / "ceph.conf")}

    def start(self) -> None:
        """Make the cluster and start it, until the gateway takes requests."""
        self._configure()
        self._start_monitor()
        self._start_osd()
        self.start_gateway()
        keys = (f"--access-key={self.access_key_id}", f"--secret={self.secret_access_key}")
        self._call("radosgw-admin", "user", "create", "--uid=u", "--display-name=u", *keys)

    def stop(self) -> None:
        """In this order: the gateway and the OSD hang when what they talk to is gone."""
        for name in ("gateway", "osd", "monitor"):
            process = self._running.pop(name, None)
            if process is not None:
                end(process)

    def kill_gateway(self) -> None:
        """End it as a crash would (SIGKILL); the objects are not with it."""
        process = self._running.pop("gateway")
        process.kill()
        process.wait()

    def start_gateway(self) -> None:
        """Start it, or again, on the same port (0.1 s); nothing happens if it runs."""
        if "gateway" in self._running:
            return
        self._start("gateway", "radosgw", "-f", "-n", "client.rgw")
        self._wait("gateway", self._accepts)

    def _configure(self) -> None:
        for part in ("mon", "osd", "rgw"):
            (self._folder / part).mkdir()
        (self._folder / "ceph.conf").write_text(
            CONFIGURATION.format(
                fsid=self._fsid,
                folder=self._folder,
                monitor_port=self._monitor_port,
                port=self._port,
            )
        )

    def _start_monitor(self) -> None:
        address = f"[v1:127.0.0.1:{self._monitor_port}]"
        keyring = ("--create-keyring", "keyring", "--gen-key", "-n", "mon.")
        self._call("ceph-authtool", *keyring, "--cap", "mon", "allow *")
        named = ("--create", "--clobber", "--fsid", self._fsid, "--addv", "a", address)
        self._call("monmaptool", *named, "monmap")
        which = ("-i", "a", "--monmap", "monmap")
        self._call("ceph-mon", "--mkfs", *which, "--keyring", "keyring")
        self._start("monitor", "ceph-mon", "-f", *which)

    def _start_osd(self) -> None:
        osd = str(uuid.uuid4())
        self._tell("osd", "new", osd)
        self._tell("osd", "crush", "add", "osd.0", "1.0", "root=default")
        self._call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._start("osd", "ceph-osd", "-i", "0", "-f")
        self._wait("osd", lambda: "1 up" in self._tell("osd", "stat"))

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def _tell(self, *command: str) -> str:
        """The monitor's answer; at first it refuses to say what commands it knows, now and then."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                return self._call("ceph", *command)
            except RuntimeError as error:
                if "command descriptions" not in str(error) or time.monotonic() > deadline:
                    raise

    def _call(self, *program: str) -> str:
        done = subprocess.run(
            program,
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CALL_TIMEOUT,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(program)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def _start(self, name: str, *program: str) -> None:
        with (self._folder / f"{name}.output").open("ab") as output:
            self._running[name] = subprocess.Popen(
                program,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not ready():
            if self._running[name].poll() is not None or time.monotonic() > deadline:
                said = (self._folder / f"{name}.output").read_text(errors="replace")
                raise RuntimeError(f"Ceph's {name} did not start:\n{said}")
            time.sleep(0.02)


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
