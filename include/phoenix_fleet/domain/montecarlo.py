"""How a rollout may go: it is played many times with durations and failures drawn by chance. Pure, and seeded.

Each trial begins a replacement as soon as one may begin, at all the speed that is allowed. A failed attempt takes as
long as a good one and halts the rollout: what is under way stands still until a person resumes, then the failed one
is tried again. The same seed draws the same luck whatever the limits are, so that what differs comes from them alone.
"""

from __future__ import annotations

import heapq
import math
import random
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from phoenix_fleet.domain.calendars import HORIZON, Calendar
from phoenix_fleet.domain.durations import Durations
from phoenix_fleet.domain.pacing import Limits, Outlook

MARKS = 100
"""At so many counts of finished replacements the trials are compared with each other."""
_SEEDS_APART = 1_000_003
_HOUR_SECONDS = 3600.0


@dataclass(frozen=True)
class Trouble:
    """What goes wrong, and how long that lasts."""

    rate: float = 0.0
    """Share of attempts that fail; at least 0, below 1."""
    repair: timedelta = timedelta(hours=4)
    """From a halt until a person resumes."""


@dataclass(frozen=True)
class Trial:
    """How it went once."""

    ends: Sequence[float]
    """When each replacement was done, in seconds from the beginning, in the order of their ends; infinite: never."""
    halts: int = 0
    in_time: bool = True
    """Whether all were done by the deadline, and no machine grew too old."""

    @property
    def end(self) -> float:
        """When the last was done."""
        return self.ends[-1] if self.ends else 0.0


@dataclass(frozen=True)
class Simulation:
    """What came of all the trials. Moments are seconds from the beginning, infinite for never."""

    outlook: Outlook
    trouble: Trouble
    ends: Sequence[float]
    """When each trial was done, in order."""
    in_time: int
    """How many were in time."""
    halts: int
    """How many halts there were in all of them."""
    marks: Sequence[int]
    """So many replacements done, …"""
    times: Sequence[Sequence[float]] = field(repr=False)
    """… and when, in each trial, in order."""

    @property
    def trials(self) -> int:
        """How many trials there were."""
        return len(self.ends)

    @property
    def probability(self) -> float:
        """Share of the trials that were in time."""
        return self.in_time / self.trials

    @property
    def bounds(self) -> tuple[float, float]:
        """Between what the true probability lies in 95 of 100 cases (Wilson's interval)."""
        count, share, z = self.trials, self.probability, 1.96
        middle = (share + z * z / (2 * count)) / (1 + z * z / count)
        off = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
        return max(0.0, middle - off), min(1.0, middle + off)

    @property
    def expected_halts(self) -> float:
        """How many halts a trial has on average."""
        return self.halts / self.trials

    def done_by(self, percent: float) -> float:
        """When that many of a hundred trials are done."""
        return percentile(self.ends, percent)

    def band(self, *percents: float) -> list[tuple[int, tuple[float, ...]]]:
        """How many replacements are left, and when it is so many in that many of a hundred trials."""
        left = self.outlook.left
        rows = [
            (left - mark, tuple(percentile(at, each) for each in percents))
            for mark, at in zip(self.marks, self.times, strict=True)
        ]
        return [(left, (0.0,) * len(percents)), *rows]


