"""Which instances belong to nobody and may be terminated, decided from one look at a fleet; no I/O.

The platform is listed first and the catalog read after it, so an instance that is born in between is never an orphan:
its launch was written down before the platform was asked. Whatever is not understood is told and left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from phoenix_fleet.domain.errors import Blind
from phoenix_fleet.domain.fleets import Observed
from phoenix_fleet.domain.models import Backend, Instance, InstanceState


@dataclass(frozen=True)
class Rules:
    """How careful the reaper is. Slow on purpose: what goes too late costs money, what goes wrongly is an outage."""

    grace: timedelta = timedelta(hours=2)
    """How long an instance must have been an orphan, at every look: longer than any step of a replacement takes."""
    longest_gap: timedelta = timedelta(hours=6)
    """After looks that lie further apart than this, nobody knows what was in between, and the grace begins anew."""
    per_run: int = 3
    """Most terminations in one run."""
    per_hour: int = 5
    """Most terminations of one fleet in an hour, whoever runs the reaper: a person who sees it can still stop it."""
    at_least: int = 2
    """So many orphans are believed in any fleet."""
    share: float = 0.2
    """More than this share of what is listed are not: then the catalog or the listing is wrong, not the machines."""

    def most(self, listed: int) -> int:
        """How many orphans are believed among so many instances."""
        return max(self.at_least, int(listed * self.share))


FLEETS = Rules()
THROWAWAYS = Rules(at_least=10, share=0.0)
"""At rest every throw-away instance is left over, so a share says nothing: only their number does."""
THROWAWAY_AGE = timedelta(hours=2)
"""A younger one may be in use: the longest test takes minutes."""
SKEW = timedelta(minutes=5)
"""So far ahead another worker's clock may be; a look from later than that tells nothing."""
RUN_LIMIT = timedelta(hours=24)
"""An older one is left over even if its run's image still climbs: waiting for an approval needs no machine."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A launch that the catalog knows."""

    purpose: str
    fleet: str
    slot: str
    family: str = ""


@dataclass(frozen=True)
class Inventory:
    """What the catalog says of a fleet, read after the platform was listed."""

    fleet: str
    family: str = ""
    """Of throw-away instances only those of this image family are looked at; whether others' runs go on is theirs."""
    slots: frozenset[str] = frozenset()
    """The fleet's, by its file."""
    launches: Mapping[str, Launch] = field(default_factory=dict)
    """By token."""
    alive: frozenset[str] = frozenset()
    """Purposes in whose name something may still happen: the open or halted rollout, runs that are under way."""
    in_hand: frozenset[str] = frozenset()
    """Slots of the open or halted rollout: what stands there is its own business."""
    placed: Mapping[str, str] = field(default_factory=dict)
    """Which instance the last completed replacement brought, by slot."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """An instance that belongs to nobody, why, and since when that is known."""

    instance: Instance
    reason: str
    since: datetime
    witness: str = ""
    """Id of the instance that is in service in its slot; empty for throw-away ones."""


@dataclass(frozen=True)
class Memory:
    """What the look before this one found."""

    at: datetime | None = None
    since: Mapping[tuple[str, str], datetime] = field(default_factory=dict)
    """By id and token."""


@dataclass(frozen=True)
class Reaping:
    """What one look came to."""

    orphans: tuple[Orphan, ...] = ()
    """All of them, those known longest first."""
    due: tuple[Orphan, ...] = ()
    """Those to be terminated now."""
    strangers: tuple[tuple[str, str], ...] = ()
    """Instances with our marks that no launch in the catalog explains, and why: never touched."""
    left: tuple[tuple[str, str], ...] = ()
    """Instances that are in nobody's way but need a person, and why: never touched."""
    refused: str = ""
    """Why nothing at all may be touched; empty if something may."""


def check_listing(fleet: str, listed: Sequence[Instance]) -> None:
    """Return if the listing can be true.

    :raises Blind: it has instances of another fleet (a filter was dropped), or one twice (a page came twice).
    """
    others = sorted(each.name for each in listed if each.fleet != fleet)
    if others:
        raise Blind(f"The listing of {fleet} has {len(others)} instances of other fleets, such as {others[0]}.")
    twice = sorted(name for name, count in Counter(each.id for each in listed).items() if count > 1)
    if twice:
        raise Blind(f"The listing of {fleet} has {twice[0]} more than once.")


