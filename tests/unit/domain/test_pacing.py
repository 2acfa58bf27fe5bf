"""The pacer by tables: how fast is enough, what is short and what would cure it, forecasts and alarms."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_fleet.domain.calendars import Calendar, Freeze, Weekly
from phoenix_fleet.domain.durations import P95, Durations
from phoenix_fleet.domain.feasibility import assess
from phoenix_fleet.domain.pacing import (
    Group,
    Limits,
    Outlook,
    Quota,
    Todo,
    find_pace,
    forecast,
    groups_of,
    is_alarming,
    standing,
)

NOW = datetime(2026, 11, 2, 12, tzinfo=UTC)  # a Monday
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
TEN = Durations(10 * MINUTE, 10 * MINUTE, 10 * MINUTE, 0.0, 30)
"""Always ten minutes."""
NIGHTS = Calendar((Weekly(frozenset(range(7)), time(22), time(2)),))


def outlook(count: int = 12, **changes: Any) -> Outlook:
    made = Outlook(NOW, (Group(count),), TEN, Limits(10, 10), Calendar(), NOW + DAY)
    return replace(made, **changes)


def minutes(found: datetime | None) -> float | None:
    return None if found is None else (found - NOW) / MINUTE


@pytest.mark.parametrize(
    ("hours", "most", "pace"),
    [(2, 10, 1), (1, 10, 2), (0.5, 10, 4), (0.34, 10, 6), (0.17, 12, 12), (0.17, 10, 10), (0.1, 10, 10)],
)
def test_the_smallest_concurrency_that_is_enough(hours: float, most: int, pace: int) -> None:
    found = find_pace(outlook(deadline=NOW + hours * HOUR, limits=Limits(most, most)))
    assert found.concurrency == pace


def test_without_a_deadline_it_goes_as_fast_as_is_allowed() -> None:
    found = find_pace(outlook(deadline=None, limits=Limits(4, 3)))
    assert (found.concurrency, found.reason) == (3, "no deadline; the budget has room for 3")
    assert standing(outlook(deadline=None)) == "on time"


@pytest.mark.parametrize(
    ("changes", "ends"),
    [
        ({}, 120),
        ({"groups": (Group(1), Group(11))}, 120),
        ({"calendar": NIGHTS}, 600 + 120),
        ({"groups": (Group(30),), "calendar": NIGHTS}, 34 * 60 + 60),  # 24 in the first night, 6 in the next
        ({"groups": (Group(25),), "calendar": NIGHTS}, 34 * 60 + 10),
        ({"calendar": Calendar((), (Freeze(NOW + 35 * MINUTE, NOW + 5 * HOUR, "fair"),))}, 300 + 80),
        ({"running": (4 * MINUTE,)}, 6 + 110),
        ({"running": (50 * MINUTE,)}, 1 + 110),  # longer than ever: about to end, as far as anybody can tell
        ({"limits": Limits(1, 1, Quota(None, 2))}, 11 * 30 + 10),
        ({"groups": ()}, 0),
    ],
)
def test_when_it_ends(changes: dict[str, Any], ends: float) -> None:
    assert minutes(forecast(outlook(**changes), 1).finish_p50) == pytest.approx(ends)


def test_what_begins_in_a_window_may_end_after_it() -> None:
    short = Calendar((Weekly(frozenset(range(7)), time(22), time(22, 5)),))
    assert minutes(forecast(outlook(2, calendar=short), 1).finish_p50) == 34 * 60 + 10


def test_a_calendar_that_never_opens_has_no_end() -> None:
    closed = outlook(calendar=Calendar((), (Freeze(NOW - DAY, NOW + 5000 * DAY, "sold"),)))
    assert forecast(closed).finish_p50 is None
    verdict = assess(closed)
    assert not verdict.feasible
    assert [cure.change for cure in verdict.cures] == ["no freeze (sold)"]


def test_age_limits_count_one_by_one() -> None:
    """A fleet whose machines grow too old one after another is not late because its oldest is."""
    dues = [NOW + (number + 1) * 11 * MINUTE for number in range(12)]
    groups = groups_of([Todo((0,), due) for due in dues])
    assert find_pace(outlook(groups=groups, deadline=None)).concurrency == 1
    closer = groups_of([Todo((0,), NOW + (14 + 4 * number) * MINUTE) for number in range(9)])
    assert find_pace(outlook(groups=closer, deadline=None)).concurrency == 3


def test_the_first_goes_alone_until_the_release_runs() -> None:
    todo = [Todo((0,))] * 4
    assert [group.count for group in groups_of(todo, one_first=True)] == [1, 3]
    assert [group.count for group in groups_of(todo)] == [4]
    assert [group.count for group in groups_of([Todo((0, "a")), Todo((0, "b")), Todo((1, "b"))])] == [1, 1, 1]


@pytest.mark.parametrize(
    ("changes", "shortage", "cures"),
    [
        (
            {"deadline": NOW + HOUR, "limits": Limits(1, 1)},
            "max_in_flight and max_surge",
            ["max_in_flight 2 instead of 1 and max_surge 2 instead of 1", "a deadline at 2026-11-02 14:00 UTC"],
        ),
        (
            {"deadline": NOW + HOUR, "limits": Limits(1, 9)},
            "max_in_flight",
            ["max_in_flight 2 instead of 1", "a deadline at 2026-11-02 14:00 UTC"],
        ),
        (
            {"deadline": NOW + HOUR, "limits": Limits(9, 9, Quota(1))},
            "quota.at_once",
            ["quota.at_once 2 instead of 1", "a deadline at 2026-11-02 14:00 UTC"],
        ),
        (
            {"deadline": NOW + 2 * HOUR, "limits": Limits(1, 1, Quota(None, 3))},
            "the platform's quota",
            ["quota.launches_per_hour 6 instead of 3", "a deadline at 2026-11-02 16:00 UTC"],
        ),
        (
            {"deadline": NOW + 32 * HOUR, "calendar": NIGHTS, "groups": tuple(Group(1) for _ in range(36))},
            "time in maintenance windows",
            ["2 h more in each maintenance window", "a deadline at 2026-11-04 00:00 UTC"],
        ),
    ],
)
def test_what_is_short_and_what_would_cure_it(changes: dict[str, Any], shortage: str, cures: list[str]) -> None:
    verdict = assess(outlook(**changes))
    assert not verdict.feasible
    assert verdict.shortage == shortage
    assert [cure.change for cure in verdict.cures] == cures
    for cure in verdict.cures:
        assert assess(cure.outlook).standing == "on time", cure


def test_a_verdict_in_words() -> None:
    verdict = assess(outlook(deadline=NOW + HOUR, limits=Limits(1, 2)))
    assert verdict.lines() == [
        "not feasible: done about 2026-11-02 14:00 UTC, in 95 of 100 cases by 2026-11-02 14:00 UTC",
        "pace: 1 at once: the deadline needs all that is allowed: max_in_flight is 1",
        "short of max_in_flight",
        "cure: max_in_flight 2 instead of 1",
        "cure: a deadline at 2026-11-02 14:00 UTC",
    ]
    assert assess(outlook(limits=Limits(2, 2))).lines() == [
        "feasible: done about 2026-11-02 14:00 UTC, in 95 of 100 cases by 2026-11-02 14:00 UTC",
        "pace: 1 at once: 1 at once make the deadline",
    ]


def test_an_alarm_does_not_flicker() -> None:
    wide = replace(TEN, spread=0.5)
    doubt = outlook(limits=Limits(1, 1), durations=wide)
    ends = doubt.course(1).end
    at = {name: replace(doubt, deadline=NOW + timedelta(seconds=ends * share)) for name, share in
          (("lost", 0.7), ("doubtful", 0.95), ("good", 1.05))}  # fmt: skip
    assert is_alarming(at["lost"], already=False)
    assert not is_alarming(at["doubtful"], already=False), "not yet"
    assert is_alarming(at["doubtful"], already=True), "not any more"
    assert not is_alarming(at["good"], already=True)


def test_durations_from_a_guess_to_measurements() -> None:
    guess = Durations.guess(5 * MINUTE, 20 * MINUTE)
    assert guess.typical == 5 * MINUTE
    assert Durations.measured([], guess) == guess
    one = Durations.measured([600.0], guess)
    assert (one.typical, one.mean, one.known) == (10 * MINUTE, 10 * MINUTE, 1)
    assert one.slow > 15 * MINUTE, "one measurement says nothing of the spread"
    many = Durations.measured([*[600.0] * 45, *[900.0] * 4, 86400.0], guess)
    assert many.typical == 10 * MINUTE
    assert many.slow < 20 * MINUTE
    assert many.mean < 15 * MINUTE, "one that stood halted for a day is not the pace"
    assert many.spread < guess.spread / 2


outlooks = st.builds(
    Outlook,
    st.just(NOW),
    st.lists(st.builds(Group, st.integers(1, 30)), min_size=1, max_size=4).map(tuple),
    st.builds(lambda typical, ratio: Durations.guess(typical * MINUTE, typical * ratio * MINUTE),
              st.integers(1, 60), st.floats(1, 5)),
    st.builds(Limits, st.integers(1, 8), st.integers(1, 8),
              st.builds(Quota, st.sampled_from((None, 1, 3)), st.sampled_from((None, 1, 10)))),
    st.sampled_from((Calendar(), NIGHTS, Calendar((), (Freeze(NOW + HOUR, NOW + DAY, "fair"),)))),
    st.integers(1, 400).map(lambda hours: NOW + hours * HOUR),
)  # fmt: skip


@given(outlook=outlooks)
@settings(max_examples=150, deadline=None)
def test_what_must_hold_of_any_rollout(outlook: Outlook) -> None:
    verdict, most = assess(outlook), outlook.limits.most
    pace = verdict.pace.concurrency
    assert 1 <= pace <= most, "never more than is allowed, whatever the deadline"
    enough = [count for count in range(1, most + 1) if outlook.course(count, P95).in_time]
    assert pace == (enough[0] if enough else most)
    assert (verdict.standing == "on time") == bool(enough)
    assert verdict.feasible == (not is_alarming(outlook, already=False))
    for cure in verdict.cures:
        assert assess(cure.outlook).standing == "on time", cure
    if not enough:
        assert verdict.cures
        assert verdict.shortage
    told = verdict.forecast
    assert told.finish_p50 is None or told.finish_p95 is None or told.finish_p50 <= told.finish_p95


@given(outlook=outlooks, later=st.integers(0, 3000))
@settings(max_examples=100, deadline=None)
def test_more_at_once_or_longer_windows_never_end_later(outlook: Outlook, later: int) -> None:
    ends = [outlook.course(count).end for count in range(1, 9)]
    wider = replace(outlook, calendar=outlook.calendar.with_longer_windows(2 * HOUR).without_freezes())
    rounds = replace(outlook, durations=replace(outlook.durations, spread=0.0))
    plain = [rounds.course(count).end for count in range(1, 9)]
    if outlook.limits.quota.launches_per_hour is None:
        assert plain == sorted(plain, reverse=True)
    assert wider.course(1).end <= ends[0]


def test_a_slow_end_beyond_all_reckoning_is_told_as_such() -> None:
    little_known = Durations.guess(timedelta(minutes=90), timedelta(days=30))
    outlook = Outlook(NOW, (Group(50),), little_known, Limits(1, 1), Calendar(), NOW + DAY)
    verdict = assess(outlook)
    assert not verdict.feasible
    assert verdict.shortage == "time: it may be late by more than can be reckoned, at all the speed that is allowed"
