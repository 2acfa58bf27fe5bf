"""How soon somebody looks again: at once at what may be over in a moment, seldom at what takes long."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from phoenix_fleet.domain.steps import Step
from phoenix_fleet.rollout.progress import SOON, soon
from tests.rollout.acts import reach
from tests.rollout.scene import Scene

Stage = Callable[..., Scene]


def _looks(lasts: timedelta, most: timedelta = SOON) -> tuple[int, timedelta]:
    """How many looks at something that lasts so long, and how late its end is seen."""
    passed, looks = timedelta(), 0
    while passed < lasts:
        passed += soon(passed, most)
        looks += 1
    return looks, passed - lasts


@pytest.mark.parametrize("seconds", [0.05, 0.3, 1, 4, 60, 3600])
def test_an_end_is_seen_within_a_quarter_of_the_time_that_it_took(seconds: float) -> None:
    _, late = _looks(timedelta(seconds=seconds))
    assert late <= max(timedelta(seconds=seconds) / 4, timedelta(seconds=0.1))
    assert late <= SOON


def test_what_takes_long_costs_few_looks_more_than_one_a_second() -> None:
    looks, _ = _looks(timedelta(minutes=5))
    assert looks <= 300 + 12


def test_the_longest_pause_is_the_callers_to_say() -> None:
    assert soon(timedelta(hours=1), timedelta(seconds=6)) == timedelta(seconds=6)


def test_a_clock_that_went_back_makes_nobody_look_without_end() -> None:
    assert soon(timedelta(hours=-1)) == timedelta(seconds=0.1)


def test_between_two_healthy_looks_the_balancer_has_time_for_another_check(stage: Stage) -> None:
    scene = stage(balancer={"start_reads": 0})
    engine, ticket = reach(scene, Step.ADMIT)
    admitted, healthy = engine.advance(ticket), engine.advance(ticket)
    assert admitted.check_after < timedelta(seconds=1) <= healthy.check_after
    assert "healthy once" in healthy.message
