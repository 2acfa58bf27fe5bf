"""The tests' figures are the published ones, they keep their level, and they see what is there."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_fleet.domain.statistics import failures_p_value, greater_p_value

# Ozone in New York, May and August 1973: R's data set airquality.
MAY = [41, 36, 12, 18, 28, 23, 19, 8, 7, 16, 11, 14, 18, 14, 34, 6, 30, 11, 1, 11, 4, 32, 23, 45, 115, 37]
AUGUST = [39, 9, 16, 78, 35, 66, 122, 89, 110, 44, 28, 65, 22, 59, 23, 31, 44, 21, 9, 45, 168, 73, 76, 118, 84, 85]


def test_mann_whitney_gives_the_published_values() -> None:
    # scipy's manual, mannwhitneyu(males, females, method="asymptotic"): p = 0.11134688653314041 on both sides.
    assert 2 * greater_p_value([19, 22, 16, 29, 24], [20, 11, 17, 12]) == pytest.approx(0.11134688653314041, rel=1e-9)
    # R's manual, wilcox.test(Ozone ~ Month, data = airquality, subset = Month %in% c(5, 8)): with ties, p = 0.0001208.
    assert 2 * greater_p_value(AUGUST, MAY) == pytest.approx(0.0001208, abs=5e-8)
    assert greater_p_value(MAY, AUGUST) > 0.9999


def test_fishers_test_gives_the_published_values() -> None:
    # scipy's manual, fisher_exact([[6, 2], [1, 4]], alternative="greater"): p = 0.08624708624708627.
    assert failures_p_value((6, 8), (1, 5)) == pytest.approx(0.08624708624708627, rel=1e-12)
    # Fisher's tea (R's manual, fisher.test(TeaTasting, alternative = "greater")): p = 0.2429.
    assert failures_p_value((3, 4), (1, 4)) == pytest.approx(0.2429, abs=5e-5)


def exact(new: tuple[int, int], old: tuple[int, int], margin: Fraction) -> Fraction:
    """The same by its definition, in fractions."""
    both = new[0] + old[0]
    counts = range(max(0, both - old[1]), min(new[1], both) + 1)
    weights = {k: comb(new[1], k) * comb(old[1], both - k) * (1 + margin) ** k for k in counts}
    return sum((w for k, w in weights.items() if k >= new[0]), Fraction(0)) / sum(weights.values())


@st.composite
def counts(draw: st.DrawFn, most: int = 60) -> tuple[int, int]:
    requests = draw(st.integers(0, most))
    return draw(st.integers(0, requests)), requests


@settings(deadline=None)
@given(counts(), counts(), st.sampled_from([Fraction(0), Fraction(1, 4), Fraction(3)]))
def test_fishers_test_is_what_its_definition_says(new: tuple[int, int], old: tuple[int, int], margin: Fraction) -> None:
    assert failures_p_value(new, old, float(margin)) == pytest.approx(float(exact(new, old, margin)), rel=1e-9)


@settings(deadline=None)  # a property of values, not of this machine's load
@given(counts(10**8), counts(10**8), st.floats(0, 10))
def test_fishers_test_bears_any_counts_and_a_wider_margin_is_never_stricter(
    new: tuple[int, int], old: tuple[int, int], margin: float
) -> None:
    strict, lenient = failures_p_value(new, old), failures_p_value(new, old, margin)
    assert 0 <= strict <= lenient + 1e-9
    assert lenient <= 1


VALUES = st.lists(st.integers(-50, 50).map(float), min_size=1, max_size=40)


@settings(deadline=None)
@given(VALUES, VALUES)
def test_mann_whitney_does_not_mind_the_scale_and_the_two_directions_agree(new: list[float], old: list[float]) -> None:
    found = greater_p_value(new, old)
    assert 0 <= found <= 1
    assert greater_p_value([3 * x + 7 for x in new], [3 * x + 7 for x in old]) == pytest.approx(found, rel=1e-12)
    # Up to the continuity correction, which takes from both, one direction is what the other leaves.
    assert found + greater_p_value(old, new) >= 1 - 1e-12
    if min(new) > max(old):
        assert found <= 0.5


@pytest.mark.parametrize("side", [[], [float("nan")], [float("inf")]])
def test_values_that_are_none_are_refused(side: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        greater_p_value(side, [1.0])
    with pytest.raises(ValueError, match="not counts"):
        failures_p_value((2, 1), (0, 1))


ROUNDS, ALPHA = 600, 0.05
CHANCE = 3.5 * (ALPHA * (1 - ALPHA) / ROUNDS) ** 0.5
"""How far over the level so many rounds may come by chance: three and a half standard deviations."""


def share(rounds: int, found: Callable[[], float]) -> float:
    return sum(found() < ALPHA for _ in range(rounds)) / rounds


@pytest.mark.parametrize(("rate", "requests", "requests_old"), [(0.3, 60, 200), (0.01, 100, 900), (0.002, 50, 1500)])
def test_fishers_test_seldom_blames_the_innocent(rate: float, requests: int, requests_old: int) -> None:
    dice = random.Random(7)  # noqa: S311 - dice, no keys

    def failed(count: int, odds: float = rate) -> tuple[int, int]:
        return sum(dice.random() < odds for _ in range(count)), count

    assert share(ROUNDS // 2, lambda: failures_p_value(failed(requests), failed(requests_old))) <= ALPHA + 1.5 * CHANCE
    assert share(100, lambda: failures_p_value(failed(requests, rate + 0.25), failed(requests_old))) > 0.9


@pytest.mark.parametrize("shape", ["normal", "skewed", "ties"])
def test_mann_whitney_seldom_blames_the_innocent_and_finds_the_guilty(shape: str) -> None:
    dice = random.Random(11)  # noqa: S311 - dice, no keys
    kinds = {
        "normal": lambda: dice.gauss(100, 10),
        "skewed": lambda: dice.lognormvariate(0, 1),
        "ties": lambda: float(dice.randint(1, 5)),
    }

    def values(count: int, more: float = 0) -> list[float]:
        return [kinds[shape]() + more for _ in range(count)]

    guilt = {"normal": 10, "skewed": 1.5, "ties": 1.5}[shape]
    assert share(ROUNDS, lambda: greater_p_value(values(20), values(60))) <= ALPHA + CHANCE
    assert share(100, lambda: greater_p_value(values(20, guilt), values(60))) > 0.9


def test_one_failure_by_chance_is_no_proof() -> None:
    """Where the normal approximation with continuity correction says 0.0003, the truth is one in fifty-one."""
    assert failures_p_value((1, 100), (0, 5000)) == pytest.approx(100 / 5100, rel=1e-12)
