"""What every contestant stands on: one engine, one registry, the same tiny service, a balancer, and a visitor."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab import haproxy
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.models import Artefact
from tests.contract import machinery
from tests.contract.platforms_docker import DockerLab, opened

HOST = "127.0.0.1"
PORT = 8080
"""Where the service answers, on every machine."""
FAMILY, OLD, NEW, BAD = "mini", "2026.10-1", "2026.11-1", "2026.12-1"
"""Three releases of one image; the last one serves, and never says that it is healthy."""
CHECK_MS = 200
"""Between two of HAProxy's checks."""
BACKEND = "web"

# The SSH server is for the one contestant that asks a new machine who it is; the others start it just the same.
_PACKAGES = ("dropbear-bin",)
_SERVE = (
    "mkdir -p /etc/ssh /etc/dropbear /www/cgi-bin; cd /www; "
    "dropbearkey -t ed25519 -f /etc/dropbear/key >/dev/null 2>&1; "
    "dropbearkey -y -f /etc/dropbear/key | grep ^ssh- >/etc/ssh/ssh_host_ed25519_key.pub; "
    "echo {release} >index.html; {healthy}"
    r"printf '#!/bin/sh\nsleep 2\necho Content-Type: text/plain\necho\necho {release}\n' >cgi-bin/slow; "
    "chmod +x cgi-bin/slow; httpd -p 8080 -h /www; dropbear -r /etc/dropbear/key; "
    "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done"
)
QUICK, SLOW = "/", "/cgi-bin/slow"
"""A page at once, and one that takes two seconds."""


@dataclass(frozen=True)
class Ground:
    """The engine with its network, and the releases in the registry, each pulled already."""

    lab: DockerLab
    folder: Path
    releases: dict[str, Artefact]

    def machines(self) -> Counter[str]:
        """How many containers run of each release. (A swarm keeps some that have ended, for its history.)"""
        known = {artefact.digest: version for version, artefact in self.releases.items()}
        found: Counter[str] = Counter()
        for each in self.lab.api.containers():
            digest = str(each["Image"]).partition("@")[2]
            if digest in known:
                found[known[digest]] += 1
        return found

    def sweep(self) -> None:
        """Remove every machine."""
        self.lab.sweep()


@contextmanager
def ground(folder: Path) -> Iterator[Ground]:
    """All of it, gone afterwards."""
    with opened(folder, _PACKAGES) as lab:
        releases = {}
        for version in (OLD, NEW, BAD):
            healthy = "" if version == BAD else "echo ok >healthz; "
            command = _SERVE.format(release=version, healthy=healthy)
            releases[version] = artefact = lab.artefact(FAMILY, version, command=command)
            repository, _, digest = artefact.reference.partition("@")
            lab.api.pull(repository, tag=digest)
        (folder / "id.pub").write_text("ssh-ed25519 AAAA nobody logs in\n")
        yield Ground(lab, folder, releases)


@dataclass(frozen=True)
class Front:
    """A balancer of one contestant's own: its runtime socket and the port that visitors come to."""

    control: Path
    port: int


def control_of(folder: Path, name: str) -> Path:
    """The runtime socket of the balancer of that name."""
    return folder / f"{name}.sock"


@contextmanager
def front(folder: Path, name: str) -> Iterator[Front]:
    """HAProxy without a server."""
    control, port = control_of(folder, name), machinery.free_port()
    file = folder / f"{name}.cfg"
    file.write_text(haproxy.config(BACKEND, port, control))
    with machinery.running(["haproxy", "-db", "-f", str(file)], folder / f"{name}.log") as process:
        machinery.wait_for(lambda: haproxy.answers(control, process.pid), "HAProxy")
        yield Front(control, port)


class Visitor(threading.Thread):
    """Requests at a steady rate, each on a connection of its own, from the block's beginning to its end."""

    def __init__(self, port: int, paths: Sequence[str] = (QUICK,), per_second: float = 20) -> None:
        super().__init__(name="visitor", daemon=True)
        self._port, self._paths, self._pause = port, paths, 1 / per_second
        self._over = threading.Event()
        self._guests: list[threading.Thread] = []
        self.answers: Counter[str] = Counter()
        """By the release that answered; ``failed`` are those that nobody would have accepted."""

    def __enter__(self) -> Visitor:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        for guest in self._guests:
            guest.join()

    @property
    def sent(self) -> int:
        """How many requests are answered, well or not."""
        return self.answers.total()

    def run(self) -> None:
        """Send until the end; what takes long is waited for by a thread of its own."""
        number = 0
        while not self._over.wait(self._pause):
            path = self._paths[number % len(self._paths)]
            number += 1
            if path == QUICK:
                self._visit(path)
            else:
                self._guests.append(guest := threading.Thread(target=self._visit, args=(path,), daemon=True))
                guest.start()

    def _visit(self, path: str) -> None:
        self.answers[_asked(self._port, path, 15) or "failed"] += 1


def visited(port: int, path: str, seconds: float) -> bool:
    """Whether a visitor gets an answer there within so many seconds."""
    give_up = time.monotonic() + seconds
    while not _asked(port, path, 1):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.1)
    return True


def _asked(port: int, path: str, seconds: float) -> str:
    """The release that answers, and nothing if none does or not well."""
    connection = http.client.HTTPConnection(HOST, port, timeout=seconds)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        said = reply.read().decode().strip()
        return said if reply.status == 200 else ""
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def known(ground: Ground, names: Sequence[str]) -> list[Connection]:
    """Connections to what every one of these fleets needs: engine, registry, key and its own balancer."""
    return [
        *ground.lab.connections.known.values(),
        Connection("phoenix_ssh", extra={"key_file": str(ground.folder / "id")}),
        *(Connection(conn_id(name), extra={"socket": str(control_of(ground.folder, name))}) for name in names),
    ]


def conn_id(fleet: str) -> str:
    """The connection of that fleet's balancer."""
    return f"haproxy_{fleet.replace('-', '_')}"
