"""Random fleets in virtual time, as the pacer meets them: pace, outages, windows, freezes, and what it says when."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta

from phoenix_fleet.domain.calendars import Calendar, Freeze, Weekly
from phoenix_fleet.domain.durations import P95, TRUSTED, Durations
from phoenix_fleet.domain.pacing import Limits, Outlook, Quota, Todo, find_pace, groups_of, is_alarming

START = datetime(2026, 11, 1, 4, tzinfo=UTC)
DAY = timedelta(days=1)
LOOK = timedelta(days=1)
"""The daily audit looks even if nothing happens."""
P99 = 2.33
"""Standard deviations: whoever is sure is wrong once in a hundred."""
MEASURED = 8
"""Fewer replacements than this say nothing of a fleet's pace."""
ENDLESS = timedelta(days=700)


@dataclass
class Told:
    """What became of one fleet."""

    seed: int
    deadline: datetime
    ended: datetime
    alarm: datetime | None = None
    knowable: datetime | None = None
    """When whoever knows the true pace would have been sure of a miss, with at least some replacements measured."""
    told_by: datetime | None = None
    """The look after that one."""
    most_at_once: int = 0

    @property
    def missed(self) -> bool:
        return self.ended > self.deadline

    @property
    def announced(self) -> bool:
        """A day ahead, or as soon as it could be known: at the look after that at the latest."""
        if self.alarm is None:
            return False
        return self.alarm <= max(self.deadline - DAY, self.told_by or self.ended)


