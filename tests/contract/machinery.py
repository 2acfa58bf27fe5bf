"""What the contract tests stand on: free ports, processes that end, a registry, a tiny image, waiting."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import docker
import docker.errors
import httpx

from lab.places import REPOSITORY
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import InvalidConfig

Seen = TypeVar("Seen")
SOCKET = "/var/run/docker.sock"

# Keeps a key of its own over restarts, and ends when told to, as a real image does at "reboot".
SERVE = (
    "mkdir -p /etc/ssh; k=/etc/ssh/ssh_host_ed25519_key.pub; "
    '[ -f $k ] || echo "ssh-ed25519 $(head -c 33 /dev/urandom | base64 -w0) root@here" > $k; '
    "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done"
)


def wait_for(see: Callable[[], Seen | None], what: str, seconds: float = 15) -> Seen:
    """The first answer that is not None or False."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        seen = see()
        if seen:
            return seen
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s in vain for {what}")


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@contextmanager
def running(argv: list[str], log: Path, *, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process for as long as the block lasts."""
    with open(log, "wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT, env=env)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class KnownConnections:
    """The connections of a test, by id."""

    def __init__(self, *known: Connection) -> None:
        self.known = {connection.id: connection for connection in known}

    def __call__(self, conn_id: str) -> Connection:
        if conn_id not in self.known:
            raise InvalidConfig(f"There is no connection '{conn_id}'.")
        return self.known[conn_id]


@contextmanager
def registry(folder: Path, *, deletion: bool = True) -> Iterator[int]:
    """The port of an empty registry on loopback."""
    port = free_port()
    config = folder / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {folder / 'storage'}}}\n"
        f"  delete: {{enabled: {str(deletion).lower()}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with running(["docker-registry", "serve", str(config)], folder / "registry.log") as process:

        def answers() -> bool:
            assert process.poll() is None, (folder / "registry.log").read_text()
            try:
                return httpx.get(f"http://127.0.0.1:{port}/v2/", trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        wait_for(answers, "the registry")
        yield port


def busybox(folder: Path, packages: Sequence[str] = ()) -> bytes:
    """A root file system of 2 MB, as a tar: one static busybox under its names, and what else is asked for."""
    target = folder / "busybox.tar"
    subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--variant=extract", f"--include={','.join(['busybox-static', *packages])}"),
            *("--extract-hook=mkdir -p $1/root && chroot $1 /bin/busybox --install -s /bin", "bookworm", str(target)),
        ],
        check=True,
        capture_output=True,
    )
    return target.read_bytes()


def image(api: docker.APIClient, root: bytes, name: str, labels: Mapping[str, str], command: list[str]) -> str:
    """The digest of a new image, pushed under that name (``host:port/repository:tag``)."""
    repository, _, tag = name.rpartition(":")
    changes = [f"CMD {json.dumps(command)}", *(f"LABEL {key}={json.dumps(value)}" for key, value in labels.items())]
    api.import_image_from_data(root, repository=repository, tag=tag, changes=changes)
    for line in api.push(repository, tag=tag, stream=True, decode=True):
        assert "error" not in line, line
        if "aux" in line:
            digest = str(line["aux"]["Digest"])
    # Only the registry keeps it, so that a launch has to pull.
    api.remove_image(name)
    return digest


@contextmanager
def gone_is_fine() -> Iterator[None]:
    """Removing what is no longer there is no failure of the clean-up."""
    try:
        yield
    except docker.errors.NotFound:
        return


class Restartable:
    """A process that can be stopped and started again."""

    def __init__(self, argv: list[str], log: Path, answers: Callable[[], bool]) -> None:
        self._argv, self._log, self._answers = argv, log, answers
        self._stack = ExitStack()

    def __enter__(self) -> Restartable:
        self._start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def restart(self) -> None:
        self._stack.close()
        self._start()

    def _start(self) -> None:
        process = self._stack.enter_context(running(self._argv, self._log))

        def up() -> bool:
            assert process.poll() is None, self._log.read_text()
            return self._answers()

        wait_for(up, self._argv[0])


def output(argv: list[str], *, check: bool = True) -> str:
    """What a program wrote on its standard output."""
    return subprocess.run(argv, check=check, capture_output=True, text=True).stdout


_TELLING = """
import sys, time
from pathlib import Path
from lab import qemu_host, temporary
from lab.libvirt_host import LibvirtHost

def tell(what):
    Path(sys.argv[1] + ".part").write_text(str(what))
    Path(sys.argv[1] + ".part").rename(sys.argv[1])
    time.sleep(600)
"""


def killed_when_ready(program: str, told: Path, seconds: float = 120) -> str:
    """What a program with labs at hand said with ``tell``; it was killed at that moment, and cleared nothing up."""
    path = os.pathsep.join(str(REPOSITORY / each) for each in ("", "include"))
    argv = [sys.executable, "-c", _TELLING + program, str(told)]
    process = subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": path})
    try:

        def ready() -> bool:
            assert process.poll() is None, f"it ended by itself: {process.returncode}"
            return told.exists()

        wait_for(ready, "the program to be ready", seconds)
    finally:
        process.kill()
        process.wait()
    return told.read_text()