@dataclass(frozen=True)
class Lever:
    """One change that may raise the probability."""

    change: str
    outlook: Outlook
    trouble: Trouble


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest of those values, which are in order, that at least so many of a hundred do not exceed."""
    return ordered[min(len(ordered), max(1, math.ceil(percent / 100 * len(ordered)))) - 1]


def simulate(
    outlook: Outlook,
    trouble: Trouble | None = None,
    *,
    trials: int = 1000,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> Simulation:
    """That many trials from now on; the same for the same seed.

    :param tick: called after each trial.
    """
    trouble = trouble or Trouble()
    road, count = _Road(outlook.calendar, outlook.now), outlook.left
    marks = sorted({math.ceil(count * number / MARKS) for number in range(1, MARKS + 1)} - {0})
    columns = [array("d") for _ in marks]
    ends, in_time, halts = array("d"), 0, 0
    for number in range(trials):
        rng = random.Random(seed * _SEEDS_APART + number)  # noqa: S311 - nothing secret
        seconds, failures = _draw(rng, outlook.durations, count), _draw_failures(rng, trouble.rate, count)
        found = _play(outlook, road, seconds, failures, trouble.repair.total_seconds())
        ends.append(found.end)
        in_time += found.in_time
        halts += found.halts
        for column, mark in zip(columns, marks, strict=True):
            column.append(found.ends[mark - 1])
        tick()
    return Simulation(outlook, trouble, sorted(ends), in_time, halts, marks, [sorted(column) for column in columns])


def replay(outlook: Outlook, seconds: Sequence[float]) -> Trial:
    """The trial in which each replacement, in the order they are taken, takes exactly so many seconds."""
    return _play(outlook, _Road(outlook.calendar, outlook.now), seconds, [0] * len(seconds), 0.0)


def exactly(median: timedelta, slow: timedelta) -> Durations:
    """Durations that are known for certain to have that median and that 95th percentile."""
    return replace(Durations.guess(median, slow), known=10**9)


def levers(outlook: Outlook, trouble: Trouble, *, budget_key: str = "max_surge") -> list[Lever]:
    """What might help, each alone; ``budget_key`` is how the fleet file calls the budget."""
    calendar, quota, found = outlook.calendar, outlook.limits.quota, list(_one_more(outlook, trouble, budget_key))
    if quota.launches_per_hour is not None:
        rate = quota.launches_per_hour + 1
        faster = replace(outlook.limits, quota=replace(quota, launches_per_hour=rate))
        found.append(Lever(f"quota.launches_per_hour {rate}", replace(outlook, limits=faster), trouble))
    if calendar.windows:
        longer = calendar.with_longer_windows(timedelta(hours=1))
        found.append(Lever("1 h more in each maintenance window", replace(outlook, calendar=longer), trouble))
    if calendar.freezes:
        found.append(Lever("no freeze", replace(outlook, calendar=calendar.without_freezes()), trouble))
    if trouble.rate:
        found.append(Lever("half as many failures", outlook, replace(trouble, rate=trouble.rate / 2)))
        found.append(Lever("resumed in half the time", outlook, replace(trouble, repair=trouble.repair / 2)))
    if outlook.deadline is not None:
        later = outlook.deadline + timedelta(days=1)
        found.append(Lever("a deadline one day later", replace(outlook, deadline=later), trouble))
    return found


def with_room(limits: Limits, count: int) -> Limits:
    """The same with room for at least so many at once."""
    quota = limits.quota
    if quota.at_once is not None:
        quota = replace(quota, at_once=max(quota.at_once, count))
    return replace(
        limits, max_in_flight=max(limits.max_in_flight, count), budget=max(limits.budget, count), quota=quota
    )


def _one_more(outlook: Outlook, trouble: Trouble, budget_key: str) -> Iterator[Lever]:
    limits, more = outlook.limits, outlook.limits.most + 1
    if max((group.count for group in outlook.groups), default=0) < more:
        return
    stand = {"max_in_flight": limits.max_in_flight, budget_key: limits.budget, "quota.at_once": limits.quota.at_once}
    raised = [f"{key} {more}" for key, value in stand.items() if value is not None and value < more]
    change = f"one more at once: {' and '.join(raised)}"
    yield Lever(change, replace(outlook, limits=with_room(limits, more)), trouble)


class _Road:
    """The open time from now on, in seconds from now, drawn as far as somebody has gone."""

    def __init__(self, calendar: Calendar, now: datetime) -> None:
        self._now = now
        self._more = calendar.openings(now, now + HORIZON)
        self._opens: list[float] = []
        self._closes: list[float] = []

    def open_at(self, at: float) -> float:
        """That moment if it is open then, or the next one that is; infinite if none is."""
        while not self._closes or self._closes[-1] <= at:
            found = next(self._more, None)
            if found is None:
                return math.inf
            self._opens.append((found[0] - self._now).total_seconds())
            self._closes.append((found[1] - self._now).total_seconds())
        return max(at, self._opens[bisect_right(self._closes, at)])


def _draw(rng: random.Random, durations: Durations, count: int) -> list[float]:
    """Log-normal with the mean and the spread that are known, and a mean of their own as far as that is in doubt."""
    variance = math.log1p(durations.spread**2)
    doubt = rng.gauss(0.0, 1.0) * math.sqrt(math.log1p(durations.spread**2 / durations.known))
    middle, sigma = math.log(durations.mean.total_seconds()) + doubt - variance / 2, math.sqrt(variance)
    gauss, exp = rng.gauss, math.exp
    return [exp(middle + sigma * gauss(0.0, 1.0)) for _ in range(count)]


def _draw_failures(rng: random.Random, rate: float, count: int) -> list[int]:
    """How often each fails before it succeeds; more often, never less, at a higher rate with the same luck."""
    if not rate:
        return [0] * count
    scale = math.log(rate)
    return [int(math.log(1.0 - rng.random()) / scale) for _ in range(count)]


def _play(outlook: Outlook, road: _Road, seconds: Sequence[float], failures: list[int], repair: float) -> Trial:
    """One trial: group after group, each as quick as its limits let it."""
    player = _Player(road, outlook.limits.most, outlook.limits.quota.launches_per_hour, seconds, failures, repair)
    player.go_on(outlook.running)
    first, too_old = 0, False
    for group in outlook.groups:
        player.run(range(first, first + group.count))
        for count, due in group.dues:
            too_old |= player.ends[first + count - 1] > (due - outlook.now).total_seconds()
        first += group.count
    trial = Trial(player.ends, player.halts)
    late = outlook.deadline is not None and trial.end > (outlook.deadline - outlook.now).total_seconds()
    return replace(trial, in_time=not late and not too_old)


class _Player:
    """The state of one trial. A halt stops the replacements under way, not the clock and not the calendar."""

    def __init__(
        self,
        road: _Road,
        lanes: int,
        per_hour: int | None,
        seconds: Sequence[float],
        failures: list[int],
        repair: float,
    ) -> None:
        self.road, self.lanes, self.per_hour = road, lanes, per_hour
        self.seconds, self.failures, self.repair = seconds, failures, repair
        self.now, self.halts, self.halted = 0.0, 0, 0.0
        self.ends: list[float] = []
        self.launched: list[float] = []
        self.running: list[tuple[float, int]] = []
        """When each will be done, less all halts so far, so that a halt moves them all at once."""

    def go_on(self, elapsed: Sequence[timedelta]) -> None:
        """The first of them have been under way so long; whoever takes longer than drawn has not long to go."""
        for number, each in enumerate(elapsed):
            left = max(self.seconds[number] - each.total_seconds(), self.seconds[number] / 10)
            heapq.heappush(self.running, (left, number))

    def run(self, numbers: range) -> None:
        """All of those until they are done."""
        under_way = {number for _, number in self.running}
        waiting = [number for number in reversed(numbers) if number not in under_way]
        done = len(self.ends) + len(numbers)
        while len(self.ends) < done:
            begins = self._begins() if waiting and len(self.running) < self.lanes else math.inf
            if self.running and self.running[0][0] + self.halted <= begins:
                failed = self._finish_first()
                if failed is not None:
                    waiting.append(failed)
            elif begins == math.inf:
                self.ends.extend([math.inf] * (done - len(self.ends)))
                self.now = math.inf
            else:
                number = waiting.pop()
                self.now = begins
                self.launched.append(begins)
                heapq.heappush(self.running, (begins - self.halted + self.seconds[number], number))

    def _begins(self) -> float:
        """When the next one may begin."""
        earliest = self.now
        if self.per_hour is not None and len(self.launched) >= self.per_hour:
            earliest = max(earliest, self.launched[-self.per_hour] + _HOUR_SECONDS)
        return self.road.open_at(earliest)

    def _finish_first(self) -> int | None:
        """The next one comes to its end; its number if it failed."""
        ended, number = heapq.heappop(self.running)
        self.now = ended + self.halted
        if not self.failures[number]:
            self.ends.append(self.now)
            return None
        self.failures[number] -= 1
        self.halts += 1
        self.halted += self.repair
        self.now += self.repair
        return number
