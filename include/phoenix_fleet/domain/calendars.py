"""When replacements may begin: weekly maintenance windows in their own time zones, less the freezes.

A window opens the first time that its local clock shows ``opens`` or later, and closes the first time that it shows
``closes`` or later. That holds where clocks change, too: what a gap skips happens at the gap, what comes twice counts
the first time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

DAY = timedelta(days=1)
HORIZON = timedelta(days=800)
"""How far ahead anything is looked for; what does not open within that never does."""
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

Opening = tuple[datetime, datetime]
"""From when until when (exclusive), UTC."""


@dataclass(frozen=True)
class Weekly:
    """A maintenance window that comes back every week."""

    days: frozenset[int]
    """On which days it opens, Monday being 0."""
    opens: time
    closes: time
    """On the next day, if not later than ``opens``."""
    zone: str = "UTC"
    """IANA name of the time zone that it is written in."""
    longer: timedelta = timedelta()
    """How much later it closes than written: for asking what would help."""

    def on(self, day: date) -> Opening | None:
        """When the one that opens on that local day is open; None if none does or a clock change swallows it."""
        if day.weekday() not in self.days:
            return None
        last = day if self.closes > self.opens else day + DAY
        begins = first_moment(datetime.combine(day, self.opens), self.zone)
        ends = first_moment(datetime.combine(last, self.closes), self.zone) + self.longer
        return (begins, ends) if begins < ends else None

    def __str__(self) -> str:
        named = ", ".join(DAYS[day] for day in sorted(self.days)) if len(self.days) < 7 else "every day"
        return f"{named} {self.opens:%H:%M}-{self.closes:%H:%M} {self.zone}"


@dataclass(frozen=True)
class Freeze:
    """A time in which nothing begins, whatever the windows say."""

    begins: datetime
    ends: datetime
    reason: str


@dataclass(frozen=True)
class Calendar:
    """Maintenance windows (none: always open) and freezes. Every moment that it gives is in UTC."""

    windows: tuple[Weekly, ...] = ()
    freezes: tuple[Freeze, ...] = ()

    def is_open(self, moment: datetime) -> bool:
        """Whether a replacement may begin at that moment."""
        return self.next_open(moment) == moment

    def next_open(self, moment: datetime) -> datetime | None:
        """That moment, if it is open then, or the next one when it opens; None if it never does."""
        found = next(self.openings(moment, moment + HORIZON), None)
        return found[0] if found else None

    def why_closed(self, moment: datetime) -> str:
        """Why nothing may begin at that moment and when it opens, for people; empty if it is open."""
        opens = self.next_open(moment)
        if opens == moment:
            return ""
        until = f"it opens at {opens:%Y-%m-%d %H:%M} UTC" if opens else "it never opens"
        frozen = next((each for each in self.freezes if each.begins <= moment < each.ends), None)
        if frozen:
            return f"frozen until {frozen.ends.astimezone(UTC):%Y-%m-%d %H:%M} UTC ({frozen.reason}); {until}"
        return f"outside the maintenance windows ({'; '.join(map(str, self.windows))}); {until}"

    def open_time(self, begin: datetime, end: datetime) -> timedelta:
        """How much of the time between those two moments is open."""
        return sum((until - since for since, until in self.openings(begin, end)), timedelta())

    def openings(self, begin: datetime, end: datetime) -> Iterator[Opening]:
        """Every stretch of open time between those two moments, cut at both; in order, none touching the next."""
        begin, end = begin.astimezone(UTC), end.astimezone(UTC)
        for since, until in _less(_merged(self._windows(begin, end)), sorted(self._frozen())):
            since, until = max(since, begin), min(until, end)
            if since < until:
                yield since, until

    def without_freezes(self) -> Calendar:
        """The same windows alone."""
        return replace(self, freezes=())

    def with_longer_windows(self, longer: timedelta) -> Calendar:
        """The same with every window closing that much later."""
        return replace(self, windows=tuple(replace(each, longer=each.longer + longer) for each in self.windows))

    def _frozen(self) -> list[Opening]:
        return [(each.begins.astimezone(UTC), each.ends.astimezone(UTC)) for each in self.freezes]

    def _windows(self, begin: datetime, end: datetime) -> Iterator[Opening]:
        """By when they open. Local days lie up to a day beside those of UTC, and a window reaches into the next."""
        if not self.windows:
            yield begin, end
            return
        longest = max((each.longer for each in self.windows), default=timedelta())
        day, last = (begin - longest - 3 * DAY).date(), (end + 2 * DAY).date()
        held: list[Opening] = []
        while day <= last:
            held += [found for each in self.windows if (found := each.on(day))]
            # A window of the next local day may open before one of this day in a zone further west, but not before
            # those of two days ago.
            held.sort()
            sure = datetime.combine(day, time(), UTC) - DAY
            while held and held[0][0] < sure:
                yield held.pop(0)
            day += DAY
        yield from held


def first_moment(wall: datetime, zone: str) -> datetime:
    """The first moment, in UTC, at which a clock of that zone shows ``wall`` (naive) or later."""
    return _first_moment(wall, zone)


@lru_cache(maxsize=65536)
def _first_moment(wall: datetime, zone: str) -> datetime:
    there = ZoneInfo(zone)
    found = wall.replace(tzinfo=there, fold=0).astimezone(UTC)
    if found.astimezone(there).replace(tzinfo=None, fold=0) == wall:
        return found
    # The clock never shows it: read with the offset from before the gap it lies after it, with the other one before.
    early, late = wall.replace(tzinfo=there, fold=1).astimezone(UTC), found
    while late - early > timedelta(seconds=1):
        middle = early + (late - early) // 2
        if middle.astimezone(there).replace(tzinfo=None) >= wall:
            late = middle
        else:
            early = middle
    return late.replace(microsecond=0)


def _merged(stretches: Iterator[Opening]) -> Iterator[Opening]:
    """What overlaps or touches, as one."""
    held: Opening | None = None
    for since, until in stretches:
        if held is None:
            held = since, until
        elif since <= held[1]:
            held = held[0], max(held[1], until)
        else:
            yield held
            held = since, until
    if held is not None:
        yield held


def _less(stretches: Iterator[Opening], frozen: list[Opening]) -> Iterator[Opening]:
    """What of them lies outside the frozen times, which are sorted."""
    for since, until in stretches:
        for begins, ends in frozen:
            if begins >= until:
                break
            if begins > since:
                yield since, begins
            since = max(since, ends)
        if since < until:
            yield since, until
