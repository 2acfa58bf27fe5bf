"""Whose turn it is: a rollout's queue, kept up to date by what happens.

So the next decision costs the same in a fleet of ten and in one of a million. The order is the plan's. It is never
drawn anew by itself: who wants another order draws another plan.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.domain.fleets import FleetShape, PlannedSlot, Target
from phoenix_fleet.domain.planner import check_domain, in_flight_limit, may_begin, view_slot
from phoenix_fleet.domain.tally import Seen


@dataclass(frozen=True, slots=True)
class Turn:
    """What may happen next, and why."""

    slot: str
    """Whose turn it is; empty if it is nobody's now."""
    allowed: bool
    """Whether its replacement may begin."""
    reason: str
    needed: bool = True
    """False: the slot needs no replacement any more, so it is done as it stands."""


class Turns:
    """The replacements of one rollout: which are to come, which are under way. Not thread-safe."""

    def __init__(
        self,
        shape: FleetShape,
        target: Target,
        planned: Iterable[PlannedSlot],
        *,
        under_way: Collection[str] = (),
        done: Collection[str] = (),
    ) -> None:
        self.shape = shape
        self.target = target
        self._waves: deque[tuple[int, deque[PlannedSlot]]] = deque()
        self._under_way: dict[str, PlannedSlot] = {}
        for each in sorted(planned, key=lambda slot: slot.wave):
            if each.slot in under_way:
                self._under_way[each.slot] = each
            elif each.slot not in done:
                self._enqueue(each)

    def _enqueue(self, planned: PlannedSlot) -> None:
        if not self._waves or self._waves[-1][0] < planned.wave:
            self._waves.append((planned.wave, deque()))
        self._waves[-1][1].append(planned)

    def next(self, seen: Seen, now: datetime) -> Turn:
        """What may happen now. The same question gets the same answer until something has happened."""
        while self._waves and not self._waves[0][1]:
            self._waves.popleft()
        if not self._waves:
            told = f"{_first(self._under_way)} is under way" if self._under_way else "every slot is done"
            return Turn("", False, told)
        wave, waiting = self._waves[0]
        head = waiting[0]
        if refused := self._no_room(head, wave, seen):
            return Turn(head.slot, False, refused)
        view = view_slot(self.shape, head.slot, self.target, seen, now)
        if view.note:
            return Turn(head.slot, True, view.note, needed=False)
        if view.refused:
            return Turn(head.slot, False, view.refused)
        decision = may_begin(self.shape, view, seen)
        return Turn(head.slot, decision.allowed, view.reason if decision.allowed else decision.reason)

    def _no_room(self, head: PlannedSlot, wave: int, seen: Seen) -> str:
        earlier = [each for each in self._under_way.values() if each.wave < wave]
        if earlier:
            return f"{earlier[0].slot} of wave {earlier[0].wave} is under way, and wave {wave} begins after it"
        limit, why = in_flight_limit(self.shape, self.target, seen, self._under_way)
        if len(self._under_way) >= limit:
            return f"{_first(self._under_way)} is under way: {why}"
        decision = check_domain(
            self.shape, head.domain, ((each.slot, each.domain) for each in self._under_way.values())
        )
        return "" if decision.allowed else decision.reason

    # What has happened

    def begin(self, slot: str) -> None:
        """The replacement of the slot whose turn it is has begun.

        :raises InvalidConfig: it is another one's turn.
        """
        head = self._waves[0][1][0] if self._waves and self._waves[0][1] else None
        if head is None or head.slot != slot:
            raise InvalidConfig(f"It is not the turn of {slot}, but of {head.slot if head else 'nobody'}.")
        self._under_way[slot] = self._waves[0][1].popleft()

    def finish(self, slot: str) -> None:
        """The replacement under way in that slot is done."""
        del self._under_way[slot]

    def postpone(self, slot: str) -> None:
        """The replacement under way in that slot goes behind all others, into the last wave."""
        planned = self._under_way.pop(slot)
        if not self._waves or self._waves[-1][0] < planned.wave:
            self._waves.append((planned.wave, deque()))
        self._waves[-1][1].append(planned)

    def __len__(self) -> int:
        """How many are not done."""
        return len(self._under_way) + sum(len(waiting) for _, waiting in self._waves)


def _first(slots: Iterable[str]) -> str:
    return next(iter(slots))
