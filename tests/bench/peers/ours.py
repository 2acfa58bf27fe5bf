"""The product on the docker platform behind HAProxy: its engine in a loop, and the same through Airflow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab.fleet import Founder
from phoenix_fleet.catalog import Catalog
from phoenix_fleet.config import Project
from phoenix_fleet.domain.errors import StepFailed
from phoenix_fleet.domain.windows import Version, Window
from tests.bench.peers.contest import Contestant
from tests.bench.peers.ground import BACKEND, BAD, CHECK_MS, FAMILY, HOST, NEW, OLD, PORT, Ground, conn_id, front, known
from tests.contract.machinery import SOCKET, KnownConnections
from tests.orchestration import project
from tests.orchestration.alone import roll_out
from tests.orchestration.stack import Stack

WINDOWS = {OLD: project.OLD, NEW: project.NOW, BAD: project.NEXT}


def write_fleets(ground: Ground, include: Path, fleets: dict[str, int]) -> None:
    """A fleet file for each of these names and sizes; one machine at a time, nothing watched, no wait that is ours."""
    for name, size in fleets.items():
        project.add_fleet(
            include,
            name,
            size=size,
            platform={"docker": {"network": ground.lab.network}},
            balancer={
                "haproxy": {
                    "connection": conn_id(name),
                    "backend": BACKEND,
                    "port": PORT,
                    "check_interval_ms": CHECK_MS,
                }
            },
            configurator="none",
            verify=[{"health": {"port": PORT, "path": "/healthz", "samples": 1, "identify": False}}],
        )


def release_all(ground: Ground, catalog: Catalog) -> None:
    """The releases in the catalog, as they are in the registry."""
    for version, window in WINDOWS.items():
        released = project.release(catalog, FAMILY, window, ground.releases[version])
        assert str(released) == version, f"the catalog calls {version} {released}"


def variables(ground: Ground, fleets: Sequence[str]) -> dict[str, str]:
    """What tells Airflow of the same connections."""
    found = {
        "AIRFLOW_CONN_DOCKER": {"conn_type": "generic", "host": SOCKET},
        "AIRFLOW_CONN_REGISTRY": {
            "conn_type": "http",
            "host": HOST,
            "port": ground.lab.connections.known["registry"].port,
        },
    }
    for connection in known(ground, fleets):
        if "socket" in connection.extra:
            name = f"AIRFLOW_CONN_{connection.id.upper()}"
            found[name] = {"conn_type": "generic", "extra": dict(connection.extra)}
    return {name: json.dumps(value) for name, value in found.items()}


class Ours(Contestant):
    """A fleet by its file, filled by the product's own drivers."""

    def __init__(self, ground: Ground, stack: Stack, fleets: Sequence[str]) -> None:
        super().__init__(ground)
        self.stack = stack
        self.connections = KnownConnections(*known(ground, fleets))

    @property
    def files(self) -> Project:
        """The project."""
        return Project(self.stack.include)

    @contextmanager
    def fleet(self, name: str, size: int) -> Iterator[int]:
        """Its slots filled, all at once."""
        with front(self.ground.folder, name) as balancer:
            founder = Founder(self.files, self.connections, self.ground.folder / "id.pub", self.ground.folder)
            try:
                founder.fill([name], self.stack.catalog.images.get(FAMILY, Version.parse(OLD)), lambda _: None)
                yield balancer.port
            finally:
                self.ground.sweep()


class Alone(Ours):
    """The engine in a loop."""

    name = "Phoenix Fleet, engine alone"

    def refresh(self, name: str, size: int, release: str) -> tuple[str, float]:
        """The whole rollout: plan, tickets, nine steps each."""
        catalog, window = self.stack.catalog, WINDOWS[release]
        image = catalog.images.get(FAMILY, Version.parse(release))
        try:
            paused = roll_out(catalog, self.files, name, image, window, self.connections, self.ground.folder / "proof")
        except StepFailed as error:
            return f"halted: {error}", 0.0
        return "completed", paused


class ThroughAirflow(Ours):
    """The fleet's DAG."""

    name = "Phoenix Fleet through Airflow"

    def refresh(self, name: str, size: int, release: str) -> tuple[str, float]:
        """One run of the DAG, from the request to start it until it has ended."""
        user, window = self.stack.user, WINDOWS[release]
        conf = {"reason": "a benchmark", "window": str(window), "release": release}
        ended = user.wait(f"fleet.{name}", user.trigger(f"fleet.{name}", conf))
        return "completed" if ended == "success" else ended, 0.0

    def warm_up(self, name: str, window: Window) -> None:
        """The first tasks after a start are slow, and a rollout is not what follows a start."""
        user, dag_id = self.stack.user, f"fleet.{name}"
        run = user.trigger(dag_id, {"reason": "to warm up", "window": str(window), "dry_run": True})
        assert user.wait(dag_id, run) == "success"
