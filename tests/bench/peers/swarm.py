"""Docker Swarm: ``service update --update-order start-first`` on one node, which joins and leaves for this."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.bench.peers.contest import Contestant, settled
from tests.bench.peers.ground import HOST, OLD, PORT, QUICK, Ground, visited
from tests.contract import machinery

HEALTH_SECONDS = 0.5
"""Between two of its health checks. Each starts a process in the machine: more of them would slow down all else."""
PATIENCE = 120.0
GIVE_UP = 60.0
"""Seconds after which an update that does not end has not ended: Swarm itself goes on trying."""
MESH_SECONDS = 10.0
"""Seconds after which its routing mesh, which has a healthy replica behind it, is not going to answer."""
GATEWAY = "docker_gwbridge"
"""The network that a swarm leaves behind."""


class Swarm(Contestant):
    """One service per fleet, reached through its published port."""

    name = "Docker Swarm, start-first"

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self._api: Any = ground.lab.api

    @contextmanager
    def member(self) -> Iterator[None]:
        """This engine as a swarm of one; it must not be in one already.

        :raises AssertionError: it is.
        """
        state = self._api.info()["Swarm"]["LocalNodeState"]
        assert state == "inactive", f"this engine's swarm is {state}; leave it first"
        before = {each["Name"] for each in self._api.networks()}
        self._api.init_swarm(advertise_addr=HOST, listen_addr=f"{HOST}:{machinery.free_port()}")
        try:
            yield
        finally:
            self._api.leave_swarm(force=True)
            if GATEWAY not in before:
                with machinery.gone_is_fine():
                    self._api.remove_network(GATEWAY)

    @contextmanager
    def fleet(self, name: str, size: int) -> Iterator[int | None]:
        """That many replicas; no monitoring after each and no delay between two, so that nothing but work is left.

        Nobody gets to the published port where the kernel has no IPVS, on which Swarm's routing mesh is built.
        """
        front = machinery.free_port()
        machinery.output(
            [
                *("docker", "service", "create", "--detach", "--quiet", "--no-resolve-image"),
                *("--name", name, "--replicas", str(size), "--publish", f"published={front},target={PORT}"),
                *("--health-cmd", f"wget -q -O /dev/null http://{HOST}:{PORT}/healthz"),
                *("--health-interval", f"{HEALTH_SECONDS}s", "--health-retries", "3"),
                *("--update-order", "start-first", "--update-parallelism", "1"),
                *("--update-delay", "0s", "--update-monitor", "1ms", "--stop-grace-period", "10s"),
                self.ground.releases[OLD].reference,
            ]
        )
        try:
            assert settled(self.ground, Counter({OLD: size}), PATIENCE), "the swarm does not fill the service"
            machinery.wait_for(lambda: self._running(name) == size, "every replica to be healthy", PATIENCE)
            yield front if visited(front, QUICK, MESH_SECONDS) else None
        finally:
            self._api.remove_service(name)
            assert settled(self.ground, Counter(), PATIENCE), "the swarm does not remove its machines"

    def refresh(self, name: str, size: int, release: str) -> tuple[str, float]:
        """The update, until it says that it is over and nothing of the old release is left, or it gives up."""
        reference = self.ground.releases[release].reference
        machinery.output(
            ["docker", "service", "update", "--detach", "--quiet", "--no-resolve-image", "--image", reference, name]
        )
        give_up = time.monotonic() + GIVE_UP
        while (state := self._state(name)) in ("", "updating") and time.monotonic() < give_up:
            time.sleep(0.05)
        if state == "completed":
            assert settled(self.ground, Counter({release: size}), PATIENCE), "old machines do not go"
        return state or "nothing", 0.0

    def _state(self, name: str) -> str:
        found = self._api.inspect_service(name).get("UpdateStatus") or {}
        return str(found.get("State") or "")

    def _running(self, name: str) -> int:
        tasks = self._api.tasks(filters={"service": name, "desired-state": "running"})
        return sum(1 for each in tasks if each["Status"]["State"] == "running")