class Fleet:
    """One of them, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = rng = random.Random(seed)  # noqa: S311 - nothing secret
        self.size = rng.randint(3, 40)
        zones = rng.randint(1, 3)
        self.places = [(min(number, 1), number * zones // self.size) for number in range(self.size)]
        self.median, self.sigma = math.exp(rng.uniform(math.log(300), math.log(5400))), rng.uniform(0.1, 0.8)
        known = rng.choice((0, 0, 5, 10, 20, 50, 50))
        drift = math.exp(rng.gauss(0, 0.1))
        self.seconds = [drift * self.draw() for _ in range(known)]
        guessed = self.median * math.exp(rng.gauss(0, 0.5))
        self.guess = Durations.guess(timedelta(seconds=guessed), timedelta(seconds=3 * guessed))
        at_once = rng.choice((None, None, 2, 4))
        rate = rng.choice((None, None, None, 2, 6))
        self.limits = Limits(rng.randint(1, 4), rng.randint(1, 4), Quota(at_once, rate))
        self.calendar = self.draw_calendar()
        mean = self.median * math.exp(self.sigma**2 / 2)
        self.truth = Durations(
            timedelta(seconds=self.median),
            timedelta(seconds=self.median * math.exp(P95 * self.sigma)),
            timedelta(seconds=mean),
            math.sqrt(math.expm1(self.sigma**2)),
            known=1_000_000,
        )
        ideal = self.outlook(START, self.places, (), self.truth, None).course(self.limits.most).end
        self.deadline = START + min(ENDLESS / 2, timedelta(seconds=ideal * math.exp(rng.uniform(-0.9, 1.4))))
        self.outages = sorted(self.draw_outage() for _ in range(rng.choice((0, 0, 1, 2))))

    def draw(self) -> float:
        return self.median * math.exp(self.rng.gauss(0, self.sigma))

    def draw_calendar(self) -> Calendar:
        rng, windows, freezes = self.rng, (), ()
        if rng.random() < 0.5:
            days = frozenset(rng.sample(range(7), rng.randint(2, 7)))
            opens, hours = rng.randint(0, 23), rng.randint(3, 8)
            zone = rng.choice(("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"))
            windows = (Weekly(days, time(opens), time((opens + hours) % 24), zone),)
        if rng.random() < 0.3:
            begins = START + rng.uniform(0, 20) * DAY
            freezes = (Freeze(begins, begins + rng.uniform(1, 4) * DAY, "freeze"),)
        return Calendar(windows, freezes)

    def draw_outage(self) -> tuple[datetime, datetime]:
        begins = START + self.rng.uniform(0, 1) * (self.deadline - START)
        return begins, begins + timedelta(hours=self.rng.uniform(2, 72))

    def out(self, moment: datetime) -> datetime | None:
        """Until when nothing goes on at that moment; None if all goes on."""
        return next((until for since, until in self.outages if since <= moment < until), None)

    def throttled(self, launches: list[datetime], now: datetime) -> datetime | None:
        """Until when the platform takes no other launch; None if it does."""
        rate = self.limits.quota.launches_per_hour
        if rate is None or len(launches) < rate:
            return None
        until = launches[-rate] + timedelta(hours=1)
        return until if until > now else None

    def end_of(self, begins: datetime, seconds: float) -> datetime:
        """When a replacement that takes so long ends; outages hold it up."""
        at, left = begins, timedelta(seconds=seconds)
        for since, until in self.outages:
            if until <= at:
                continue
            if at + left <= since:
                break
            left -= max(timedelta(), since - at)
            at = until
        return at + left

    def outlook(
        self,
        now: datetime,
        places: list[tuple[int, int]],
        running: tuple[timedelta, ...],
        durations: Durations,
        deadline: datetime | None,
    ) -> Outlook:
        todo = [Todo(place) for place in places]
        return Outlook(now, groups_of(todo), durations, self.limits, self.calendar, deadline, running)


def play(seed: int) -> Told:
    """The whole rollout, and what the pacer said of it."""
    fleet = Fleet(seed)
    seconds, measured = list(fleet.seconds), len(fleet.seconds)
    told = Told(seed, fleet.deadline, START)
    waiting, running = list(fleet.places), list[tuple[datetime, datetime, tuple[int, int]]]()
    launches: list[datetime] = []
    now, alarmed, looked = START, False, START - LOOK
    while waiting or running:
        left = [place for _, _, place in running] + waiting
        elapsed = tuple(now - since for _, since, _ in running)
        durations = Durations.measured(seconds[-50:][::-1], fleet.guess)
        outlook = fleet.outlook(now, left, elapsed, durations, fleet.deadline)
        alarmed = is_alarming(outlook, already=alarmed)
        if alarmed and told.alarm is None:
            told.alarm = now
        # The true distribution, and the doubt that so few measurements leave.
        truth = replace(outlook, durations=replace(fleet.truth, known=max(1, min(measured, TRUSTED))))
        lost = not truth.course(fleet.limits.most, -P99).in_time and shown(outlook, seconds, fleet)
        if told.told_by is None and told.knowable is not None:
            told.told_by = now
        if told.knowable is None and ((lost and measured >= MEASURED) or now >= fleet.deadline):
            told.knowable = now
        looked = now
        pace = find_pace(outlook).concurrency
        while waiting and len(running) < pace and fleet.calendar.is_open(now) and not fleet.out(now):
            if running and running[0][2] != waiting[0]:
                break
            if fleet.throttled(launches, now):
                break
            launches.append(now)
            heapq.heappush(running, (fleet.end_of(now, fleet.draw()), now, waiting.pop(0)))
            told.most_at_once = max(told.most_at_once, len(running))
        now = next_look(fleet, now, looked, running, fleet.throttled(launches, now))
        while running and running[0][0] <= now:
            ended, since, _ = heapq.heappop(running)
            seconds.append((ended - since).total_seconds())
            measured += 1
            told.ended = ended
        if now > START + ENDLESS:
            told.ended = now
            break
    return told


def shown(outlook: Outlook, seconds: list[float], fleet: Fleet) -> bool:
    """Whether what was measured shows it: the rest takes as long as the quicker half of that took."""
    quicker = sorted(seconds[-50:])[: max(1, (len(seconds[-50:]) + 1) // 2)]
    if len(seconds) < MEASURED:
        return False
    each = timedelta(seconds=sum(quicker) / len(quicker))
    return not replace(outlook, durations=Durations(each, each, each, 0.0)).course(fleet.limits.most).in_time


def next_look(
    fleet: Fleet,
    now: datetime,
    looked: datetime,
    running: list[tuple[datetime, datetime, tuple[int, int]]],
    throttled: datetime | None,
) -> datetime:
    """The next replacement that ends, the next moment when one may begin, or the next daily look."""
    moments = [looked + LOOK, fleet.deadline] if fleet.out(now) is None else [looked + LOOK]
    if running:
        moments.append(running[0][0])
    out = fleet.out(now)
    opens = fleet.calendar.next_open(now if out is None else out)
    moments += [each for each in (out, throttled) if each is not None]
    if opens is not None and opens > now:
        moments.append(opens)
    return min(moment for moment in moments if moment > now)
