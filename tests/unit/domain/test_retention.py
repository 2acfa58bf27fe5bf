"""Which snapshots may go: never the newest, never a running rollout's, never what nobody is known to have asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_fleet.domain.retention import Asked, surplus
from phoenix_fleet.domain.volumes import Snapshot

NOW = datetime(2026, 11, 30, tzinfo=UTC)


def snapshot(number: int, **more: object) -> Snapshot:
    fields = {"id": f"snap-{number}", "volume": "vol-1", "token": f"t{number}", "taken": True}
    return Snapshot(**{**fields, **more})  # type: ignore[arg-type]


def asked(**days: float) -> dict[str, Asked]:
    """How many days ago each was asked for, by its token, each by a rollout of its own."""
    return {token: Asked(f"rollout-{token[1:]}", NOW - timedelta(days=age)) for token, age in days.items()}


def going(snapshots: list[Snapshot], known: dict[str, Asked], keep: int = 2, *alive: str) -> list[str]:
    return [each.id for each in surplus(snapshots, known, keep=keep, alive=alive, now=NOW)]


FIVE = [snapshot(number) for number in range(1, 6)]
MONTHLY = asked(t1=150, t2=120, t3=90, t4=60, t5=30)


@pytest.mark.parametrize(
    ("keep", "expected"),
    [(1, [1, 2, 3, 4]), (2, [1, 2, 3]), (4, [1]), (5, []), (9, []), (0, [1, 2, 3, 4]), (-1, [1, 2, 3, 4])],
)
def test_the_newest_stay_and_the_oldest_go_first(keep: int, expected: list[int]) -> None:
    assert going([FIVE[3], FIVE[0], FIVE[4], FIVE[2], FIVE[1]], MONTHLY, keep) == [f"snap-{each}" for each in expected]


def test_those_of_a_rollout_under_way_stay_beside_them() -> None:
    assert going(FIVE, MONTHLY, 1, "rollout-2") == ["snap-1", "snap-3", "snap-4"]


def test_one_that_nobody_asked_for_neither_goes_nor_counts() -> None:
    assert going([*FIVE, snapshot(9, token="by hand"), snapshot(8, token="")], MONTHLY) == [
        "snap-1",
        "snap-2",
        "snap-3",
    ]


@pytest.mark.parametrize("state", [{"taken": False}, {"taken": False, "failed": "error"}], ids=["not yet", "failed"])
def test_one_that_is_not_whole_neither_goes_nor_counts(state: dict[str, object]) -> None:
    assert going([*FIVE[:4], snapshot(5, **state)], MONTHLY) == ["snap-1", "snap-2"]


def test_a_young_one_may_fail_yet_and_does_not_count() -> None:
    assert going(FIVE, {**MONTHLY, **asked(t5=0.9)}) == ["snap-1", "snap-2"]
    assert going(FIVE, {**MONTHLY, **asked(t5=1.1)}) == ["snap-1", "snap-2", "snap-3"]


@given(st.lists(st.floats(0, 1000), max_size=12), st.integers(-2, 12))
def test_enough_stay_whatever_there_is(ages: list[float], keep: int) -> None:
    snapshots = [snapshot(number) for number in range(len(ages))]
    known = asked(**{f"t{number}": age for number, age in enumerate(ages)})

    gone = surplus(snapshots, known, keep=keep, alive=(), now=NOW)

    left = [each for each in snapshots if each not in gone]
    settled = [each for each in snapshots if known[each.token].at <= NOW - timedelta(days=1)]
    assert len([each for each in left if each in settled]) == min(len(settled), max(1, keep))
    assert all(known[one.token].at <= known[other.token].at for one in gone for other in left)
