"""A fleet of virtual machines on a libvirt host of the lab, behind HAProxy, and the census that is taken of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import lab.fleet
from lab import roots, tiny
from lab.fleet import Founder
from lab.libvirt_host import POOL
from phoenix_fleet.catalog import Catalog
from phoenix_fleet.config import Project
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.models import Artefact, Image, Instance, InstanceState
from phoenix_fleet.domain.windows import Version
from phoenix_fleet.platforms.libvirt import Driver
from tests.bench.peers.ground import BACKEND, BAD, NEW, OLD, conn_id, control_of, front
from tests.contract.machinery import KnownConnections, wait_for
from tests.orchestration import project
from tests.orchestration.alone import roll_out

WINDOWS = {OLD: project.OLD, NEW: project.NOW, BAD: project.NEXT}
FAMILY = "mini"


class Host(Protocol):
    """A libvirt host of the lab."""

    @property
    def connection(self) -> Connection: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    def opened(self) -> AbstractContextManager[Any]: ...


@dataclass(frozen=True)
class Census:
    """What a host holds: everything, whoever's it is."""

    domains: dict[str, bool]
    """Whether it runs, by UUID."""
    volumes: frozenset[str]
    images: frozenset[str]


@dataclass(frozen=True)
class World:
    """A host with three releases in its pool, a catalog that knows them, and one fleet."""

    host: Host
    folder: Path
    include: Path
    catalog: Catalog
    fleet: str
    size: int
    artefacts: dict[str, Artefact]

    @property
    def connections(self) -> KnownConnections:
        return KnownConnections(
            self.host.connection,
            Connection("phoenix_ssh", extra={"key_file": str(self.folder / "id")}),
            Connection(conn_id(self.fleet), extra={"socket": str(control_of(self.folder, self.fleet))}),
        )

    @property
    def is_xen(self) -> bool:
        return bool(self.host.settings["domain"] == "xen")

    @property
    def platform(self) -> Driver:
        return Driver(Driver.Settings(**self.host.settings), self.connections)

    def image(self, version: str) -> Image:
        return self.catalog.images.get(FAMILY, Version.parse(version))

    def instances(self) -> list[Instance]:
        return list(self.platform.list_instances(self.fleet))

    def versions(self) -> Counter[str]:
        """How many run of each release."""
        return Counter(each.version for each in self.instances() if each.state is InstanceState.RUNNING)

    def refresh(self, version: str) -> None:
        """The fleet on that release. :raises StepFailed: the rollout is halted."""
        roll_out(
            self.catalog, Project(self.include), self.fleet, self.image(version), WINDOWS[version], self.connections,
            self.folder / "proof",
        )  # fmt: skip

    @contextmanager
    def filled(self) -> Iterator[int]:
        """The fleet on the oldest release, behind a balancer; the port that visitors come to."""
        with front(self.folder, self.fleet) as balancer:
            founder = Founder(Project(self.include), self.connections, self.folder / "id.pub", self.folder)
            try:
                # Two at once on one emulated processor, where each look is an SSH connection of its own.
                with mock.patch.multiple(lab.fleet, PATIENCE=600, PAUSE=20 if self.is_xen else 0.3):
                    founder.fill([self.fleet], self.image(OLD), print)
                yield balancer.port
            finally:
                self.empty()

    def empty(self) -> None:
        """End every machine."""
        for each in self.instances():
            self.platform.terminate(each.id)
        wait_for(lambda: not self.instances(), "the last machine to go", 200)

    def census(self) -> Census:
        with self.host.opened() as api:
            pool = api.storagePoolLookupByName(POOL)
            pool.refresh(0)
            names = {volume.name() for volume in pool.listAllVolumes(0)}
            # Xen's driver lists its host among them, as the domain 0.
            found = [domain for domain in api.listAllDomains(0) if domain.ID() != 0]
            domains = {domain.UUIDString(): bool(domain.isActive()) for domain in found}
        images = {tiny.volume_of(artefact) for artefact in self.artefacts.values()}
        return Census(domains, frozenset(names - images), frozenset(names & images))

    def expected(self, *, console: bool) -> Census:
        """What it must hold: the fleet's machines with the volumes that each of them has, and the images."""
        known = {each.id: True for each in self.instances()}
        kinds = ("qcow2", "iso", "log") if console else ("qcow2", "iso")
        images = {tiny.volume_of(artefact) for artefact in self.artefacts.values()}
        return Census(known, frozenset(f"{each}.{kind}" for each in known for kind in kinds), frozenset(images))


def disks(cache: Path) -> dict[str, Path]:
    """The three releases; the last has a service that does not come up."""
    return {version: tiny.disk(cache, version, serves=version != BAD, log=print) for version in (OLD, NEW, BAD)}


@contextmanager
def world(host: Host, folder: Path, cache: Path, fleet: str, size: int) -> Iterator[World]:
    """All of it; the machines are gone afterwards, and the host stays."""
    roots.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", folder / "id")
    with host.opened() as api:
        artefacts = {version: tiny.put(api, POOL, FAMILY, version, disk) for version, disk in disks(cache).items()}
    include = project.write(folder)
    project.add_fleet(
        include,
        fleet,
        size=size,
        platform={"libvirt": host.settings},
        balancer={
            "haproxy": {
                "connection": conn_id(fleet),
                "backend": BACKEND,
                "port": tiny.PORT,
                "check_interval_ms": 500,
            }
        },
        configurator="none",
        verify=[{"health": {"port": tiny.PORT, "path": "/healthz", "samples": 2, "identify": False}}],
    )
    catalog = Catalog(f"sqlite:///{folder}/catalog.db")
    catalog.migrate()
    try:
        for version, window in WINDOWS.items():
            assert str(project.release(catalog, FAMILY, window, artefacts[version])) == version
        yield World(host, folder, include, catalog, fleet, size, artefacts)
    finally:
        catalog.close()
