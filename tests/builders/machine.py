"""A machine to provision that is none: an sshd in a root file system of its own, on a port of loopback.

Whoever is root there reaches no file of this machine's: it has its own mounts and processes.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phoenix_fleet import seeds
from phoenix_fleet.configbuild import Seed
from tests.contract.machinery import free_port

PACKAGES = ("openssh-server", "sudo")


class Machine:
    """The sshd, and the folder that is its world."""

    def __init__(self, root: Path, port: int) -> None:
        self.root, self.port = root, port

    @property
    def keys(self) -> Path:
        """Who may log in as root."""
        return self.root / "root/.ssh/authorized_keys"

    def admit(self, *public: str) -> None:
        """Let in whoever has one of these keys, and nobody else."""
        self.keys.parent.mkdir(mode=0o700, exist_ok=True)
        self.keys.write_text("".join(f"{key.strip()}\n" for key in public))
        self.keys.chmod(0o600)


@contextmanager
def running(folder: Path) -> Iterator[Machine]:
    """A machine in that folder, for as long as the block lasts."""
    root = folder / "root"
    root.mkdir()
    tar = seeds.root_file_system(Seed(suite="bookworm", include=PACKAGES), print)
    subprocess.run(["tar", "--numeric-owner", "-xpf", str(tar), "-C", str(root)], check=True)
    (root / "run/sshd").mkdir(parents=True, exist_ok=True)
    port = free_port()
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    argv += ["chroot", str(root), "/usr/sbin/sshd", "-D", "-e", "-p", str(port)]
    for option in ("ListenAddress=127.0.0.1", "PermitRootLogin=prohibit-password", "UsePAM=no", "MaxStartups=100"):
        argv += ["-o", option]
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait(process, port, folder / "sshd.log")
        yield Machine(root, port)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        shutil.rmtree(root)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(log.read_text())
