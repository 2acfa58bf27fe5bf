"""A slot that the floor or a full surge holds, while another one behind it in the queue is dark, lets that go first.

Nothing is lost where nothing serves, and often only a new instance there lets the others go on. Otherwise they would
wait for each other until a person comes (decision 0043).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from phoenix_fleet.catalog.records import SlotState
from phoenix_fleet.domain import planner
from phoenix_fleet.rollout.progress import LATER, GivesWay, Waiting, pause

if TYPE_CHECKING:
    from phoenix_fleet.domain.fleets import Observed
    from phoenix_fleet.rollout.replacement import Replacement

HELD_FOR = timedelta(minutes=2)
"""So long it must have been held: what comes and goes by itself changes no order."""


def wait(work: Replacement, observed: Observed, told: str) -> Waiting | GivesWay:
    """What a slot does that is held: wait, or after a while give way."""
    held = work.lasting("held up")
    if held < HELD_FOR:
        return Waiting(told, LATER)
    dark = planner.find_dark(observed, work.shape.slots)
    if dark:
        slots = work.deps.catalog.rollouts.slots(work.rollout.id)
        dark = planner.find_dark(observed, (each.slot for each in slots if each.state is SlotState.WAITING))
    if not dark:
        # Each look lists the whole fleet, at platforms that ration such calls: the longer, the rarer.
        return Waiting(told, max(LATER, pause(held)))
    return GivesWay(f"{told}; nothing serves in {dark}, which waits behind it", dark)
