"""Why each slot of an open rollout waits, by what the catalog knows: nobody is asked anything else."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from phoenix_fleet.catalog.records import RolloutRecord, RolloutState, SlotRecord, SlotState
from phoenix_fleet.config import Fleet
from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.domain.fleets import Plan
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.domain.waits import Place, Wait, room, waiting
from phoenix_fleet.rollout.planning import frozen_fleet, shape_of

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog

BESIDE_THE_WATCH = timedelta(seconds=90)
"""What a replacement takes beside its watch time, as long as none of the fleet's was ever measured."""


def waits_of(catalog: Catalog, rollout: RolloutRecord, slots: Sequence[SlotRecord], now: datetime) -> list[Wait]:
    """A wait for every slot of the rollout that is neither done nor under way; none for a rollout that is closed."""
    if rollout.state not in (RolloutState.OPEN, RolloutState.HALTED):
        return []
    try:
        fleet = frozen_fleet(rollout)
        at_once, each = room(shape_of(fleet)), typical_time(catalog, fleet.name, fleet.watch_time)
    except InvalidConfig:  # how it stands must be shown all the same
        at_once, each = 1, typical_time(catalog, rollout.fleet)
    halted = ""
    if rollout.state is RolloutState.HALTED:
        who = f"{rollout.halted_slot} at {rollout.halted_step}" if rollout.halted_slot else rollout.halted_by
        halted = f"halted by {who}: {rollout.halted_reason}"
    elif rollout.paused_by:
        halted = f"paused by {rollout.paused_by}: {rollout.paused_reason}"
    return waiting([_place(slot, now) for slot in slots], each=each, at_once=at_once, halted=halted)


def told_of(catalog: Catalog, rollout_id: int, slot: str) -> str:
    """What that slot waits for and how long that will take, in one line; empty if it does not wait."""
    rollout = catalog.rollouts.get(rollout_id)
    found = waits_of(catalog, rollout, catalog.rollouts.slots(rollout_id), datetime.now(UTC))
    wait = next((each for each in found if each.slot == slot), None)
    if wait is None:
        return ""
    if wait.begins_in is None:
        return f"{slot}: {wait.reason}; nobody can tell for how long"
    return f"{slot}: {wait.reason}; it begins in about {math.ceil(wait.begins_in / timedelta(minutes=1))} min"


def waits_of_plan(catalog: Catalog, fleet: Fleet, plan: Plan) -> list[Wait]:
    """The same for a rollout that would be opened now with that plan."""
    shape = shape_of(fleet)
    return waiting(
        [Place(each.slot, each.wave, zone=each.zone) for each in plan.slots],
        each=typical_time(catalog, fleet.name, fleet.watch_time),
        at_once=room(shape),
        apart=shape.failure_domain != "none",
    )


def typical_time(catalog: Catalog, fleet: str, watch_time: timedelta = timedelta()) -> timedelta:
    """How long one replacement in that fleet takes: the median of its last ones, or a guess by its watch time."""
    known = catalog.rollouts.recent_seconds(fleet)
    return timedelta(seconds=statistics.median(known)) if known else watch_time + BESIDE_THE_WATCH


def _place(slot: SlotRecord, now: datetime) -> Place:
    held = slot.facts.get("held") if slot.state is SlotState.RUNNING and slot.step in (None, Step.CHECK) else ""
    return Place(
        slot.slot,
        slot.wave,
        slot.state.value,
        elapsed=now - slot.started_at if slot.started_at else timedelta(),
        held=held or "",
    )
