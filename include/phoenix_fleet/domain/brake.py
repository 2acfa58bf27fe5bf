"""The brake: when too much of a fleet is out of service, or cannot be seen at all, nothing is touched any more.

Machines fall sick one by one; when many do at once, the cause is rarely the machines: a release, a network, or our
own eyes. Replacing them would make it worse, so a person looks first.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from phoenix_fleet.domain.fleets import FleetShape
from phoenix_fleet.domain.tally import Seen

_NAMED = 5
"""So many slots are named in a reason; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Brake:
    """When to stop, resolved from the fleet's file for its frozen size."""

    most: int
    """Slots out of service that are still borne."""
    at_least: int = 5
    """Fewer than this never stop it, unless it is the whole fleet."""
    blind_for: timedelta = timedelta(minutes=10)
    """How long there may be no complete view before the rollout is halted."""


@dataclass(frozen=True, slots=True)
class Braking:
    """Whether the brake is on, and why."""

    state: Literal["off", "meltdown", "blind"]
    """``blind``: what was seen cannot be true, so nothing follows from it; ``meltdown``: stop everything."""
    reason: str


def check_brake(shape: FleetShape, brake: Brake, seen: Seen, *, excused: Collection[str], expected: bool) -> Braking:
    """Whether anything may be touched in a fleet that looks like this.

    A slot is out of service when nothing in it serves. ``excused`` are slots of which that is known and meant: those
    that were empty when the rollout began and those that the engine has in hand. ``expected`` says whether instances
    must be there; then an empty listing is a broken view, never an empty fleet.

    It stops at more than ``brake.most``, if they are ``brake.at_least`` or the whole fleet. One sick machine of three
    is a third of the fleet and an ordinary day: there the floor is what protects. A fleet of one is never stopped:
    its one machine being down is what a replacement is there to mend.
    """
    if expected and not len(seen):
        return Braking("blind", f"nothing is listed of {shape.name}, which has {shape.size} slots: empty is never all")
    dark = shape.size - seen.serving_slots(shape.known)
    dark -= sum(slot in shape.known and not _lit(seen, slot) for slot in excused)
    if shape.size == 1 or dark <= brake.most or dark < min(brake.at_least, shape.size):
        return Braking("off", f"{dark} of {shape.size} are out of service, and {brake.most} are borne")
    return Braking(
        "meltdown",
        f"{dark} of {shape.size} are out of service ({_names(shape, seen, excused, dark)}), and the brake of "
        f"{shape.name} stops everything at more than {max(brake.most, min(brake.at_least, shape.size) - 1)}",
    )


def _lit(seen: Seen, slot: str) -> bool:
    return any(seen.serves(each) for each in seen.in_slot(slot))


def _names(shape: FleetShape, seen: Seen, excused: Collection[str], count: int) -> str:
    dark = (slot for slot in shape.slots if slot not in excused and not _lit(seen, slot))
    named = [slot for slot, _ in zip(dark, range(_NAMED), strict=False)]
    return ", ".join(named) + (f" and {count - len(named)} more" if count > len(named) else "")
