"""A fleet of virtual machines on a libvirt host of the lab, behind HAProxy, and the census that is taken of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import lab.fleet
from lab import tiny
from lab.guests import BAD, NEW, OLD
from lab.libvirt_host import POOL
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import NotFound, TransientError
from phoenix_fleet.domain.models import Instance, InstanceState
from phoenix_fleet.platforms.libvirt import Driver
from tests.bench.peers.ground import BACKEND, conn_id, control_of, front
from tests.contract.machinery import KnownConnections, wait_for
from tests.e2e.refresh import Ground, make_key

FAMILY = "tiny"


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
    """A host with three releases in its pool, and one fleet on it."""

    host: Host
    ground: Ground
    fleet: str
    images: frozenset[str]
    """The volumes that were there before any machine."""

    @property
    def is_xen(self) -> bool:
        return bool(self.host.settings["domain"] == "xen")

    @property
    def platform(self) -> Driver:
        return Driver(Driver.Settings(**self.host.settings), self.ground.connections)

    @property
    def public_key(self) -> str:
        return self.ground.key.with_suffix(".pub").read_text().strip()

    def instances(self) -> list[Instance]:
        return self.ground.instances(self.fleet)

    def versions(self) -> Counter[str]:
        """How many run of each release."""
        return Counter(each.version for each in self.instances() if each.state is InstanceState.RUNNING)

    @contextmanager
    def filled(self) -> Iterator[int]:
        """The fleet on the oldest release, behind a balancer; the port that visitors come to."""
        with front(self.ground.folder, self.fleet) as balancer:
            try:
                # Two at once on one emulated processor.
                with mock.patch.multiple(lab.fleet, PATIENCE=600, PAUSE=5 if self.is_xen else 0.3):
                    self.ground.fill(self.fleet)
                yield balancer.port
            finally:
                self.empty()

    def empty(self) -> None:
        """End every machine, however often the host has to be asked."""

        def ended() -> bool:
            with suppress(TransientError, NotFound):
                for each in self.instances():
                    self.platform.terminate(each.id)
                return not self.instances()
            return False

        wait_for(ended, "the last machine to go", 200)

    def census(self) -> Census:
        with self.host.opened() as api:
            pool = api.storagePoolLookupByName(POOL)
            pool.refresh(0)
            names = {volume.name() for volume in pool.listAllVolumes(0)}
            # Xen's driver lists its host among them, as the domain 0.
            found = [domain for domain in api.listAllDomains(0) if domain.ID() != 0]
            domains = {domain.UUIDString(): bool(domain.isActive()) for domain in found}
        return Census(domains, frozenset(names - self.images), frozenset(names & self.images))

    def expected(self) -> Census:
        """What it must hold: the machines that the catalog promises with the volumes of each, and the images."""
        promised = self.ground.promised()
        kinds = ("qcow2", "iso") if self.is_xen else ("qcow2", "iso", "log")
        volumes = frozenset(f"{each}.{kind}" for each in promised for kind in kinds)
        return Census(dict.fromkeys(promised, True), volumes, self.images)


def disks(cache: Path) -> dict[str, Path]:
    """The three releases; the last has a service that does not come up."""
    return {version: tiny.disk(cache, version, serves=version != BAD, log=print) for version in (OLD, NEW, BAD)}


@contextmanager
def world(
    host: Host, folder: Path, cache: Path, fleet: str, size: int, others: frozenset[str] = frozenset()
) -> Iterator[World]:
    """All of it; the machines are gone afterwards, and the host stays. ``others`` are images that it has already."""
    with host.opened() as api:
        artefacts = {version: tiny.put(api, POOL, FAMILY, version, disk) for version, disk in disks(cache).items()}
    connections = KnownConnections(
        host.connection,
        Connection("phoenix_ssh", extra={"key_file": str(make_key(folder))}),
        Connection(conn_id(fleet), extra={"socket": str(control_of(folder, fleet))}),
    )
    ground = Ground(folder, connections, artefacts, FAMILY)
    try:
        ground.declare(
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
            timeouts={"ready": "1h"},
        )
        images = frozenset(tiny.volume_of(artefact) for artefact in artefacts.values())
        yield World(host, ground, fleet, images | others)
    finally:
        ground.catalog.close()
