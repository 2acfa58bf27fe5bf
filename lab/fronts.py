"""HAProxy processes of a lab on a platform: an empty balancer that the product, or the lab's ELB, fills."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from lab import haproxy
from lab.places import Places
from lab.processes import Processes
from lab.settings import HOST, choose_port


@dataclass(frozen=True)
class Front:
    """One of them."""

    name: str
    port: int
    control: str
    """Path of its runtime socket."""

    @property
    def url(self) -> str:
        """Where traffic comes in."""
        return f"http://{HOST}:{self.port}"


def start(places: Places, processes: Processes, name: str, backend: str) -> Front:
    """A new process of that name, once it answers."""
    front = Front(name, choose_port(0), str(places.run / f"{name}.sock"))
    file = places.home / f"{name}.cfg"
    file.write_text(haproxy.config(backend, front.port, Path(front.control)))
    processes.start(name, ["haproxy", "-db", "-f", str(file)])
    processes.wait_ready(name, lambda: haproxy.answers(Path(front.control), processes.pid(name)))
    return front


def owner_of(places: Places, platform: str) -> str:
    """What marks everything of the lab in those places on that platform, and begins its names."""
    home = str(places.home)
    usual = places.home == Path(f"/var/lib/phoenix-lab-{platform}")
    return f"phoenix-labs-{platform}" + ("" if usual else f"-{hashlib.sha256(home.encode()).hexdigest()[:6]}")
