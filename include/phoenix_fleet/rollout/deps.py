"""Everything a rollout works with, made from configuration by convention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phoenix_fleet import drivers
from phoenix_fleet.balancers.base import Balancer
from phoenix_fleet.config import Access, Driver, Fleet, Project
from phoenix_fleet.configurators.base import Configurator
from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.clock import Clock, SystemClock
from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.domain.models import Environment, Instance, LaunchIntent
from phoenix_fleet.gates.base import Gate
from phoenix_fleet.platforms.base import Platform, Volumes
from phoenix_fleet.rollout import sshprobe
from phoenix_fleet.rollout.revisions import InService, Revisions

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog

SshProbe = Callable[[Instance], tuple[str, ...]]
"""The SSH host keys of whatever answers at an instance's address; none while nothing answers."""


@dataclass(frozen=True)
class NamedGate:
    """A gate under the name that its measurements are recorded with."""

    name: str
    gate: Gate


@dataclass(frozen=True)
class Neighbour:
    """A fleet that this one depends on, by its file as it is now, and what it is seen with."""

    fleet: Fleet
    platform: Platform
    balancer: Balancer


@dataclass(frozen=True)
class Deps:
    """What the engine works with. Tests put fakes in; ``deps_for`` loads what the files name."""

    catalog: Catalog
    platform: Platform
    balancer: Balancer
    configurator: Configurator
    verify_gates: tuple[NamedGate, ...]
    watch_gates: tuple[NamedGate, ...]
    environment: Environment
    """The components and values that every new instance gets."""
    ssh_probe: SshProbe | None
    """None where nobody can log in: replicas of workloads."""
    workdir: Path
    """Where gates keep their proof."""
    log: Callable[[str], None]
    clock: Clock = field(default_factory=SystemClock)
    """The catalog's, outside tests: holders on several hosts count on from what others have noted."""
    authorized_key: str = ""
    """Public SSH key that new instances accept, in OpenSSH's form; empty for none."""
    neighbours: tuple[Neighbour, ...] = ()
    """The fleets that must be whole for a replacement to begin."""
    volumes: Volumes | None = None
    """The platform, if the fleet has data volumes there."""
    quorum_gates: tuple[NamedGate, ...] = ()
    rehearse: Callable[[LaunchIntent], None] | None = None
    """Has the platform check a launch without making it; None where it cannot."""


def deps_for(
    project: Project,
    fleet: Fleet,
    catalog: Catalog,
    connections: Connections,
    *,
    log: Callable[[str], None],
    workdir: Path,
) -> Deps:
    """Everything that the fleet's file names, loaded and set up; no I/O but reading files.

    :raises InvalidConfig: a driver, connection, environment or key is missing or wrong.
    """
    platform, balancer = seen_through(project, fleet, connections)
    revisions = platform if isinstance(platform, Revisions) else None
    return Deps(
        catalog=catalog,
        platform=platform,
        balancer=balancer,
        configurator=load("configurators", fleet.configurator, connections),
        verify_gates=load_gates(fleet.verify, connections, fleet.home),
        watch_gates=load_gates(fleet.watch, connections, fleet.home),
        environment=project.family(fleet.family).environment(fleet.environment),
        ssh_probe=None if revisions else probe_for(platform),
        workdir=workdir,
        log=log,
        clock=catalog.clock,
        authorized_key="" if revisions else public_key(fleet.access, connections),
        volumes=volumes_of(platform, fleet),
        quorum_gates=load_gates(fleet.quorum, connections, fleet.home),
        neighbours=tuple(neighbour_of(project, project.fleet(name), connections) for name in fleet.depends_on),
        rehearse=revisions.rehearse if revisions else None,
    )


def seen_through(project: Project, fleet: Fleet, connections: Connections) -> tuple[Platform, Balancer]:
    """The platform and the balancer that the fleet's file names, or its workloads as if they were both."""
    if fleet.workload is None:
        return load("platforms", fleet.runs_on, connections), load("balancers", fleet.balancer, connections)
    target = project.family(fleet.family).target(fleet.artefact_platform)
    workload = load("workloads", fleet.workload, connections)
    revisions = Revisions(workload, fleet.name, fleet.size, load("platforms", target.platform, connections))
    return revisions, InService(revisions)


def volumes_of(platform: Platform, fleet: Fleet) -> Volumes | None:
    """The platform, asked for its data volumes; None if the fleet has none.

    :raises InvalidConfig: it should have some, and the platform has none.
    """
    if not fleet.volumes:
        return None
    if not isinstance(platform, Volumes):
        raise InvalidConfig(
            f"{fleet.name} declares volumes, and the platform {fleet.runs_on.name} has no data volumes.",
            remedy="Take another platform; docs/howto/stateful-fleets.md names those that have them.",
        )
    return platform


def neighbour_of(project: Project, fleet: Fleet, connections: Connections) -> Neighbour:
    """That fleet with the drivers that its file names."""
    return Neighbour(fleet, *seen_through(project, fleet, connections))


def load(seam: drivers.Seam, declared: Driver, connections: Connections) -> Any:
    """The driver that a file names, with its settings."""
    driver = drivers.load(seam, declared.name)
    return driver(driver.Settings.model_validate(declared.settings), connections)


def load_gates(declared: Sequence[Driver], connections: Connections, home: Path) -> tuple[NamedGate, ...]:
    """The gates that a file names, each under a name of its own: its label, or the driver's name, counted if twice."""
    found: list[NamedGate] = []
    for entry in declared:
        driver = drivers.load("gates", entry.name)
        gate: Gate = driver(driver.Settings.model_validate(entry.settings), connections, home)
        name = str(entry.settings.get("label") or entry.name)
        twins = sum(1 for each in found if each.name == name or each.name.startswith(f"{name} ("))
        found.append(NamedGate(f"{name} ({twins + 1})" if twins else name, gate))
    return tuple(found)


def public_key(access: Access, connections: Connections) -> str:
    """The public half of the key that instances are reached with.

    :raises InvalidConfig: the connection names no key, or ``<key_file>.pub`` cannot be read.
    """
    connection = connections(access.connection)
    path = Path(f"{connection.extra.get('key_file') or ''}.pub")
    try:
        lines = path.read_text(encoding="utf-8").strip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(
            f"Connection '{access.connection}': the public key {path} cannot be read: {error}.",
            remedy="Let extra.key_file name the private key, with its .pub beside it.",
        ) from None
    if len(lines) != 1 or " " not in lines[0]:
        raise InvalidConfig(f"{path} does not hold one public SSH key.", remedy="Make it again with ssh-keygen -y.")
    return lines[0]


def probe_for(platform: Platform) -> SshProbe:
    """How to ask an instance of that platform for its SSH host keys.

    Instances of the fake platform have no SSH server, so the platform's own word stands for the answer.
    """

    def probe(instance: Instance) -> tuple[str, ...]:
        if platform.hostspec(instance).startswith("fake://"):
            return instance.host_keys
        return sshprobe.scan(instance.address)

    return probe
