"""The pacer: how fast a rollout must go to be done in time, when it will end, and whether it will be late. Pure.

It plays the remaining work forward: so many at once, each group of replacements after the one before it, beginning
only while the calendar is open. The deadline never overrides the floor: the pacer only ever asks for less than the
planner allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from itertools import groupby
from typing import Literal

from phoenix_fleet.domain.calendars import HORIZON, Calendar
from phoenix_fleet.domain.durations import P95, Durations

CERTAIN = 1.0
"""An alarm is raised once five of six courses, at all the speed that is allowed, would be late."""
MOST_DUES = 50
"""Age limits are looked at in so many steps at most."""

Standing = Literal["on time", "tight", "at risk"]


@dataclass(frozen=True)
class Quota:
    """What a platform takes; None: as much as anybody likes."""

    at_once: int | None = None
    """Replacements under way at once."""
    launches_per_hour: int | None = None


@dataclass(frozen=True)
class Limits:
    """What bounds the speed of a rollout."""

    max_in_flight: int = 1
    budget: int = 1
    """How many replacements the fleet's surge, or else what may be missing of it, has room for."""
    quota: Quota = Quota()

    @property
    def most(self) -> int:
        """How many may be under way at once."""
        return max(1, min(self.max_in_flight, self.budget, self.quota.at_once or self.budget))

    def why(self) -> str:
        """What keeps it from being more."""
        if self.quota.at_once is not None and self.quota.at_once <= min(self.max_in_flight, self.budget):
            return f"the platform's quota is {self.quota.at_once} at once"
        if self.budget < self.max_in_flight:
            return f"the budget has room for {self.budget}"
        return f"max_in_flight is {self.max_in_flight}"


@dataclass(frozen=True)
class Group:
    """Replacements that may be under way together, in order; the next group begins when all of them are done."""

    count: int
    dues: tuple[tuple[int, datetime], ...] = ()
    """(so many of them, by then): when the machines that they take out become too old."""


@dataclass(frozen=True)
class Todo:
    """One replacement that is not done, in the order they are taken."""

    group: tuple[object, ...]
    """The same for those that may be under way together: wave and failure domain."""
    due: datetime | None = None
    """When the machine that it takes out becomes too old."""


