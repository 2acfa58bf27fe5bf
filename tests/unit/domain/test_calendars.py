"""Maintenance windows and freezes: by table where clocks change, and against a clock that is looked at each minute."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import TypeVar
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_fleet.domain.calendars import Calendar, Freeze, Weekly, first_moment

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
EVERY_DAY = frozenset(range(7))
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Pacific/Apia")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


Moment = TypeVar("Moment", datetime, time)


def whole(moment: Moment) -> Moment:
    """Without seconds, as files write them."""
    return moment.replace(second=0, microsecond=0)


def night(opens: str, closes: str, zone: str = "Europe/Berlin", days: frozenset[int] = EVERY_DAY) -> Weekly:
    return Weekly(days, time.fromisoformat(opens), time.fromisoformat(closes), zone)


@pytest.mark.parametrize(
    ("day", "opens", "closes", "begins", "ends"),
    [
        ("2026-11-10", "22:00", "04:00", "2026-11-10 21:00", "2026-11-11 03:00"),
        ("2026-07-10", "22:00", "04:00", "2026-07-10 20:00", "2026-07-11 02:00"),
        # 2026-03-29: 02:00 CET becomes 03:00 CEST, so the night is an hour short
        ("2026-03-28", "22:00", "04:00", "2026-03-28 21:00", "2026-03-29 02:00"),
        ("2026-03-29", "02:30", "04:00", "2026-03-29 01:00", "2026-03-29 02:00"),
        ("2026-03-29", "01:00", "02:30", "2026-03-29 00:00", "2026-03-29 01:00"),
        # 2026-10-25: 03:00 CEST becomes 02:00 CET, so the night is an hour longer
        ("2026-10-24", "22:00", "04:00", "2026-10-24 20:00", "2026-10-25 03:00"),
        ("2026-10-25", "02:30", "04:00", "2026-10-25 00:30", "2026-10-25 03:00"),
        ("2026-10-25", "01:00", "02:30", "2026-10-24 23:00", "2026-10-25 00:30"),
    ],
)
def test_where_clocks_change(day: str, opens: str, closes: str, begins: str, ends: str) -> None:
    assert night(opens, closes).on(date.fromisoformat(day)) == (utc(begins), utc(ends))


def test_a_window_that_a_gap_swallows_is_none() -> None:
    assert night("02:10", "02:50").on(date(2026, 3, 29)) is None
    assert night("22:00", "23:00", "Pacific/Apia").on(date(2011, 12, 30)) is None, "the island skipped that day"


@given(
    wall=st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1)).map(
        lambda each: each.replace(second=0, microsecond=0)
    ),
    zone=st.sampled_from(ZONES),
)
def test_the_first_moment_shows_that_time_and_none_before_does(wall: datetime, zone: str) -> None:
    found, there = first_moment(wall, zone), ZoneInfo(zone)

    def shown(moment: datetime) -> datetime:
        return moment.astimezone(there).replace(tzinfo=None)

    assert shown(found) >= wall
    assert all(shown(found - step * MINUTE) < wall for step in range(1, 180))


weeklies = st.builds(
    Weekly,
    st.frozensets(st.integers(0, 6), min_size=1),
    st.times().map(whole),
    st.times().map(whole),
    st.sampled_from(ZONES),
)
moments = st.integers(0, 60 * 24 * 30).map(lambda minutes: datetime(2026, 10, 10, tzinfo=UTC) + minutes * MINUTE)
freezes = st.builds(lambda begins, hours: Freeze(begins, begins + hours * HOUR, "freeze"), moments, st.integers(1, 100))
calendars = st.builds(Calendar, st.lists(weeklies, max_size=3).map(tuple), st.lists(freezes, max_size=3).map(tuple))


def looked_at(calendar: Calendar, moment: datetime) -> bool:
    """Open or not, by the plain meaning of the file, without any stretch being merged or cut."""
    if any(each.begins <= moment < each.ends for each in calendar.freezes):
        return False
    days = [moment.date() + shift * DAY for shift in range(-4, 5)]
    stretches = [found for each in calendar.windows for day in days if (found := each.on(day))]
    return not calendar.windows or any(since <= moment < until for since, until in stretches)


@given(calendar=calendars, begin=moments, hours=st.integers(1, 30))
@settings(max_examples=150, deadline=None)
def test_openings_are_what_a_look_at_each_minute_finds(calendar: Calendar, begin: datetime, hours: int) -> None:
    end = begin + hours * HOUR
    found = list(calendar.openings(begin, end))
    assert all(since < until for since, until in found)
    assert all(one[1] < other[0] for one, other in pairwise(found)), "apart and in order"
    at, seen = begin, timedelta()
    while at < end:
        is_open = looked_at(calendar, at)
        assert is_open == any(since <= at < until for since, until in found), at
        seen += MINUTE if is_open else timedelta()
        at += MINUTE
    assert calendar.open_time(begin, end) == seen


@given(calendar=calendars, moment=moments)
@settings(max_examples=100, deadline=None)
def test_the_next_opening_is_open_and_nothing_before_it_is(calendar: Calendar, moment: datetime) -> None:
    opens = calendar.next_open(moment)
    assert opens is not None
    assert calendar.is_open(opens)
    assert opens >= moment
    assert calendar.open_time(moment, opens) == timedelta()
    assert bool(calendar.why_closed(moment)) == (opens > moment)


def test_it_says_why_it_is_closed_and_until_when() -> None:
    freeze = Freeze(utc("2026-12-20"), utc("2027-01-02"), "Christmas")
    calendar = Calendar((night("22:00", "04:00", days=frozenset({1, 3})),), (freeze,))
    assert calendar.why_closed(utc("2026-11-24 12:00")) == (
        "outside the maintenance windows (tue, thu 22:00-04:00 Europe/Berlin); it opens at 2026-11-24 21:00 UTC"
    )
    assert calendar.why_closed(utc("2026-12-24 22:00")) == (
        "frozen until 2027-01-02 00:00 UTC (Christmas); it opens at 2027-01-05 21:00 UTC"
    )
    assert calendar.why_closed(utc("2026-11-24 22:00")) == ""
    assert Calendar().is_open(utc("2026-11-24"))
    assert Calendar((), (Freeze(utc("2020-01-01"), utc("2040-01-01"), "closed"),)).next_open(utc("2026-01-01")) is None
