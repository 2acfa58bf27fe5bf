"""The planner: from what is seen now to what should happen, each with its reason. No I/O, no clock, no memory.

It decides and nothing else does: which slots need a new instance and in what order, whether an instance may be
taken out of service, whether one more may be launched, and how many replacements may be under way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.domain.models import Backend, BackendStatus, Instance, InstanceState
from phoenix_fleet.domain.waves import Budget, budget, wave_of
from phoenix_fleet.domain.windows import Version

EMPTY_SLOT = "empty slot"


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
        standing = [
            instance
            for instance in self.instances
            if instance.slot == slot and instance.state not in (InstanceState.GONE, InstanceState.STOPPING)
        ]
        return tuple(sorted(standing, key=lambda each: (each.launched_at is not None, each.launched_at, each.name)))


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class PlannedSlot:
    """One replacement: where, in which wave, why, and what it takes out (empty if nothing stands there)."""

    slot: str
    wave: int
    reason: str
    old_instance: str = ""


@dataclass(frozen=True)
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

    def lines(self) -> list[str]:
        """The plan for people, a line per slot."""
        found = [
            f"wave {each.wave}: replace {each.slot}: {each.reason}"
            + (f" ({each.old_instance})" if each.old_instance else "")
            for each in self.slots
        ]
        found += [f"leave {slot}: {why}" for slot, why in self.up_to_date]
        found += [f"refuse {slot}: {why}" for slot, why in self.refusals]
        return found + [f"stray {name}: {why}" for name, why in self.strays]


def plan(shape: FleetShape, target: Target, observed: Observed, now: datetime, only: Sequence[str] = ()) -> Plan:
    """What a rollout of ``target`` would do to the fleet; ``only`` limits it to those slots (none named: all).

    Empty slots come first, then what is out of service, then the others in the order of their slots.

    :raises InvalidConfig: if ``only`` names a slot that the fleet does not have.
    """
    unknown = sorted(set(only) - set(shape.slots))
    if unknown:
        raise InvalidConfig(
            f"{shape.name} has no slot {', '.join(unknown)}.",
            remedy=f"Its slots are {shape.slots[0]} to {shape.slots[-1]}." if shape.slots else "It has none.",
        )
    views = [view_slot(shape, slot, target, observed, now) for slot in shape.slots if not only or slot in only]
    todo = sorted((view for view in views if view.reason), key=_urgency)
    known = set(shape.slots)
    return Plan(
        slots=tuple(
            PlannedSlot(
                view.slot,
                wave_of(position, shape.canary, shape.waves),
                view.reason,
                view.old.id if view.old else "",
            )
            for position, view in enumerate(todo)
        ),
        up_to_date=tuple((view.slot, view.note) for view in views if view.note),
        refusals=tuple((view.slot, view.refused) for view in views if view.refused),
        strays=tuple(
            (instance.name, f"{shape.name} has no slot '{instance.slot}'")
            for instance in observed.instances
            if instance.slot not in known and instance.state is not InstanceState.GONE
        ),
    )


def _urgency(view: SlotView) -> int:
    """Nothing is lost where nothing serves, so that goes first; sorting is stable, so slots keep their order."""
    if view.old is None:
        return 0
    return 2 if view.serves else 1


def view_slot(shape: FleetShape, slot: str, target: Target, observed: Observed, now: datetime) -> SlotView:
    """What stands in that slot and what it means."""
    standing = observed.in_slot(slot)
    if not standing:
        return SlotView(slot, reason=EMPTY_SLOT)
    faults = {instance.id: find_fault(instance, shape, target, observed, now) for instance in standing}
    good = [instance for instance in standing if not faults[instance.id]]
    bad = [instance for instance in standing if faults[instance.id]]
    if not bad:
        more = f"; {len(good)} instances stand there" if len(good) > 1 else ""
        return SlotView(slot, note=_up_to_date(good[-1], target) + more)
    newer = [instance for instance in bad if _keeps_newer(instance, target)]
    if newer:
        return SlotView(
            slot,
            refused=f"{faults[newer[-1].id]}, but on {newer[-1].version}, which is newer than {target.version}: "
            "never a downgrade",
        )
    old = next((instance for instance in bad if observed.serves(instance)), bad[-1])
    new = good[-1] if good else None
    reason = faults[old.id] if new is None else f"left over beside {new.name}: {faults[old.id]}"
    serves = observed.serves(old)
    if refused := _hopeless(shape, old, new, serves):
        return SlotView(slot, refused=f"{reason}, but {refused}")
    surplus = tuple(each for each in bad if each is not old and not observed.serves(each))
    return SlotView(slot, reason=reason, old=old, new=new, surplus=surplus, serves=serves)


def _hopeless(shape: FleetShape, old: Instance, new: Instance | None, serves: bool) -> str:
    """Why a replacement there can never be allowed; empty if it can."""
    if shape.size == 1 and shape.budget.max_surge == 0 and new is None and serves:
        return f"{old.name} is the only instance and max_surge is 0: the last healthy one never goes first"
    return ""


def _up_to_date(instance: Instance, target: Target) -> str:
    return f"on {instance.version}" if instance.version == str(target.version) else f"on newer {instance.version}"


def _parse(instance: Instance) -> Version | None:
    try:
        return Version.parse(instance.version)
    except InvalidConfig:
        return None


def _keeps_newer(instance: Instance, target: Target) -> bool:
    version = _parse(instance)
    return version is not None and version > target.version and version in target.acceptable


def find_fault(instance: Instance, shape: FleetShape, target: Target, observed: Observed, now: datetime) -> str:
    """Why that instance cannot stay, in words for people; empty if it can.

    It can stay on the target's version, or on a newer one that is still acceptable, if it really runs that image,
    is not too old, and is in service.
    """
    if wrong := _wrong_image(instance, target):
        return wrong
    if instance.launched_at is not None and now - instance.launched_at > shape.max_age:
        return f"older than {_age(shape.max_age)}"
    if not observed.serves(instance):
        state = observed.backend(instance).state
        seen = instance.state if instance.state is not InstanceState.RUNNING else f"{state} at the balancer"
        return f"unhealthy: {seen}"
    return ""


def _wrong_image(instance: Instance, target: Target) -> str:
    version = _parse(instance)
    if version is None:
        return f"unknown version: {instance.version!r}"
    if version < target.version:
        return f"outdated: {version}"
    if version > target.version and version not in target.acceptable:
        return f"no longer released: {version}"
    expected = target.digest if version == target.version else target.acceptable[version]
    if expected and instance.digest and instance.digest != expected:
        return f"runs another image than {version} is: {instance.digest}"
    return ""


def _age(age: timedelta) -> str:
    return f"{age.days} days" if age >= timedelta(days=1) else f"{int(age.total_seconds())} seconds"


def check_floor(
    size: int,
    max_unavailable: int,
    observed: Observed,
    victim: str,
    *,
    arriving: int = 0,
    counted: bool | None = None,
) -> Decision:
    """Whether the instance with id ``victim`` may be taken out of service now.

    After that at least ``size - max_unavailable`` must be in service, and never none, whatever the configuration
    says. One that is not in service takes nothing away, as long as another one serves. ``arriving`` counts
    replacements that will be in service before it goes; ``counted`` says whether the victim is to be counted as
    serving where looking at it no longer tells (it is being drained by us).

    Nothing seen is not "nothing there", so it allows nothing.
    """
    if not observed.instances:
        return Decision(False, "nothing was seen of the fleet, and empty is never all")
    found = [instance for instance in observed.instances if instance.id == victim]
    if not found:
        return Decision(False, f"{victim} was not seen among the fleet's instances")
    others = sum(1 for instance in observed.serving if instance.id != victim) + max(0, arriving)
    serves = observed.serves(found[0]) if counted is None else counted
    if others == 0:
        what = "it is the last healthy one" if serves else "no other one is in service"
        return Decision(False, f"{what}, so it stays whatever the budget says")
    if not serves:
        return Decision(True, f"it is not in service, and {others} of {size} are without it")
    floor = size - _allowance(size, max_unavailable)
    if others < floor:
        return Decision(False, f"{others} of {size} would be in service without it, and the floor is {floor}")
    return Decision(True, f"{others} of {size} are in service without it, and the floor is {floor}")


def may_begin(shape: FleetShape, view: SlotView, observed: Observed) -> Decision:
    """Whether the replacement of what stands in that slot may begin now.

    The floor must hold when the old instance goes; with a surge the new one serves by then, so it counts already.
    """
    if view.old is None:
        return Decision(True, "nothing has to go")
    budget = shape.budget
    arriving = 1 if budget.max_surge and view.new is None else 0
    return check_floor(shape.size, budget.max_unavailable, observed, view.old.id, arriving=arriving)


def may_take_out(
    shape: FleetShape, observed: Observed, old: str, new: str = "", *, counted: bool | None = None
) -> Decision:
    """Whether the instance with id ``old`` may be drained or terminated now that ``new`` (if any) has come for it.

    The new one must be in service at this very moment, and the floor must hold. ``counted`` as in ``check_floor``.
    """
    if new:
        found = [instance for instance in observed.instances if instance.id == new]
        if not found:
            return Decision(False, f"its replacement {new} is not to be seen")
        if not observed.serves(found[0]):
            state = observed.backend(found[0]).state
            return Decision(False, f"its replacement {found[0].name} is {found[0].state}, {state} at the balancer")
    return check_floor(shape.size, shape.budget.max_unavailable, observed, old, counted=counted)


def _allowance(size: int, max_unavailable: int) -> int:
    """The budget between none and all; what is not a count (NaN from arithmetic, say) allows nothing."""
    return max(0, min(size, max_unavailable)) if isinstance(max_unavailable, int) else 0


def check_surge(shape: FleetShape, observed: Observed) -> Decision:
    """Whether one more instance may be launched now.

    Whatever is not gone for certain counts: starting, failed and stopping ones too.
    """
    known = set(shape.slots)
    live = sum(
        1 for instance in observed.instances if instance.slot in known and instance.state is not InstanceState.GONE
    )
    most = shape.size + shape.budget.max_surge
    if live + 1 > most:
        return Decision(False, f"{live} instances are not gone yet, and {most} are the most allowed")
    return Decision(True, f"{live} of at most {most} instances are there")


def in_flight_limit(shape: FleetShape, target: Target, observed: Observed) -> tuple[int, str]:
    """How many replacements may be under way at once now, and why not more.

    As many as the budget has room for and the file allows; exactly one as long as no instance serves on the target.
    """
    if not any(each.version == str(target.version) for each in observed.serving):
        return 1, f"no instance serves on {target.version} yet, so exactly one goes first"
    room = shape.budget.max_surge or shape.budget.max_unavailable
    if room < shape.max_in_flight:
        return max(1, room), f"the budget has room for {max(1, room)}"
    return max(1, shape.max_in_flight), f"max_in_flight is {shape.max_in_flight}"
