"""Random fleets: every miss is announced a day ahead or as soon as it can be known, and hardly ever a false one."""

from __future__ import annotations

import pytest

from tests.unit.domain.fleets_in_time import Fleet, play

MOST_FALSE = 0.02


def check(seeds: range) -> None:
    told = [play(seed) for seed in seeds]
    missed = [each for each in told if each.missed]
    assert len(missed) > len(told) / 4, "too few to say anything"
    assert len(missed) < len(told) * 3 / 4, "too many to say anything"
    assert [each.seed for each in missed if not each.announced] == []
    alarmed = [each for each in told if each.alarm is not None]
    false = [each.seed for each in alarmed if not each.missed]
    print(f"{len(told)} fleets, {len(missed)} missed, {len(alarmed)} alarms, {len(false)} false: {false}")
    assert len(false) <= MOST_FALSE * len(alarmed), false
    for each in told:
        assert 1 <= each.most_at_once <= Fleet(each.seed).limits.most


def test_a_hundred() -> None:
    check(range(100))


@pytest.mark.slow
def test_a_thousand() -> None:
    check(range(1000))
