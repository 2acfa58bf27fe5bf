"""Whether a rollout can be done in time, said before its first replacement: what is short, and what would cure it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from phoenix_fleet.domain.calendars import HORIZON
from phoenix_fleet.domain.durations import P95
from phoenix_fleet.domain.pacing import (
    Forecast,
    Group,
    Outlook,
    Pace,
    Quota,
    Standing,
    find_pace,
    forecast,
    smallest,
    standing,
)

_MOST_LAUNCHES = 100_000
_HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Cure:
    """One change that alone would be enough to be done in time in 95 of 100 courses."""

    short: str
    """What is short without it."""
    change: str
    outlook: Outlook
    """The rollout with that change."""

    def __str__(self) -> str:
        return self.change


@dataclass(frozen=True)
class Verdict:
    """Whether the deadline can be met within the budget, the windows and the quotas."""

    standing: Standing
    pace: Pace
    forecast: Forecast
    shortage: str = ""
    """What is short; empty if nothing is."""
    cures: tuple[Cure, ...] = ()

    @property
    def feasible(self) -> bool:
        """Whether it can be met, as far as anybody can tell."""
        return self.standing != "at risk"

    def lines(self) -> list[str]:
        """The verdict for people."""
        word = {"on time": "feasible", "tight": "feasible, but tight", "at risk": "not feasible"}[self.standing]
        ends = f"done about {_at(self.forecast.finish_p50)}, in 95 of 100 cases by {_at(self.forecast.finish_p95)}"
        found = [f"{word}: {ends}", f"pace: {self.pace.concurrency} at once: {self.pace.reason}"]
        if self.shortage:
            found.append(f"short of {self.shortage}")
        return found + [f"cure: {cure}" for cure in self.cures]


def assess(outlook: Outlook, *, budget_key: str = "max_surge") -> Verdict:
    """The verdict; ``budget_key`` is how the fleet file calls the budget that the replacements come out of."""
    pace, stands = find_pace(outlook), standing(outlook)
    told = forecast(outlook, pace.concurrency)
    if stands == "on time":
        return Verdict(stands, pace, told)
    cures = tuple(_cures(outlook, budget_key))
    named = dict.fromkeys(cure.short for cure in cures if cure.short)
    return Verdict(stands, pace, told, " or ".join(named) or _needs(outlook), cures)


def _needs(outlook: Outlook) -> str:
    """What to say if nothing but time would do."""
    if next(outlook.calendar.openings(outlook.now, outlook.now + HORIZON), None) is None:
        return "time: no maintenance window ever opens"
    course = outlook.course(outlook.limits.most, P95)
    late = max(course.late, course.too_old)
    if not math.isfinite(late):  # little is known yet, so the slow end of what may be lies beyond the calendar
        return "time: it may be late by more than can be reckoned, at all the speed that is allowed"
    return f"time: it would be late by {_hours(late)} at all the speed that is allowed"


def _cures(outlook: Outlook, budget_key: str) -> Iterator[Cure]:
    yield from _more_at_once(outlook, budget_key)
    yield from _more_launches(outlook)
    yield from _more_window(outlook)
    if outlook.calendar.freezes:
        free = replace(outlook, calendar=outlook.calendar.without_freezes())
        if _is_safe(free):
            reasons = ", ".join(dict.fromkeys(each.reason for each in outlook.calendar.freezes))
            yield Cure("time outside freezes", f"no freeze ({reasons})", free)
    yield from _more_time(outlook)


def _is_safe(outlook: Outlook) -> bool:
    return outlook.course(outlook.limits.most, P95).in_time


def _more_at_once(outlook: Outlook, budget_key: str) -> Iterator[Cure]:
    limits, largest = outlook.limits, max((group.count for group in outlook.groups), default=1)

    def with_room(count: int) -> Outlook:
        quota = limits.quota
        if quota.at_once is not None:
            quota = replace(quota, at_once=max(quota.at_once, count))
        more = replace(
            limits, max_in_flight=max(limits.max_in_flight, count), budget=max(limits.budget, count), quota=quota
        )
        return replace(outlook, limits=more)

    if largest <= limits.most or not _is_safe(with_room(largest)):
        return
    count = smallest(lambda number: _is_safe(with_room(number)), limits.most + 1, largest)
    changed = [
        (key, old)
        for key, old in (
            ("max_in_flight", limits.max_in_flight),
            (budget_key, limits.budget),
            ("quota.at_once", limits.quota.at_once),
        )
        if old is not None and old < count
    ]
    yield Cure(
        " and ".join(key for key, _ in changed),
        " and ".join(f"{key} {count} instead of {old}" for key, old in changed),
        with_room(count),
    )


def _more_launches(outlook: Outlook) -> Iterator[Cure]:
    rate = outlook.limits.quota.launches_per_hour
    if rate is None:
        return

    def at_rate(number: int) -> Outlook:
        quota = Quota(outlook.limits.quota.at_once, number)
        return replace(outlook, limits=replace(outlook.limits, quota=quota))

    if _is_safe(at_rate(_MOST_LAUNCHES)):
        number = smallest(lambda number: _is_safe(at_rate(number)), rate + 1, _MOST_LAUNCHES)
        yield Cure("the platform's quota", f"quota.launches_per_hour {number} instead of {rate}", at_rate(number))


def _more_window(outlook: Outlook) -> Iterator[Cure]:
    if not outlook.calendar.windows:
        return

    def longer(hours: int) -> Outlook:
        return replace(outlook, calendar=outlook.calendar.with_longer_windows(hours * _HOUR))

    if _is_safe(longer(24)):
        hours = smallest(lambda hours: _is_safe(longer(hours)), 1, 24)
        yield Cure("time in maintenance windows", f"{hours} h more in each maintenance window", longer(hours))


def _more_time(outlook: Outlook) -> Iterator[Cure]:
    course = outlook.course(outlook.limits.most, P95)
    if not math.isfinite(course.end):
        return
    later, parts = outlook, []
    if course.late > 0 and outlook.deadline is not None:
        deadline = _next_hour(outlook.deadline + timedelta(seconds=course.late))
        later, parts = replace(later, deadline=deadline), [f"a deadline at {_at(deadline)}"]
    if course.too_old > 0:
        hours = math.ceil(course.too_old / 3600)
        later = replace(later, groups=tuple(_older(group, hours) for group in outlook.groups))
        parts.append(f"a max_age {_hours(hours * 3600.0)} longer")
    yield Cure("", " and ".join(parts), later)


def _older(group: Group, hours: int) -> Group:
    return replace(group, dues=tuple((count, due + hours * _HOUR) for count, due in group.dues))


def _next_hour(moment: datetime) -> datetime:
    whole = moment.replace(minute=0, second=0, microsecond=0)
    return whole if whole == moment else whole + _HOUR


def _hours(seconds: float) -> str:
    hours = math.ceil(seconds / 3600)
    return f"{hours} h" if hours < 72 else f"{math.ceil(hours / 24)} days"


def _at(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else "never"
