"""The planner: from what is seen now to what should happen, each with its reason. No I/O, no clock, no memory.

It decides and nothing else does: which slots need a new instance and in what order, whether an instance may be
taken out of service, whether one more may be launched, and how many replacements may be under way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta

from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.domain.fleets import Decision, FleetShape, Observed, Plan, PlannedSlot, SlotView, Target
from phoenix_fleet.domain.models import Backend, Instance, InstanceState
from phoenix_fleet.domain.tally import Seen
from phoenix_fleet.domain.waves import count, wave_of
from phoenix_fleet.domain.windows import Version

__all__ = [
    "Decision",
    "FleetShape",
    "Observed",
    "Plan",
    "PlannedSlot",
    "SlotView",
    "Target",
    "check_domain",
    "check_floor",
    "check_surge",
    "check_whole",
    "find_dark",
    "find_fault",
    "in_flight_limit",
    "may_begin",
    "may_take_out",
    "plan",
    "view_slot",
]

EMPTY_SLOT = "empty slot"
LONG_AGO = datetime.min.replace(tzinfo=UTC)


def plan(shape: FleetShape, target: Target, observed: Observed, now: datetime, only: Sequence[str] = ()) -> Plan:
    """What a rollout of ``target`` would do to the fleet; ``only`` limits it to those slots (none named: all).

    Where another instance stands beside the old one already comes first, new or left over: that gives back the room
    it takes, unless the floor holds the old one there. Empty slots follow, then what is out of service; there nothing
    is lost. Then come those that the floor held. The others follow zone by zone, the zone of the oldest first, and
    within it host by host: what runs the wrong image before what is only too old, oldest first. In a fleet that is to
    go ``in_order`` they follow slot by slot.

    :raises InvalidConfig: if ``only`` names a slot that the fleet does not have.
    """
    unknown = sorted(set(only) - shape.known)
    if unknown:
        raise InvalidConfig(
            f"{shape.name} has no slot {', '.join(unknown)}.",
            remedy=f"Its slots are {shape.slots[0]} to {shape.slots[-1]}." if shape.slots else "It has none.",
        )
    wanted = set(only) or shape.known
    views = [view_slot(shape, slot, target, observed, now) for slot in shape.slots if slot in wanted]
    return Plan(
        slots=tuple(
            PlannedSlot(
                view.slot,
                wave_of(position, shape.canary, shape.waves),
                view.reason,
                view.old.id if view.old else "",
                view.old.zone if view.old else "",
                view.old.host if view.old else "",
                view.old.launched_at if view.old else None,
            )
            for position, view in enumerate(_in_order([view for view in views if view.reason], shape, target, observed))
        ),
        up_to_date=tuple((view.slot, view.note) for view in views if view.note),
        refusals=tuple((view.slot, view.refused) for view in views if view.refused),
        strays=tuple(
            (instance.name, f"{shape.name} has no slot '{instance.slot}'")
            for instance in observed.instances
            if instance.slot not in shape.known and instance.state is not InstanceState.GONE
        ),
    )


_Urgency = tuple[int, datetime, str, datetime, str, bool, datetime]


def _in_order(views: Sequence[SlotView], shape: FleetShape, target: Target, observed: Observed) -> list[SlotView]:
    """Sorting is stable, so what is equally urgent keeps the order of the slots."""
    zones, hosts = dict[str, datetime](), dict[tuple[str, str], datetime]()
    for view in views:
        if view.old is not None and view.serves:
            born, zone, host = _born(view.old), view.old.zone, (view.old.zone, view.old.host)
            zones[zone] = min(zones.get(zone, born), born)
            hosts[host] = min(hosts.get(host, born), born)

    def urgency(view: SlotView) -> _Urgency:
        old = view.old
        if old is None:
            return 1, LONG_AGO, "", LONG_AGO, "", False, LONG_AGO
        if view.surplus:
            return 0, LONG_AGO, "", LONG_AGO, "", False, LONG_AGO
        if view.new is not None:
            # What only has to take something out makes the room that launches elsewhere may be waiting for; but where
            # the floor holds it there, it waits until more are in service.
            may_go = check_floor(shape.size, shape.budget.max_unavailable, observed, old.id).allowed
            return (0 if may_go else 3), LONG_AGO, "", LONG_AGO, "", False, LONG_AGO
        if not view.serves:
            return 2, LONG_AGO, old.zone, LONG_AGO, old.host, False, _born(old)
        if shape.in_order:
            return 4, LONG_AGO, "", LONG_AGO, "", False, LONG_AGO
        oldest = hosts[old.zone, old.host]
        return 4, zones[old.zone], old.zone, oldest, old.host, not _wrong_image(old, target), _born(old)

    return sorted(views, key=urgency)


def _born(instance: Instance) -> datetime:
    """An age that nobody knows counts as the greatest."""
    return instance.launched_at or LONG_AGO


def view_slot(shape: FleetShape, slot: str, target: Target, observed: Seen, now: datetime) -> SlotView:
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
    back = [] if good else [instance for instance in bad if _comes_back(instance, target, observed)]
    good, bad = [*good, *back], [instance for instance in bad if instance not in back]
    if not bad:
        return SlotView(slot, reason=f"{good[-1].name} was to be replaced and comes back into service", new=good[-1])
    old = _goes_first(bad, observed)
    new = good[-1] if good else None
    reason = faults[old.id] if new is None else f"left over beside {new.name}: {faults[old.id]}"
    serves = observed.serves(old)
    surplus = tuple(each for each in bad if each is not old and not observed.serves(each))
    if serves and new is None and (refused := _hopeless(shape, old, observed)):
        return SlotView(slot, refused=f"{reason}, but {refused}", surplus=surplus)
    return SlotView(slot, reason=reason, old=old, new=new, surplus=surplus, serves=serves)


def _goes_first(bad: Sequence[Instance], observed: Seen) -> Instance:
    """The one that the replacement is for: one that serves, and best the last one in its zone.

    Its successor is born in that zone, so of several it is the one that nothing else may take.
    """
    serving = [instance for instance in bad if observed.serves(instance)]
    last = [instance for instance in serving if instance.zone and observed.serving_in(instance.zone) == 1]
    return [*last, *serving, bad[-1]][0]


def _comes_back(instance: Instance, target: Target, observed: Seen) -> bool:
    """Whether it is sound and out of service only because the rollout that is undone had begun to replace it."""
    idle = observed.backend(instance).state in (Backend.DRAINING, Backend.ABSENT)
    returns = instance.id in target.returning and instance.state is InstanceState.RUNNING
    return returns and idle and not _wrong_image(instance, target)


def _hopeless(shape: FleetShape, old: Instance, observed: Seen) -> str:
    """Why taking that one out of service can never be allowed; empty if it can."""
    if shape.budget.max_surge:
        return ""
    if shape.size == 1:
        return f"{old.name} is the only instance and max_surge is 0: the last healthy one never goes first"
    if old.zone and observed.standing_in(old.zone) == 1:
        return f"{old.name} is the only instance in zone {old.zone} and max_surge is 0: the last one never goes first"
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
    newer = version is not None and version > target.version
    return newer and version in target.acceptable and version != target.undone


def find_fault(instance: Instance, shape: FleetShape, target: Target, observed: Seen, now: datetime) -> str:
    """Why that instance cannot stay, in words for people; empty if it can.

    It can stay on the target's version, or on a newer one that is still acceptable, if it really runs that image,
    is not too old, and is in service.
    """
    if wrong := _wrong_image(instance, target):
        return wrong
    if instance.id in target.forced:
        return "up to date, and replaced by order"
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
    if version == target.undone and version in target.acceptable:
        return f"rolled back: {version}"
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
    observed: Seen,
    victim: str,
    *,
    arriving: int = 0,
    counted: bool | None = None,
) -> Decision:
    """Whether the instance with id ``victim`` may be taken out of service now.

    After that at least ``size - max_unavailable`` must be in service, and never none, nor none in its zone, whatever
    the configuration says. One that is not in service takes nothing away, as long as another one serves. ``arriving``
    counts replacements that will be in service in its place before it goes; ``counted`` says whether the victim is to
    be counted as serving where looking at it no longer tells (it is being drained by us).

    Nothing seen is not "nothing there", so it allows nothing.
    """
    if not len(observed):
        return Decision(False, "nothing was seen of the fleet, and empty is never all")
    found = observed.find(victim)
    if found is None:
        return Decision(False, f"{victim} was not seen among the fleet's instances")
    itself, arriving = int(observed.serves(found)), max(0, arriving)
    others = observed.serving_count() - itself + arriving
    serves = bool(itself) if counted is None else counted
    if others == 0:
        what = "it is the last healthy one" if serves else "no other one is in service"
        return Decision(False, f"{what}, so it stays whatever the budget says")
    if not serves:
        return Decision(True, f"it is not in service, and {others} of {size} are without it")
    floor = size - min(size, count(max_unavailable))
    if others < floor:
        return Decision(False, f"{others} of {size} would be in service without it, and the floor is {floor}")
    if found.zone and observed.serving_in(found.zone) - itself + arriving == 0:
        return Decision(False, f"it is the last healthy one in zone {found.zone}, so it stays whatever the budget says")
    return Decision(True, f"{others} of {size} are in service without it, and the floor is {floor}")


def check_whole(shape: FleetShape, observed: Seen) -> Decision:
    """Whether as many of the fleet are in service as it must always have."""
    serving, floor = observed.serving_count(), shape.size - min(shape.size, shape.budget.max_unavailable)
    told = f"{serving} of {shape.size} are in service, and its floor is {floor}"
    return Decision(serving >= max(1, floor), told)


def may_begin(shape: FleetShape, view: SlotView, observed: Seen) -> Decision:
    """Whether the replacement of what stands in that slot may begin now.

    The floor must hold when the old instance goes; with a surge the new one serves by then, so it counts already,
    unless it serves now and was counted.
    """
    if view.old is None:
        return Decision(True, "nothing has to go")
    budget = shape.budget
    serves_already = view.new is not None and observed.serves(view.new)
    arriving = 1 if budget.max_surge and not serves_already else 0
    return check_floor(shape.size, budget.max_unavailable, observed, view.old.id, arriving=arriving)


def may_take_out(
    shape: FleetShape, observed: Seen, old: str, new: str = "", *, counted: bool | None = None
) -> Decision:
    """Whether the instance with id ``old`` may be drained or terminated now that ``new`` (if any) has come for it.

    The new one must be in service at this very moment, and the floor must hold. ``counted`` as in ``check_floor``.
    """
    if new:
        found = observed.find(new)
        if found is None:
            return Decision(False, f"its replacement {new} is not to be seen")
        if not observed.serves(found):
            return Decision(
                False, f"its replacement {found.name} is {found.state}, {observed.backend(found).state} at the balancer"
            )
    return check_floor(shape.size, shape.budget.max_unavailable, observed, old, counted=counted)


def check_surge(shape: FleetShape, observed: Observed, unseen: int = 0) -> Decision:
    """Whether one more instance may be launched now.

    Whatever is not gone for certain counts: starting, failed and stopping ones too, and those ``unseen`` that were
    launched a moment ago and that no listing shows.
    """
    live, most = observed.living_in(shape.known), shape.size + shape.budget.max_surge
    if live + unseen + 1 > most:
        launched = f", {unseen} launched a moment ago are not to be seen" if unseen else ""
        return Decision(False, f"{live} instances are not gone yet{launched}, and {most} are the most allowed")
    return Decision(True, f"{live} of at most {most} instances are there")


def find_dark(observed: Seen, waiting: Iterable[str]) -> str:
    """The first of the slots that wait in which nothing is in service; empty if something is in each of them."""
    for slot in waiting:
        if not any(observed.serves(each) for each in observed.in_slot(slot)):
            return slot
    return ""


def in_flight_limit(
    shape: FleetShape, target: Target, observed: Seen, under_way: Collection[str] = ()
) -> tuple[int, str]:
    """How many replacements may be under way at once now, and why not more.

    As many as the file allows and the budget has room for, and each new instance that is out of service takes one off
    that room, unless its slot is among those ``under_way``. Exactly one as long as no instance serves on the target.
    """
    version = str(target.version)
    if not observed.serving_on(version):
        return 1, f"no instance serves on {version} yet, so exactly one goes first"
    room = shape.budget.max_surge or shape.budget.max_unavailable
    missing = observed.missing_on(version) - sum(_missing(observed, slot, version) for slot in under_way)
    most = max(1, count(shape.max_in_flight))
    if missing > 0 and room - missing < most:
        left = max(1, room - missing)
        return left, f"the budget has room for {max(1, room)}, less {missing} new ones that are out of service"
    if room < most:
        return max(1, room), f"the budget has room for {max(1, room)}"
    return most, f"max_in_flight is {most}"


def _missing(observed: Seen, slot: str, version: str) -> int:
    return sum(each.version == version and not observed.serves(each) for each in observed.in_slot(slot))


def check_domain(shape: FleetShape, mine: tuple[str, str], others: Iterable[tuple[str, tuple[str, str]]]) -> Decision:
    """Whether a replacement in the failure domain ``mine`` (zone, host) may begin beside those under way.

    ``others`` are those, each with its slot and its domain: they must all be in the same one, so that losing another
    domain meanwhile cannot meet a fleet that is weak in two. An unknown domain is no hindrance.
    """
    if shape.failure_domain == "none":
        return Decision(True, "replacements in several failure domains at once are allowed")
    depth = 1 if shape.failure_domain == "zone" else 2
    for slot, theirs in others:
        for name, here, there in list(zip(("zone", "host"), mine, theirs, strict=True))[:depth]:
            if here and there and here != there:
                return Decision(False, f"{slot} in {name} {there} is under way, and {name} {here} begins after it")
    return Decision(True, "nothing is under way in another failure domain")
