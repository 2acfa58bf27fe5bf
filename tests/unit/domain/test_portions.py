from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from phoenix_fleet.config import Duration, Portion, portion


@pytest.mark.parametrize(
    ("text", "total", "up", "down"),
    [
        ("25%", 4, 1, 1),
        ("25%", 5, 2, 1),
        ("10%", 5, 1, 0),
        ("0%", 5, 0, 0),
        ("100%", 7, 7, 7),
        ("33%", 100, 33, 33),
        ("1%", 10000, 100, 100),
        ("2", 5, 2, 2),
        ("9", 5, 5, 5),
        ("0", 5, 0, 0),
    ],
)
def test_shares_round_as_told_and_counts_are_cut(text: str, total: int, up: int, down: int) -> None:
    assert portion(text, total, up=True) == up
    assert portion(text, total, up=False) == down


@given(share=st.integers(0, 100), total=st.integers(1, 10000))
def test_rounding_is_exact_and_never_leaves_the_fleet(share: int, total: int) -> None:
    up, down = portion(f"{share}%", total, up=True), portion(f"{share}%", total, up=False)
    assert down == share * total // 100
    assert up == -(-share * total // 100)
    assert 0 <= down <= up <= total


@pytest.mark.parametrize("value", ["101%", "-1", "-5%", "1.5", "half", "", "5 %", True, "1e3", None])
def test_what_is_not_a_portion(value: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Portion).validate_python(value)


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("5m", 300), ("2h", 7200), ("35d", 35 * 86400), ("0s", 0)])
def test_durations(text: str, seconds: int) -> None:
    assert TypeAdapter(Duration).validate_python(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("value", ["5", "5 m", "-5m", "5w", "PT5M", 5, None])
def test_what_is_not_a_duration(value: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Duration).validate_python(value)
