"""Why each slot of an open rollout waits, by what the catalog knows: nobody is asked anything else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from phoenix_fleet.catalog.records import RolloutRecord, RolloutState, SlotRecord, SlotState
from phoenix_fleet.config import Fleet
from phoenix_fleet.domain.calendars import Calendar
from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.domain.fleets import Plan
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.domain.waits import Opens, Place, Wait, room, waiting
from phoenix_fleet.rollout.durations import durations_by_name, durations_of
from phoenix_fleet.rollout.planning import calendar_of, frozen_fleet, shape_of

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog


def waits_of(catalog: Catalog, rollout: RolloutRecord, slots: Sequence[SlotRecord], now: datetime) -> list[Wait]:
    """A wait for every slot of the rollout that is neither done nor under way; none for a rollout that is closed."""
    if rollout.state not in (RolloutState.OPEN, RolloutState.HALTED):
        return []
    try:
        fleet = frozen_fleet(rollout)
        at_once, each, calendar = room(shape_of(fleet)), durations_of(catalog, fleet).typical, calendar_of(fleet)
    except InvalidConfig:  # how it stands must be shown all the same
        at_once, each, calendar = 1, durations_by_name(catalog, rollout.fleet).typical, Calendar()
    halted = ""
    if rollout.state is RolloutState.HALTED:
        who = f"{rollout.halted_slot} at {rollout.halted_step}" if rollout.halted_slot else rollout.halted_by
        halted = f"halted by {who}: {rollout.halted_reason}"
    closed_for = _opens(calendar, now)(timedelta()) or None
    places = [_place(slot, now, closed_for) for slot in slots]
    return waiting(places, each=each, at_once=at_once, halted=halted, opens=_opens(calendar, now))


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


def waits_of_plan(catalog: Catalog, fleet: Fleet, plan: Plan, now: datetime | None = None) -> list[Wait]:
    """The same for a rollout that would be opened now with that plan."""
    shape = shape_of(fleet)
    return waiting(
        [Place(each.slot, each.wave, zone=each.zone) for each in plan.slots],
        each=durations_of(catalog, fleet).typical,
        at_once=room(shape),
        apart=shape.failure_domain != "none",
        opens=_opens(calendar_of(fleet), now or datetime.now(UTC)),
    )


def _opens(calendar: Calendar, now: datetime) -> Opens:
    def opens(after: timedelta) -> timedelta | None:
        found = calendar.next_open(now + after)
        return None if found is None else found - now

    return opens


def _place(slot: SlotRecord, now: datetime, closed_for: timedelta | None) -> Place:
    held = slot.facts.get("held") if slot.state is SlotState.RUNNING and slot.step in (None, Step.CHECK) else ""
    return Place(
        slot.slot,
        slot.wave,
        slot.state.value,
        elapsed=now - slot.began_at if slot.began_at else timedelta(),
        held=held or "",
        held_for=closed_for if held else None,
    )
