from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_fleet.domain.waves import Budget, budget, wave_of


@pytest.mark.parametrize(
    ("canary", "cumulative", "expected"),
    [
        (1, (4,), [0, 1, 1, 1]),
        (1, (2, 4), [0, 1, 2, 2]),
        (2, (2, 4), [0, 0, 2, 2]),
        (0, (4,), [0, 1, 1, 1]),
        (9, (4,), [0, 0, 0, 0]),
        (1, (1, 1, 4), [0, 3, 3, 3]),
        (1, (2,), [0, 1, 1, 1]),
        (1, (), [0, 1, 1, 1]),
    ],
)
def test_wave_of_each_position(canary: int, cumulative: tuple[int, ...], expected: list[int]) -> None:
    assert [wave_of(position, canary, cumulative) for position in range(4)] == expected


@pytest.mark.parametrize(
    ("surge", "unavailable", "expected"),
    [
        (1, 0, Budget(1, 0)),
        (0, 2, Budget(0, 2)),
        (0, 0, Budget(0, 1)),
        (-1, -1, Budget(0, 1)),
        (2, 1, Budget(2, 1)),
    ],
)
def test_budget_is_never_negative_and_never_nothing(surge: int, unavailable: int, expected: Budget) -> None:
    assert budget(surge, unavailable) == expected


@given(
    canary=st.integers(-2, 20),
    shares=st.lists(st.integers(0, 50), max_size=5).map(sorted),
    planned=st.integers(1, 60),
)
def test_waves_only_ever_go_up_and_one_always_goes_first(canary: int, shares: list[int], planned: int) -> None:
    drawn = [wave_of(position, canary, shares) for position in range(planned)]
    assert drawn == sorted(drawn)
    assert drawn[0] == 0
    assert drawn.count(0) == min(planned, max(1, canary))
    assert max(drawn) <= max(1, len(shares))
