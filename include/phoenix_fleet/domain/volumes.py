"""Data volumes: disks that belong to a slot and outlive every instance that fills it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from phoenix_fleet.domain.fleets import Observed
from phoenix_fleet.domain.models import Backend, BackendStatus


class VolumeState(StrEnum):
    """What a platform says of a data volume, in our own closed set of words."""

    CREATING = "creating"
    FREE = "free"
    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHING = "detaching"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Volume:
    """A data volume as its platform reports it now."""

    id: str
    fleet: str
    slot: str
    name: str
    """As the fleet file calls it: one slot has one volume of each name."""
    state: VolumeState
    attached_to: str = ""
    """Id of the instance that has it, also while it is attached or detached; empty for none. What is no instance of
    ours is named too, so that nobody takes the volume for free."""
    device: str = ""
    """A path that stays the same inside the instance; empty until known."""
    zone: str = ""
    """Where alone it can be attached; empty where it can be anywhere."""

    @property
    def label(self) -> str:
        """For people: ``db-01/data``."""
        return f"{self.slot}/{self.name}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of a volume as it was at one moment."""

    id: str
    volume: str
    """Id of the volume."""
    token: str
    """The token that it was asked for with."""
    taken: bool
    """Whether the moment is past: from then on the volume may change, and the copy does not."""
    failed: str = ""
    """The platform's own words, if it never will be whole."""


@dataclass(frozen=True)
class VolumeIntent:
    """Everything that making a volume needs, frozen and stored before the platform is asked."""

    fleet: str
    slot: str
    name: str
    size_gib: int
    zone: str = ""
    """Where the instance stands that it is made for; empty where platforms have no zones."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The platform's own options, as the fleet file has them (JSON-able)."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The platform's settings as the fleet file has them (JSON-able)."""

    @property
    def token(self) -> str:
        """Idempotency token: a slot has one volume of that name, whoever makes it and for whatever rollout."""
        identity = json.dumps(["volume", self.fleet, self.slot, self.name])
        return hashlib.sha256(identity.encode()).hexdigest()[:32]

    @property
    def label(self) -> str:
        """For people: ``db-01/data``."""
        return f"{self.slot}/{self.name}"

    def facts(self) -> dict[str, Any]:
        """As JSON-able data."""
        return asdict(self)


def snapshot_token(purpose: str, volume: str, instance: str) -> str:
    """The token of the one snapshot that is taken of a volume before it leaves that instance under that purpose."""
    return hashlib.sha256(json.dumps(["snapshot", purpose, volume, instance]).encode()).hexdigest()[:32]


def in_slot(volumes: Iterable[Volume], slot: str) -> list[Volume]:
    """The volumes of that slot, by name."""
    return sorted((each for each in volumes if each.slot == slot), key=lambda each: each.name)


def lacks(volumes: Iterable[Volume], slot: str, instance: str) -> str:
    """Label of a volume of that slot which that instance does not have; empty if it has all that there are."""
    for each in in_slot(volumes, slot):
        if (each.attached_to, each.state) != (instance, VolumeState.ATTACHED):
            return each.label
    return ""


def withhold(observed: Observed, volumes: Iterable[Volume], names: Iterable[str]) -> Observed:
    """The same fleet, but that an instance counts as out of service while it lacks a volume of its slot that exists.

    :param names: of the volumes that the fleet is to have
    """
    wanted = set(names)
    known = [each for each in volumes if each.name in wanted]
    lacking = [each.id for each in observed.instances if lacks(known, each.slot, each.id)]
    nothing = dict.fromkeys(lacking, BackendStatus(Backend.ABSENT))
    return Observed(observed.instances, {**observed.backends, **nothing}) if nothing else observed
