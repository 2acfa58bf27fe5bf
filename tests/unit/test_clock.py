from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest

from phoenix_fleet.domain.clock import Clock, ManualClock, SystemClock

NOON = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


def test_the_system_clock_tells_the_time_in_utc() -> None:
    clock: Clock = SystemClock()
    before = datetime.now(UTC)
    now = clock.now()
    assert before <= now <= datetime.now(UTC)
    assert now.utcoffset() == timedelta(0)


def test_a_manual_clock_stands_still_until_it_is_moved() -> None:
    clock = ManualClock(NOON)
    assert clock.now() == clock.now() == NOON
    assert clock.advance(timedelta(minutes=5)) == clock.now() == NOON + timedelta(minutes=5)
    clock.advance(timedelta(hours=-24))
    assert clock.now() == NOON + timedelta(minutes=5) - timedelta(hours=24)


def test_a_manual_clock_turns_other_zones_into_utc() -> None:
    clock = ManualClock(datetime(2026, 11, 1, 14, 0, tzinfo=timezone(timedelta(hours=2))))
    assert clock.now() == NOON
    assert clock.now().utcoffset() == timedelta(0)


def test_a_manual_clock_refuses_a_moment_without_a_zone() -> None:
    with pytest.raises(ValueError, match="time zone"):
        ManualClock(datetime(2026, 11, 1))


def test_no_advance_is_lost_between_threads() -> None:
    clock = ManualClock(NOON)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: clock.advance(timedelta(seconds=1)), range(400)))
    assert clock.now() == NOON + timedelta(seconds=400)
