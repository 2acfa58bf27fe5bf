"""A fleet in counts, kept up to date one machine at a time: what a decision asks for is there, never counted anew.

A whole look makes a tally of itself once; whoever follows a fleet keeps one and tells it each change. The planner
cannot tell them apart, so a decision costs the same in a fleet of ten and in one of a million.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Protocol

from phoenix_fleet.domain.models import Backend, BackendStatus, Instance, InstanceState

_ABSENT = BackendStatus(Backend.ABSENT)
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_LEAVING = (InstanceState.GONE, InstanceState.STOPPING)


class Seen(Protocol):
    """A fleet as far as decisions need to know it."""

    def __len__(self) -> int:
        """How many instances were seen."""
        ...

    def find(self, instance_id: str) -> Instance | None:
        """That instance, if it was seen."""
        ...

    def backend(self, instance: Instance) -> BackendStatus:
        """What the balancer says of it."""
        ...

    def serves(self, instance: Instance) -> bool:
        """Whether it is in service and healthy: it runs and the balancer sends traffic to it."""
        ...

    def in_slot(self, slot: str) -> tuple[Instance, ...]:
        """What fills that slot and is not on its way out, oldest first."""
        ...

    def serving_count(self) -> int:
        """How many are in service and healthy."""
        ...

    def serving_in(self, zone: str) -> int:
        """How many of those stand in that zone."""
        ...

    def standing_in(self, zone: str) -> int:
        """How many stand in that zone and are not on their way out, in service or not."""
        ...

    def serving_on(self, version: str) -> int:
        """How many in service were born from that version."""
        ...

    def missing_on(self, version: str) -> int:
        """How many of that version fill a slot and are not in service."""
        ...

    def living_in(self, slots: frozenset[str]) -> int:
        """How many carry one of those slots and are not gone for certain."""
        ...

    def serving_slots(self, slots: frozenset[str]) -> int:
        """In how many of those slots something is in service."""
        ...


class Tally:
    """A fleet as seen last, machine by machine. Not thread-safe."""

    __slots__ = (
        "_backends",
        "_lit",
        "_lit_within",
        "_living",
        "_machines",
        "_missing",
        "_serving",
        "_slots",
        "_standing",
        "_versions",
        "_within",
        "_zones",
    )

    def __init__(self) -> None:
        self._machines: dict[str, Instance] = {}
        self._backends: dict[str, BackendStatus] = {}
        self._slots: dict[str, tuple[str, ...]] = {}
        """Ids of what stands in each slot."""
        self._serving = 0
        self._zones: Counter[str] = Counter()
        self._standing: Counter[str] = Counter()
        self._versions: Counter[str] = Counter()
        self._missing: Counter[str] = Counter()
        self._within: frozenset[str] | None = None
        """The slots that ``_living`` and ``_lit_within`` were counted in; None before anybody asked."""
        self._living = self._lit_within = 0
        self._lit: Counter[str] = Counter()
        """How many serve, by slot."""

    @classmethod
    def of(cls, instances: Iterable[Instance], backends: Mapping[str, BackendStatus]) -> Tally:
        """The tally of a whole look."""
        made = cls()
        for instance in instances:
            made.see(instance, backends.get(instance.id, _ABSENT))
        return made

    def see(self, instance: Instance, backend: BackendStatus = _ABSENT) -> None:
        """Take note of how that instance stands now, whatever was known of it."""
        self.forget(instance.id)
        self._machines[instance.id], self._backends[instance.id] = instance, backend
        if instance.state not in _LEAVING:
            self._slots[instance.slot] = (*self._slots.get(instance.slot, ()), instance.id)
        self._count(instance, 1)

    def forget(self, instance_id: str) -> None:
        """The instance is not listed any more; one that never was changes nothing."""
        instance = self._machines.get(instance_id)
        if instance is None:
            return
        self._count(instance, -1)
        if instance.state not in _LEAVING:
            left = tuple(each for each in self._slots[instance.slot] if each != instance_id)
            if left:
                self._slots[instance.slot] = left
            else:
                del self._slots[instance.slot]
        del self._machines[instance_id], self._backends[instance_id]

    def _count(self, instance: Instance, by: int) -> None:
        if self.serves(instance):
            self._serving += by
            self._zones[instance.zone] += by
            self._versions[instance.version] += by
            self._light(instance.slot, by)
        elif instance.state not in _LEAVING:
            self._missing[instance.version] += by
        if instance.state not in _LEAVING:
            self._standing[instance.zone] += by
        if self._within is not None and _lives(instance, self._within):
            self._living += by

    def _light(self, slot: str, by: int) -> None:
        before, after = self._lit[slot], self._lit[slot] + by
        if after:
            self._lit[slot] = after
        else:
            del self._lit[slot]
        if self._within is not None and slot in self._within:
            self._lit_within += bool(after) - bool(before)

    # What decisions ask

    def __len__(self) -> int:
        return len(self._machines)

    def find(self, instance_id: str) -> Instance | None:
        """That instance, if it was seen."""
        return self._machines.get(instance_id)

    def backend(self, instance: Instance) -> BackendStatus:
        """What the balancer says of it."""
        return self._backends.get(instance.id, _ABSENT)

    def serves(self, instance: Instance) -> bool:
        """Whether it is in service and healthy."""
        return instance.state is InstanceState.RUNNING and self.backend(instance).state is Backend.HEALTHY

    def in_slot(self, slot: str) -> tuple[Instance, ...]:
        """What fills that slot and is not on its way out, oldest first."""
        standing = [self._machines[each] for each in self._slots.get(slot, ())]
        return tuple(sorted(standing, key=_by_age)) if len(standing) > 1 else tuple(standing)

    def serving_count(self) -> int:
        """How many are in service and healthy."""
        return self._serving

    def serving_in(self, zone: str) -> int:
        """How many of those stand in that zone."""
        return self._zones[zone]

    def standing_in(self, zone: str) -> int:
        """How many stand in that zone and are not on their way out, in service or not."""
        return self._standing[zone]

    def serving_on(self, version: str) -> int:
        """How many in service were born from that version."""
        return self._versions[version]

    def missing_on(self, version: str) -> int:
        """How many of that version fill a slot and are not in service."""
        return self._missing[version]

    def living_in(self, slots: frozenset[str]) -> int:
        """How many carry one of those slots and are not gone for certain; counted anew only for other slots."""
        self._ask_within(slots)
        return self._living

    def serving_slots(self, slots: frozenset[str]) -> int:
        """In how many of those slots something is in service; counted anew only for other slots."""
        self._ask_within(slots)
        return self._lit_within

    def _ask_within(self, slots: frozenset[str]) -> None:
        if slots is not self._within:
            self._within = slots
            self._living = sum(_lives(each, slots) for each in self._machines.values())
            self._lit_within = sum(slot in slots for slot in self._lit)


def _lives(instance: Instance, slots: frozenset[str]) -> bool:
    return instance.state is not InstanceState.GONE and instance.slot in slots


def _by_age(instance: Instance) -> tuple[datetime, str]:
    return instance.launched_at or _LONG_AGO, instance.name
