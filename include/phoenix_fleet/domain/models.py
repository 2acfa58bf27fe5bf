"""The things the product talks about. All are values: frozen, comparable, safe to put in a log."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.windows import Version, Window

OWNER = "phoenix-fleet"
"""The value of the ownership mark that every machine and artefact of ours carries."""


@dataclass(frozen=True)
class Artefact:
    """One image on one platform."""

    platform: str
    reference: str
    """What the platform launches, by digest and never by a moving tag: ``host:port/name@sha256:…``."""
    digest: str
    """``sha256:…`` of the artefact, as the platform (or its registry) reports it."""


@dataclass(frozen=True)
class Image:
    """One version of an image family, with an artefact per platform."""

    family: str
    version: Version
    rung: Rung
    artefacts: Mapping[str, Artefact] = field(default_factory=dict)
    """By platform."""
    inputs: str = ""
    """Fingerprint of all that went into the build: the family's files and the packages' versions."""
    created_at: datetime | None = None
    run: str = ""
    """The run that opened it (``image.debian-base/manual__…``): asking again in that run gives this image."""
    reason: str = ""
    """Why it stands on its rung, where that needs saying (rejected, revoked)."""

    @property
    def window(self) -> Window:
        """The refresh window it was built for."""
        return self.version.window

    def __str__(self) -> str:
        return f"{self.family} {self.version}"


class InstanceState(StrEnum):
    """What a platform says of an instance, in our own closed set of words."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    GONE = "gone"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Instance:
    """A machine as the platform reports it now."""

    id: str
    name: str
    fleet: str
    slot: str
    version: str
    """The image version in its birth marks, as text: marks of older tools may not parse."""
    token: str
    """The launch intent's token in its birth marks."""
    state: InstanceState
    address: str = ""
    """Where it answers (IP or host name); empty until known."""
    digest: str = ""
    """Digest of the image it really runs, as the platform reports it; empty until known."""
    launched_at: datetime | None = None
    host_keys: tuple[str, ...] = ()
    """Public SSH host keys as the platform itself sees them (``ssh-ed25519 AAAA…``): filled in by
    ``get_instance`` once readable, never by ``list_instances``."""
    message: str = ""
    """The platform's own words on a state of ``failed``."""
    zone: str = ""
    """The failure domain that it stands in, as the platform names it (an availability zone); empty for none."""
    host: str = ""
    """The hypervisor host below it; empty where the platform does not tell."""


@dataclass(frozen=True)
class LaunchIntent:
    """Everything a launch needs, frozen and stored before the platform is asked."""

    fleet: str
    slot: str
    purpose: str
    """What asked for it: a rollout's id (``rollout-17``), or the run of a test or a certification."""
    attempt: int
    """Counts up from 1 each time the slot needs a new machine under the same purpose."""
    family: str
    version: str
    artefact: Artefact
    authorized_key: str = ""
    """Public SSH key that may log in as root, put there at birth; empty for none."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The platform's settings as the fleet file has them (JSON-able), so a retry uses the same ones."""
    zone: str = ""
    """The zone of the instance that it replaces, to stand in for it there; empty: where the platform likes."""

    @property
    def token(self) -> str:
        """Idempotency token: a hash of (purpose, fleet, slot, attempt), 32 hex characters.

        A new attempt must have a new token, because platforms answer an old token with the dead machine
        (EC2: ``IdempotentInstanceTerminated``).
        """
        identity = json.dumps([self.purpose, self.fleet, self.slot, self.attempt])
        return hashlib.sha256(identity.encode()).hexdigest()[:32]

    @property
    def name(self) -> str:
        """The instance's name: readable, unique per attempt, a legal host name."""
        return f"{self.slot}-{self.token[:8]}"

    @property
    def host_name(self) -> str:
        """What the guest calls itself: the instance's name, or the slot's where the settings say ``hostname: slot``."""
        return self.slot if self.settings.get("hostname") == "slot" else self.name

    @property
    def fingerprint(self) -> str:
        """Hash of all parameters: the same token with another fingerprint is a mistake, never a launch."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, default=str).encode()).hexdigest()


class Backend(StrEnum):
    """What a balancer says of one instance."""

    ABSENT = "absent"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """One instance as its balancer sees it."""

    state: Backend
    connections: int = 0
    """Open connections or sessions right now."""


@dataclass(frozen=True)
class Component:
    """A part of the product that must be proven on every image and that configuration puts on instances."""

    name: str
    version: str
    role: str
    """Path of its configuration role."""
    unit_tests: tuple[str, ...] = ()
    """Command run inside a fresh, configured instance; it must write ``junit`` there."""
    junit: str = ""
    """Path of the JUnit file inside the instance."""


@dataclass(frozen=True)
class Environment:
    """Which components an instance gets, with which values."""

    name: str
    """``production``, ``staging``, or ``certify``."""
    components: tuple[Component, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    """The values for the roles: the same keys in every environment."""


@dataclass(frozen=True)
class Disk:
    """A local copy of one of an artefact's disks."""

    path: str
    form: str
    """``raw``, ``qcow2`` or ``vmdk`` (stream-optimized): what it was copied as, not what its content claims."""


@dataclass(frozen=True)
class Bounds:
    """How much of an artefact is copied before somebody gives up."""

    bytes: int
    """Of all its disks, as they are stored."""
    time: timedelta


@dataclass(frozen=True)
class Subject:
    """What a gate looks at. A gate uses the fields it needs and reports an error if one is missing."""

    name: str
    """For people and file names: ``debian-base 2026.11-1 on docker``."""
    workdir: str
    """An existing folder where the gate may write what it keeps as proof."""
    artefact: Artefact | None = None
    disks: tuple[Disk, ...] = ()
    """Copies of the artefact's disks, where it has some and the gate asks for them; gone after the measurement."""
    instance: Instance | None = None
    hostspec: str = ""
    """testinfra URL of the instance."""
    endpoint: str = ""
    """Base URL of the service to measure from outside (a balancer's front)."""
    component: Component | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able extras that tests may read: expected version, environment values, dataset."""