def decide(seen: Observed, inventory: Inventory, memory: Memory, now: datetime, rules: Rules = FLEETS) -> Reaping:
    """What to terminate of a fleet now: never what serves, nor the only one of a slot, nor what is not known.

    :raises Blind: the listing cannot be true.
    """
    check_listing(inventory.fleet, seen.instances)
    if not seen.instances and inventory.placed:
        raise Blind(f"The platform lists nothing of {inventory.fleet}, where {len(inventory.placed)} should stand.")
    found = _Found()
    for instance in seen.instances:
        if instance.state in (InstanceState.STOPPING, InstanceState.GONE) or _serves(seen, instance):
            continue
        stranger = _unexplained(instance, inventory)
        if stranger:
            found.strangers.append((instance.name, stranger))
        elif not _is_in_hand(instance, inventory):
            _judge(seen, inventory, instance, found)
    suspicious = len(found.orphans) + len(found.strangers)
    return _reaping(found, memory, now, rules, suspicious, len(seen.instances))


def decide_throwaways(listed: Sequence[Instance], inventory: Inventory, memory: Memory, now: datetime) -> Reaping:
    """What to terminate of throw-away instances: those whose run is over, or that are far too old.

    Those of another deployment on the same platform are strangers, and say nothing about ours.

    :raises Blind: the listing cannot be true.
    """
    check_listing(inventory.fleet, listed)
    found = _Found()
    for instance in listed:
        if instance.state in (InstanceState.STOPPING, InstanceState.GONE):
            continue
        stranger = _unexplained(instance, inventory)
        if stranger:
            found.strangers.append((instance.name, stranger))
            continue
        launch, age = inventory.launches[instance.token], _age(instance, now)
        if launch.family != inventory.family:
            continue
        purpose = launch.purpose
        if age is not None and age >= (RUN_LIMIT if purpose in inventory.alive else THROWAWAY_AGE):
            found.orphans.append((instance, f"left behind by {purpose}", ""))
    return _reaping(found, memory, now, THROWAWAYS, len(found.orphans), len(listed))


class _Found:
    def __init__(self) -> None:
        self.orphans: list[tuple[Instance, str, str]] = []
        self.strangers: list[tuple[str, str]] = []
        self.left: list[tuple[str, str]] = []


def _serves(seen: Observed, instance: Instance) -> bool:
    """Whether traffic reaches it, or is about to."""
    return seen.serves(instance) or seen.backend(instance).state in (Backend.HEALTHY, Backend.STARTING)


def _unexplained(instance: Instance, inventory: Inventory) -> str:
    """Why the catalog does not explain that instance; empty if it does."""
    launch = inventory.launches.get(instance.token) if instance.token else None
    if launch is None:
        return "no launch in the catalog has its token"
    if (launch.fleet, launch.slot) != (instance.fleet, instance.slot):
        return f"its token is that of a launch for {launch.fleet}/{launch.slot}"
    return ""


def _is_in_hand(instance: Instance, inventory: Inventory) -> bool:
    purpose = inventory.launches[instance.token].purpose
    return purpose in inventory.alive or instance.slot in inventory.in_hand


def _judge(seen: Observed, inventory: Inventory, instance: Instance, found: _Found) -> None:
    slot, purpose = instance.slot, inventory.launches[instance.token].purpose
    if slot not in inventory.slots:
        found.left.append((instance.name, f"its slot '{slot}' is not one of the fleet's"))
        return
    witness = next((each for each in seen.in_slot(slot) if each.id != instance.id and seen.serves(each)), None)
    if witness is None:
        found.left.append((instance.name, f"nothing else is in service in {slot}"))
    elif inventory.placed.get(slot) == instance.id:
        found.left.append((instance.name, f"it is what the last replacement of {slot} brought, out of service"))
    else:
        found.orphans.append((instance, f"{purpose} left it beside {witness.name}, which serves", witness.id))


def _reaping(found: _Found, memory: Memory, now: datetime, rules: Rules, suspicious: int, listed: int) -> Reaping:
    known = memory.since if _is_recent(memory, now, rules) else {}
    orphans = []
    for instance, reason, witness in found.orphans:
        since = known.get((instance.id, instance.token), now)
        orphans.append(Orphan(instance, reason, min(since, now), witness))
    orphans.sort(key=lambda each: (each.since, each.instance.name))
    refused, most = "", rules.most(listed)
    if suspicious > most:
        refused = (
            f"{suspicious} of {listed} instances look as if they belonged to nobody, and {most} are believed: "
            "the catalog or the listing is wrong"
        )
    # A moment that is not before this look is no second look, however short the grace.
    ripe = [each for each in orphans if each.since < now and now - each.since >= rules.grace]
    return Reaping(
        orphans=tuple(orphans),
        due=() if refused else tuple(ripe[: rules.per_run]),
        strangers=tuple(sorted(found.strangers)),
        left=tuple(sorted(found.left)),
        refused=refused,
    )


def _is_recent(memory: Memory, now: datetime, rules: Rules) -> bool:
    return memory.at is not None and -SKEW <= now - memory.at <= rules.longest_gap


def _age(instance: Instance, now: datetime) -> timedelta | None:
    return now - instance.launched_at if instance.launched_at else None
