"""What takes the room that a launch needs and that nobody misses. No I/O, no clock, no memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from datetime import datetime

from phoenix_fleet.domain.fleets import FleetShape, Observed, Target
from phoenix_fleet.domain.models import Backend, Instance, InstanceState
from phoenix_fleet.domain.planner import check_floor, find_fault, view_slot

MOST_NAMED = 5
"""So many are named where many could be."""


def crowded(shape: FleetShape, observed: Observed) -> str:
    """Which slots hold more than one instance that is not gone, in words; empty if none does."""
    living = Counter(each.slot for each in observed.instances if each.state is not InstanceState.GONE)
    several = [f"{living[slot]} in {slot}" for slot in shape.slots if living[slot] > 1]
    more = f" and {len(several) - MOST_NAMED} more slots" if len(several) > MOST_NAMED else ""
    return ", ".join(several[:MOST_NAMED]) + more


def find_left_over(
    shape: FleetShape,
    target: Target,
    observed: Observed,
    now: datetime,
    spared: Collection[str],
    kept: str = "",
    *,
    done: Collection[str] = (),
) -> Instance | None:
    """An instance beside another one in its slot, which takes the room that a launch needs and that nobody misses.

    Either it is out of service, or it has to go, another one serves in its slot and the floor holds without it. One
    that drains counts as serving: it could again at once, and while the floor is broken it may have to.

    :param spared: slots in which nothing is left over: it may be the new instance of a replacement under way.
    :param kept: id of one that is never taken for a left-over.
    :param done: slots whose replacement is done: there only what runs another release is left over.
    """
    shared = Counter(each.slot for each in observed.instances if each.state is not InstanceState.GONE)
    in_service = None
    for slot in shape.slots:
        if shared[slot] < 2 or slot in spared:
            continue
        if slot in done:
            in_service = in_service or _outdated_beside(shape, slot, target, observed, now)
            continue
        view = view_slot(shape, slot, target, observed, now)
        idle = list(view.surplus)
        if view.new is not None and view.old is not None and not view.serves and view.old.id != kept:
            idle.append(view.old)
        for each in idle:
            if not _drains(each, observed) or _may_go(shape, observed, each):
                return each
        in_service = in_service or _missed_by_nobody(shape, slot, target, observed, now, kept)
    return in_service


def _missed_by_nobody(
    shape: FleetShape, slot: str, target: Target, observed: Observed, now: datetime, kept: str
) -> Instance | None:
    """One of several in service in that slot that has to go and may."""
    serving = [each for each in observed.in_slot(slot) if observed.serves(each)]
    if len(serving) < 2:
        return None
    for each in serving:
        faulty = each.id != kept and find_fault(each, shape, target, observed, now)
        if faulty and _may_go(shape, observed, each):
            return each
    return None


def _outdated_beside(
    shape: FleetShape, slot: str, target: Target, observed: Observed, now: datetime
) -> Instance | None:
    """One on another release, beside a good one that serves in that slot: somebody put it there since."""
    standing = observed.in_slot(slot)
    faults = {each.id: find_fault(each, shape, target, observed, now) for each in standing}
    if not any(observed.serves(each) and not faults[each.id] for each in standing):
        return None
    for each in standing:
        if not faults[each.id] or each.version == str(target.version):
            continue
        if _may_go(shape, observed, each):
            return each
    return None


def _drains(instance: Instance, observed: Observed) -> bool:
    return observed.backend(instance).state is Backend.DRAINING


def _may_go(shape: FleetShape, observed: Observed, instance: Instance) -> bool:
    """Whether the floor holds without it."""
    serves = observed.serves(instance) or _drains(instance, observed)
    return check_floor(shape.size, shape.budget.max_unavailable, observed, instance.id, counted=serves).allowed
