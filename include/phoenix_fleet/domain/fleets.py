"""What decisions are made of: a fleet in numbers, a whole look at it, and what a rollout would do to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Literal

from phoenix_fleet.domain.models import Backend, BackendStatus, Instance, InstanceState
from phoenix_fleet.domain.tally import Tally
from phoenix_fleet.domain.waves import Budget, budget
from phoenix_fleet.domain.windows import Version

FailureDomain = Literal["zone", "host", "none"]


@dataclass(frozen=True)
class FleetShape:
    """A fleet in numbers, resolved from its file once and for a whole rollout."""

    name: str
    slots: tuple[str, ...]
    """All its slots, in order."""
    canary: int = 1
    waves: tuple[int, ...] = ()
    """Cumulative counts of slots after the canary."""
    max_surge: int = 1
    max_unavailable: int = 0
    max_in_flight: int = 1
    max_age: timedelta = timedelta(days=35)
    failure_domain: FailureDomain = "zone"
    """Replacements under way at once all stay within one of these."""
    in_order: bool = False
    """Whether what serves is replaced in the order of the slots, rather than the oldest zone and machine first."""

    @cached_property
    def known(self) -> frozenset[str]:
        """Its slots, for asking whether one is among them."""
        return frozenset(self.slots)

    @property
    def size(self) -> int:
        """How many instances it should have."""
        return len(self.slots)

    @property
    def budget(self) -> Budget:
        """How far it may leave its size."""
        return budget(self.max_surge, self.max_unavailable)


@dataclass(frozen=True)
class Observed:
    """A fleet as its platform and its balancer report it now. Only complete reads make one."""

    instances: tuple[Instance, ...] = ()
    backends: Mapping[str, BackendStatus] = field(default_factory=dict)
    """By instance id; whoever is not in it is absent from the balancer."""

    @cached_property
    def tally(self) -> Tally:
        """The same look in counts."""
        return Tally.of(self.instances, self.backends)

    def __len__(self) -> int:
        return len(self.instances)

    def find(self, instance_id: str) -> Instance | None:
        """That instance, if it was seen."""
        return self.tally.find(instance_id)

    def backend(self, instance: Instance) -> BackendStatus:
        """What the balancer says of it."""
        return self.backends.get(instance.id, BackendStatus(Backend.ABSENT))

    def serves(self, instance: Instance) -> bool:
        """Whether it is in service and healthy: it runs and the balancer sends traffic to it."""
        return instance.state is InstanceState.RUNNING and self.backend(instance).state is Backend.HEALTHY

    @property
    def serving(self) -> tuple[Instance, ...]:
        """Those in service and healthy."""
        return tuple(instance for instance in self.instances if self.serves(instance))

    def in_slot(self, slot: str) -> tuple[Instance, ...]:
        """What fills that slot and is not on its way out, oldest first."""
        return self.tally.in_slot(slot)

    def serving_count(self) -> int:
        """How many are in service and healthy."""
        return self.tally.serving_count()

    def serving_in(self, zone: str) -> int:
        """How many of those stand in that zone."""
        return self.tally.serving_in(zone)

    def standing_in(self, zone: str) -> int:
        """How many stand in that zone and are not on their way out, in service or not."""
        return self.tally.standing_in(zone)

    def serving_on(self, version: str) -> int:
        """How many in service were born from that version."""
        return self.tally.serving_on(version)

    def missing_on(self, version: str) -> int:
        """How many of that version fill a slot and are not in service."""
        return self.tally.missing_on(version)

    def living_in(self, slots: frozenset[str]) -> int:
        """How many carry one of those slots and are not gone for certain."""
        return self.tally.living_in(slots)

    def serving_slots(self, slots: frozenset[str]) -> int:
        """In how many of those slots something is in service."""
        return self.tally.serving_slots(slots)


@dataclass(frozen=True, slots=True)
class Decision:
    """Yes or no, and why."""

    allowed: bool
    reason: str


@dataclass(frozen=True)
class Target:
    """What a rollout brings, and what else may stay."""

    version: Version
    digest: str = ""
    """Of the artefact on the fleet's platform; empty where the platform reports none."""
    acceptable: Mapping[Version, str] = field(default_factory=dict)
    """Other versions that may stay where they are newer, each with its digest: those not revoked."""
    undone: Version | None = None
    """The version that is rolled back: its instances go although they may be newer and good elsewhere."""
    forced: frozenset[str] = frozenset()
    """Ids of instances that go although they are up to date, because a person says so."""
    returning: frozenset[str] = frozenset()
    """Ids of instances that what is rolled back had taken traffic from: they come back rather than going."""


@dataclass(frozen=True, slots=True)
class PlannedSlot:
    """One replacement: where, in which wave, why, and what it takes out (empty if nothing stands there)."""

    slot: str
    wave: int
    reason: str
    old_instance: str = ""
    zone: str = ""
    """Where what it takes out stands; empty where the platform reports none."""
    host: str = ""
    born: datetime | None = None
    """When what it takes out was launched; None where nothing stands or nobody knows."""

    @property
    def domain(self) -> tuple[str, str]:
        """Zone and hypervisor host."""
        return self.zone, self.host


@dataclass(frozen=True, slots=True)
class SlotView:
    """What stands in one slot, judged against a target."""

    slot: str
    reason: str = ""
    """Why it needs a replacement; empty if it does not."""
    note: str = ""
    """Why it needs none."""
    refused: str = ""
    """Why it would need one and must not get it."""
    old: Instance | None = None
    """What a replacement takes out."""
    new: Instance | None = None
    """What already stands there, up to date and in service, beside ``old``."""
    surplus: tuple[Instance, ...] = ()
    """Others in the same slot, none of them in service: left over from attempts that did not come to an end."""
    serves: bool = False
    """Whether ``old`` is in service."""


@dataclass(frozen=True)
class Plan:
    """Everything a rollout would do, and everything it would leave alone, each with its reason."""

    slots: tuple[PlannedSlot, ...] = ()
    up_to_date: tuple[tuple[str, str], ...] = ()
    refusals: tuple[tuple[str, str], ...] = ()
    """Slots that would need a replacement and cannot get one."""
    strays: tuple[tuple[str, str], ...] = ()
    """Instances that carry the fleet's mark and a slot that it does not have; nothing touches them."""
    waived: tuple[tuple[str, str], ...] = ()
    """Slots that stay as they are for a while, each with who permits it, why, and until when."""

    def lines(self) -> list[str]:
        """The plan for people, a line per slot."""
        found = [
            f"wave {each.wave}: replace {each.slot}: {each.reason}"
            + (f" ({each.old_instance})" if each.old_instance else "")
            for each in self.slots
        ]
        found += [f"leave {slot}: {why}" for slot, why in self.up_to_date]
        found += [f"refuse {slot}: {why}" for slot, why in self.refusals]
        found += [f"leave {slot}: {why}" for slot, why in self.waived]
        return found + [f"stray {name}: {why}" for name, why in self.strays]