def groups_of(todo: Sequence[Todo], *, one_first: bool = False) -> tuple[Group, ...]:
    """What is left to do, in groups; ``one_first``: the first of all goes alone, because none has come in yet."""
    found = []
    for _, members in groupby(enumerate(todo), lambda each: (one_first and each[0] == 0, each[1].group)):
        dues = [each.due for _, each in members]
        found.append(Group(len(dues), tuple(steps(dues, MOST_DUES * len(dues) // len(todo) + 1))))
    return tuple(found)


def steps(dues: Sequence[datetime | None], most: int) -> Iterator[tuple[int, datetime]]:
    """So many by then, without what a later and stricter step says already; at most that many, to the safe side."""
    kept: list[tuple[int, datetime]] = []
    for position in range(len(dues), 0, -1):
        due = dues[position - 1]
        if due is not None and (not kept or due < kept[-1][1]):
            kept.append((position, due))
    kept.reverse()
    share = math.ceil(len(kept) / most)
    for start in range(0, len(kept), share or 1):
        yield kept[min(start + share, len(kept)) - 1][0], kept[start][1]


@dataclass(frozen=True)
class Course:
    """How it would go; seconds from now, infinite for never."""

    end: float
    late: float
    """How long after its deadline it would end, negative if before."""
    too_old: float
    """The same for the machine that would grow too old the most."""

    @property
    def in_time(self) -> bool:
        """Whether it would be done by the deadline with no machine growing too old."""
        return self.late <= 0 and self.too_old <= 0


@dataclass(frozen=True)
class Pace:
    """How many replacements should be under way at once."""

    concurrency: int
    reason: str


@dataclass(frozen=True)
class Forecast:
    """When a rollout will end at its pace."""

    finish_p50: datetime | None
    """As likely before as after; None: never, as it stands."""
    finish_p95: datetime | None
    standing: Standing
    """``tight``: it may be late; ``at risk``: it will be late, at all the speed that is allowed."""

    @property
    def on_time(self) -> bool:
        """Whether it is not expected to be late."""
        return self.standing != "at risk"


@dataclass(frozen=True)
class Outlook:
    """Everything that the pacer decides by."""

    now: datetime
    groups: tuple[Group, ...]
    durations: Durations
    limits: Limits = field(default_factory=Limits)
    calendar: Calendar = field(default_factory=Calendar)
    deadline: datetime | None = None
    running: tuple[timedelta, ...] = ()
    """How long those that are under way have been; they belong to the first group and come first in it."""

    @cached_property
    def left(self) -> int:
        """How many replacements are not done."""
        return sum(group.count for group in self.groups)

    @cached_property
    def _road(self) -> _Road:
        return _Road(self.calendar, self.now)

    def course(self, at_once: int, deviations: float = 0.0) -> Course:
        """How it goes with so many at once, each replacement taking longer than expected by that many deviations."""
        each = self.durations.each_of(self.left, deviations)
        end, too_old, lanes = 0.0, -math.inf, max(1, at_once)
        start = 0.0
        for number, group in enumerate(self.groups):
            busy = self.running if number == 0 else ()
            together, every = self._rounds(min(lanes, max(1, group.count)), each)
            drive = _Drive(self._road, each, together, every)
            drive.ahead(start, busy)
            for count, due in group.dues:
                too_old = max(too_old, drive.end(count) - (due - self.now).total_seconds())
            end = start = drive.end(group.count) + self._straggling(each, min(lanes, group.count))
        late = -math.inf if self.deadline is None else end - (self.deadline - self.now).total_seconds()
        return Course(end, late if self.groups else -math.inf, too_old)

    def _rounds(self, lanes: int, each: float) -> tuple[int, float]:
        """How many begin together, and how many seconds after those before: one by one, where launches are rationed."""
        rate = self.limits.quota.launches_per_hour
        return (1, max(each / lanes, 3600 / rate)) if rate else (lanes, each)

    def _straggling(self, each: float, lanes: int) -> float:
        """How much longer the last of several takes than the average one."""
        return 0.5 * each * self.durations.spread * math.sqrt(2 * math.log(lanes)) if lanes > 1 else 0.0

    def moment(self, seconds: float) -> datetime | None:
        """That long from now; None for never."""
        return self.now + timedelta(seconds=seconds) if math.isfinite(seconds) else None


class _Road:
    """The open time from now on, in seconds from now, drawn as far as somebody has gone."""

    def __init__(self, calendar: Calendar, now: datetime) -> None:
        self._now = now
        self._more = calendar.openings(now, now + HORIZON)
        self._drawn: list[tuple[float, float]] = []

    def at(self, index: int) -> tuple[float, float] | None:
        while len(self._drawn) <= index:
            found = next(self._more, None)
            if found is None:
                return None
            self._drawn.append(((found[0] - self._now).total_seconds(), (found[1] - self._now).total_seconds()))
        return self._drawn[index]


class _Drive:
    """One group on its way: in rounds of as many as may go together, each beginning while the calendar is open."""

    def __init__(self, road: _Road, each: float, lanes: int, every: float) -> None:
        self.road, self.each, self.lanes, self.every = road, each, lanes, every
        self.start, self.ready, self.ahead_of = 0.0, 0.0, 0

    def ahead(self, start: float, busy: Sequence[timedelta]) -> None:
        """It starts then, behind those that are under way."""
        self.start, self.ready, self.ahead_of = start, start, len(busy)
        if busy:
            gone = sum(each.total_seconds() for each in busy) / len(busy)
            # Whoever takes longer than expected has not long to go, as far as anybody can tell.
            left = max(self.each - gone, self.each / 10)
            self.start = start + left * min(1.0, len(busy) / self.lanes)
            self.ready = start + left

    def end(self, count: int) -> float:
        """When the first so many of the group are done, in seconds from now."""
        rounds, start, index = math.ceil((count - self.ahead_of) / self.lanes), self.start, 0
        if rounds <= 0:
            return self.ready
        while (stretch := self.road.at(index)) is not None:
            since, until = stretch
            index += 1
            if start >= until:
                continue
            start = max(start, since)
            fit = math.ceil((until - start) / self.every)
            if fit >= rounds:
                return max(self.ready, start + (rounds - 1) * self.every + self.each)
            rounds -= fit
            start += fit * self.every
        return math.inf


def find_pace(outlook: Outlook) -> Pace:
    """The smallest concurrency that makes the deadline in 95 of 100 courses, or all that is allowed if none does."""
    most = outlook.limits.most
    if outlook.deadline is None and not any(group.dues for group in outlook.groups):
        return Pace(most, f"no deadline; {outlook.limits.why()}")
    if not outlook.course(most, P95).in_time:
        return Pace(most, f"the deadline needs all that is allowed: {outlook.limits.why()}")
    enough = smallest(lambda at_once: outlook.course(at_once, P95).in_time, 1, most)
    if enough == most:
        return Pace(most, f"fewer would not make the deadline; {outlook.limits.why()}")
    return Pace(enough, f"{enough} at once make the deadline")


def smallest(enough: Callable[[int], bool], least: int, most: int) -> int:
    """The smallest of those numbers that is enough; ``most`` is, and so is every number above one that is."""
    while least < most:
        middle = (least + most) // 2
        if enough(middle):
            most = middle
        else:
            least = middle + 1
    return most


def forecast(outlook: Outlook, at_once: int | None = None) -> Forecast:
    """When it will end with so many at once (default: at its pace), and whether it will be late at full speed."""
    pace = find_pace(outlook).concurrency if at_once is None else at_once
    return Forecast(
        outlook.moment(outlook.course(pace).end),
        outlook.moment(outlook.course(pace, P95).end),
        standing(outlook),
    )


def standing(outlook: Outlook) -> Standing:
    """Whether the deadline will be met, at all the speed that is allowed."""
    most = outlook.limits.most
    if outlook.course(most, P95).in_time:
        return "on time"
    return "tight" if outlook.course(most, -CERTAIN).in_time else "at risk"


def is_alarming(outlook: Outlook, *, already: bool) -> bool:
    """Whether the owners must know that it will be late; once raised, an alarm stays until a miss is unlikely again."""
    if standing(outlook) == "at risk":
        return True
    return already and not outlook.course(outlook.limits.most).in_time
