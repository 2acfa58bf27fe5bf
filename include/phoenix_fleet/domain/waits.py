"""Why each slot of a rollout waits, and until when as far as can be told: one reason and one estimate for each."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from phoenix_fleet.domain.fleets import FleetShape

Opens = Callable[[timedelta], timedelta | None]


@dataclass(frozen=True, slots=True)
class Place:
    """One replacement in a rollout's queue."""

    slot: str
    wave: int
    state: Literal["waiting", "running", "failed", "done"] = "waiting"
    zone: str = ""
    elapsed: timedelta = timedelta()
    """How long it has been under way."""
    held: str = ""
    """Why it cannot begin although it is its turn; empty if it can."""
    held_for: timedelta | None = None
    """How much longer that lasts; None while nobody can tell."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a slot waits."""

    slot: str
    reason: str
    begins_in: timedelta | None
    """When its replacement will begin at the pace so far; None while nobody can tell."""


def waiting(
    queue: Sequence[Place],
    *,
    each: timedelta,
    at_once: int,
    apart: bool = True,
    halted: str = "",
    opens: Opens | None = None,
) -> list[Wait]:
    """A wait for every slot that is not under way and not done, in the order they are taken.

    :param queue: all replacements of the rollout, in that order.
    :param each: how long one takes.
    :param at_once: how many may be under way together.
    :param apart: whether one zone begins only after the one before it.
    :param halted: why nothing goes on, if so.
    :param opens: from so long from now to when one may begin then: in a maintenance window, outside freezes; None if
        that never comes. Default: always at once.
    """
    left = [place for place in queue if place.state != "done"]
    if halted:
        return [Wait(place.slot, halted, None) for place in left if place.state != "running" or place.held]
    return _Line(left, each, max(1, at_once), apart, opens or (lambda moment: moment)).waits()


def room(shape: FleetShape) -> int:
    """How many replacements the fleet may have under way together at most."""
    budget = shape.budget
    return max(1, min(shape.max_in_flight, budget.max_surge or budget.max_unavailable))


class _Line:
    """The queue played forward: who is free takes the next, and a wave or a zone begins after the one before it."""

    def __init__(self, left: Sequence[Place], each: timedelta, at_once: int, apart: bool, opens: Opens) -> None:
        self.left = left
        self.each = each
        self.at_once = at_once
        self.apart = apart
        self.opens = opens
        self.running = [place for place in left if place.state == "running"]
        self.held = next((place for place in self.running if place.held and place.held_for is None), None)

    def waits(self) -> list[Wait]:
        ends = [self._end(place) for place in self.running]
        # More may be under way than are allowed by now; nobody takes the place of the first of those.
        busy, last = sorted(ends)[-self.at_once :], max(ends, default=timedelta())
        waits = [Wait(place.slot, place.held, place.held_for) for place in self.running if place.held]
        group = self._group(self.running[0]) if self.running else None
        ahead = 0
        for place in self.left:
            if place.state == "running":
                continue
            if group is not None and self._group(place) != group:
                busy = [last] * self.at_once  # nobody begins before all of the group before are done
            group = self._group(place)
            begins = self.opens(heapq.heappop(busy) if len(busy) >= self.at_once else timedelta())
            if begins is None:  # nor do those behind it
                begins, self.held = timedelta(), place
            heapq.heappush(busy, begins + self.each)
            last = max(last, begins + self.each)
            waits.append(Wait(place.slot, self._reason(place, ahead), None if self.held else begins))
            ahead += 1
        return waits

    def _end(self, place: Place) -> timedelta:
        if place.held_for is not None:
            return place.held_for + self.each
        return max(timedelta(), self.each - place.elapsed)

    def _group(self, place: Place) -> tuple[int, str]:
        return place.wave, place.zone if self.apart else ""

    def _reason(self, place: Place, ahead: int) -> str:
        """What is nearest in its way."""
        first = self.left[0]
        if self.held is place:
            return "it is next, and no maintenance window opens any more"
        if self.held is not None:
            return f"{self.held.slot} is before it and waits"
        if place.wave != first.wave:
            return f"wave {place.wave} begins after wave {first.wave}: {first.slot} is not done"
        if self.apart and place.zone != first.zone:
            return (
                f"zone {place.zone or 'unknown'} begins after zone {first.zone or 'unknown'}: {first.slot} is not done"
            )
        if ahead:
            return f"{ahead} before it, {self.at_once} at once"
        if len(self.running) < self.at_once:
            return "it is next"
        return f"it is next after {self.running[0].slot}, {self.at_once} at once"
