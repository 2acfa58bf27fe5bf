"""Simulated rollouts against what can be reckoned by hand, and against what must follow from more or less."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise

import pytest

from phoenix_fleet.domain.calendars import Calendar, Freeze, Weekly
from phoenix_fleet.domain.durations import Durations
from phoenix_fleet.domain.montecarlo import Trouble, exactly, levers, percentile, replay, simulate
from phoenix_fleet.domain.pacing import Group, Limits, Outlook, Quota

MONDAY = datetime(2026, 11, 2, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
TEN_MINUTES = exactly(10 * MINUTE, 10 * MINUTE)
CHANCE = exactly(10 * MINUTE, 30 * MINUTE)
NIGHTS = Weekly(frozenset(range(5)), time(22), time(4))


def outlook(
    *counts: int,
    durations: Durations = TEN_MINUTES,
    at_once: int = 1,
    per_hour: int | None = None,
    windows: tuple[Weekly, ...] = (),
    deadline: timedelta | None = None,
    now: datetime = MONDAY,
) -> Outlook:
    return Outlook(
        now=now,
        groups=tuple(Group(count) for count in counts),
        durations=durations,
        limits=Limits(at_once, at_once, Quota(launches_per_hour=per_hour)),
        calendar=Calendar(windows),
        deadline=now + deadline if deadline else None,
    )


class TestByHand:
    @pytest.mark.parametrize(
        ("given", "minutes"),
        [
            (outlook(1), 10),
            (outlook(7), 70),
            (outlook(7, at_once=2), 40),
            (outlook(7, at_once=10), 10),
            (outlook(1, 3, 6, at_once=3), 10 + 10 + 20),
            (outlook(5, at_once=5, per_hour=2), 60 + 60 + 10),
            (outlook(4, windows=(Weekly(frozenset(range(7)), time(1), time(2)),)), 60 + 40),
            (outlook(7, windows=(Weekly(frozenset(range(7)), time(1), time(2)),)), 24 * 60 + 60 + 10),
            (outlook(3, windows=(Weekly(frozenset(range(7)), time(1), time(1, 5)),)), 2 * 24 * 60 + 60 + 10),
        ],
    )
    def test_the_end_is_exact_when_nothing_is_left_to_chance(self, given: Outlook, minutes: int) -> None:
        found = simulate(given, trials=3)
        assert list(found.ends) == pytest.approx([minutes * 60] * 3)
        assert found.halts == 0

    def test_a_replacement_that_has_begun_goes_on_after_the_window_closes(self) -> None:
        found = replay(outlook(1, windows=(Weekly(frozenset({0}), time(1), time(1, 1)),)), [7200])
        assert found.end == 3600 + 7200

    def test_a_freeze_holds_up_what_has_not_begun(self) -> None:
        frozen = replace(outlook(3), calendar=Calendar((), (Freeze(MONDAY + 5 * MINUTE, MONDAY + DAY, "stock"),)))
        assert replay(frozen, [600] * 3).ends == [600, 86400 + 600, 86400 + 1200]

    def test_a_window_that_never_opens_is_never_in_time(self) -> None:
        found = simulate(outlook(2, windows=(Weekly(frozenset(), time(1), time(2)),), deadline=DAY), trials=10)
        assert found.probability == 0
        assert found.done_by(50) == math.inf

    def test_the_slow_ones_hold_up_their_group_alone(self) -> None:
        assert replay(outlook(2, 2, at_once=2), [600, 1200, 60, 120]).ends == [600, 1200, 1260, 1320]

    def test_who_is_free_takes_the_next(self) -> None:
        assert replay(outlook(4, at_once=2), [600, 60, 60, 60]).ends == [60, 120, 180, 600]

    def test_those_under_way_come_to_their_end_first(self) -> None:
        given = replace(outlook(3), running=(4 * MINUTE,))
        assert replay(given, [600] * 3).ends == [360, 960, 1560]

    def test_the_machine_that_grows_too_old_counts_although_the_deadline_is_met(self) -> None:
        given = outlook(3, deadline=DAY)
        kept = replace(given, groups=(Group(3, ((2, MONDAY + 20 * MINUTE),)),))
        broken = replace(given, groups=(Group(3, ((2, MONDAY + 19 * MINUTE),)),))
        assert replay(kept, [600] * 3).in_time
        assert not replay(broken, [600] * 3).in_time

    def test_done_at_the_deadline_is_in_time_and_a_second_later_is_not(self) -> None:
        assert replay(outlook(3, deadline=30 * MINUTE), [600] * 3).in_time
        assert not replay(outlook(3, deadline=30 * MINUTE), [600, 600, 601]).in_time

    def test_a_mean_known_from_one_measurement_is_as_doubtful_as_that(self) -> None:
        guessed = replace(Durations.guess(10 * MINUTE, 30 * MINUTE), known=1)
        found = simulate(outlook(400, durations=guessed), trials=1000)
        assert found.done_by(95) / found.done_by(50) == pytest.approx(3, rel=0.2)

    def test_nothing_to_do_is_done(self) -> None:
        found = simulate(outlook(deadline=DAY), trials=5)
        assert (found.probability, found.done_by(99), found.band(50)) == (1, 0, [(0, (0.0,))])

    def test_one_failure_costs_the_attempt_and_the_time_until_somebody_resumes(self) -> None:
        found = simulate(outlook(1), Trouble(0.5, 3 * HOUR), trials=400, seed=3)
        for end in found.ends:
            halts = (end - 600) / (600 + 3 * 3600)
            assert halts == pytest.approx(round(halts))

    def test_a_halt_stops_what_is_under_way(self) -> None:
        """Of two at once one fails at its end, so the other, half way through, is held up as well."""
        given = outlook(2, at_once=2)
        seen = {tuple(simulate(given, Trouble(0.3, HOUR), trials=1, seed=seed).times[-1]) for seed in range(60)}
        assert (600.0,) in seen
        assert (600.0 + 3600 + 600,) in seen
        assert not [end for (end,) in seen if 600 < end < 4800]

    def test_halts_are_as_many_as_the_rate_says(self) -> None:
        rate, count = 0.05, 40
        found = simulate(outlook(count), Trouble(rate, HOUR), trials=2000)
        assert found.expected_halts == pytest.approx(count * rate / (1 - rate), rel=0.05)

    def test_the_mean_and_the_spread_are_those_that_were_given(self) -> None:
        found = simulate(outlook(1, durations=CHANCE), trials=20000)
        assert found.done_by(50) == pytest.approx(600, rel=0.05)
        assert found.done_by(95) == pytest.approx(1800, rel=0.05)
        assert sum(found.ends) / found.trials == pytest.approx(CHANCE.mean.total_seconds(), rel=0.05)

    def test_what_is_not_known_of_the_mean_does_not_even_out(self) -> None:
        guessed = Durations.guess(10 * MINUTE, 30 * MINUTE)
        known, doubtful = (simulate(outlook(200, durations=each), trials=300) for each in (CHANCE, guessed))
        assert doubtful.done_by(90) / doubtful.done_by(10) > 2 * known.done_by(90) / known.done_by(10)


class TestMoreOrLess:
    def test_more_at_once_is_never_later(self) -> None:
        ends = [simulate(outlook(1, 29, durations=CHANCE, at_once=each), trials=100).ends for each in (1, 2, 3, 5, 8)]
        for slower, faster in pairwise(ends):
            assert all(late >= early for late, early in zip(slower, faster, strict=True))
            assert sum(slower) > sum(faster)

    def test_more_window_is_never_later(self) -> None:
        given = outlook(60, durations=CHANCE, windows=(NIGHTS,))
        ends = [
            simulate(replace(given, calendar=given.calendar.with_longer_windows(hours * HOUR)), trials=100).ends
            for hours in (0, 1, 3, 6)
        ]
        for slower, faster in pairwise(ends):
            assert all(late >= early for late, early in zip(slower, faster, strict=True))
            assert sum(slower) > sum(faster)

    def test_more_failures_are_less_probable_to_be_in_time(self) -> None:
        given = outlook(30, durations=CHANCE, deadline=timedelta(hours=9))
        found = [simulate(given, Trouble(rate, 2 * HOUR), trials=400) for rate in (0.0, 0.01, 0.03, 0.1, 0.3)]
        odds = [each.probability for each in found]
        assert odds == sorted(odds, reverse=True)
        assert odds[0] > 0.9 > 0.1 > odds[-1]
        for fewer, more in pairwise(found):
            assert all(early <= late for early, late in zip(fewer.ends, more.ends, strict=True))

    def test_every_lever_helps_or_does_nothing(self) -> None:
        given = outlook(1, 39, durations=CHANCE, windows=(NIGHTS,), deadline=5 * DAY, per_hour=3)
        given = replace(given, calendar=replace(given.calendar, freezes=(Freeze(MONDAY, MONDAY + DAY, "stock"),)))
        trouble = Trouble(0.05, 8 * HOUR)
        before = simulate(given, trouble, trials=300).probability
        after = {
            each.change: simulate(each.outlook, each.trouble, trials=300).probability
            for each in levers(given, trouble, budget_key="max_unavailable")
        }
        assert list(after) == [
            "one more at once: max_in_flight 2 and max_unavailable 2",
            "quota.launches_per_hour 4",
            "1 h more in each maintenance window",
            "no freeze",
            "half as many failures",
            "resumed in half the time",
            "a deadline one day later",
        ]
        assert 0 < before < 1
        assert min(after.values()) >= before
        assert after["half as many failures"] > before
        assert after["resumed in half the time"] > before
        assert after["one more at once: max_in_flight 2 and max_unavailable 2"] > before

    def test_no_lever_raises_what_does_not_bound(self) -> None:
        assert levers(outlook(1), Trouble()) == []
        limits = Limits(1, 3, Quota(at_once=1))
        (lever,) = levers(replace(outlook(4), limits=limits), Trouble())
        assert lever.change == "one more at once: max_in_flight 2 and quota.at_once 2"
        assert lever.outlook.limits.most == 2
        (lever,) = levers(replace(outlook(4), limits=Limits(3, 1)), Trouble())
        assert lever.change == "one more at once: max_surge 2"
        assert lever.outlook.limits.most == 2


class TestSeeds:
    def test_the_same_seed_is_the_same_to_the_last_bit(self) -> None:
        given, trouble = outlook(50, durations=CHANCE, at_once=3, deadline=6 * HOUR), Trouble(0.02, HOUR)
        first, again, other = (simulate(given, trouble, trials=50, seed=seed) for seed in (1, 1, 2))
        assert first == again
        assert first.times == again.times
        assert first.ends != other.ends

    def test_every_trial_is_told_of(self) -> None:
        told = []
        simulate(outlook(2), trials=17, tick=lambda: told.append(1))
        assert len(told) == 17


class TestFigures:
    def test_the_band_falls_from_all_to_none(self) -> None:
        found = simulate(outlook(1, 249, durations=CHANCE, at_once=4), trials=50)
        band = found.band(10, 50, 90)
        assert (band[0], band[-1][0]) == ((250, (0.0, 0.0, 0.0)), 0)
        assert len(band) == 101
        assert all(low <= middle <= high for _, (low, middle, high) in band)
        assert band[-1][1] == (found.done_by(10), found.done_by(50), found.done_by(90))

    def test_percentiles_are_values_that_occurred(self) -> None:
        assert [percentile([1, 2, 3, 4], each) for each in (0, 25, 26, 50, 99, 100)] == [1, 1, 2, 2, 4, 4]

    def test_bounds_narrow_with_trials_and_stay_within_nought_and_one(self) -> None:
        given = outlook(30, durations=CHANCE, deadline=timedelta(hours=6.2))
        few, many = simulate(given, trials=50), simulate(given, trials=800)
        assert few.bounds[1] - few.bounds[0] > many.bounds[1] - many.bounds[0]
        assert few.bounds[0] < many.probability < few.bounds[1]
        certain = simulate(outlook(1, deadline=DAY), trials=20)
        assert certain.bounds == (pytest.approx(0.84, abs=0.01), 1.0)
