"""The floor: what may be taken out of service, in all fleets of 1 to 4: every health, every budget, every victim."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_fleet.domain.models import Backend, BackendStatus, InstanceState
from phoenix_fleet.domain.planner import (
    Decision,
    FleetShape,
    Observed,
    SlotView,
    check_floor,
    may_begin,
    may_take_out,
    plan,
    view_slot,
)
from tests.unit.domain.fleet_of import ABSENT, HEALTHY, NEW, NOW, SHAPE, TARGET, UNHEALTHY, fleet, machine, seen

HEALTH = ("serving", "unhealthy", "draining", "stopping")


def build(health: tuple[str, ...], zones: str = "") -> Observed:
    instances, backends = [], {}
    for number, word in enumerate(health, start=1):
        made = machine(f"web-{number:02d}", zone=zones[number - 1 : number])
        instances.append(replace(made, state=InstanceState.STOPPING) if word == "stopping" else made)
        state = {"serving": Backend.HEALTHY, "draining": Backend.DRAINING}.get(word, Backend.UNHEALTHY)
        backends[made.id] = BackendStatus(state)
    return Observed(tuple(instances), backends)


def every_floor_case() -> list[tuple[tuple[str, ...], int, int]]:
    return [
        (health, budget, victim)
        for size in range(1, 5)
        for health in itertools.product(HEALTH, repeat=size)
        for budget in (-1, *range(size + 1), size + 7)
        for victim in range(size)
    ]


def test_the_floor_in_every_small_fleet() -> None:
    cases = every_floor_case()
    assert len(cases) > 5000
    allowed = 0
    for health, budget, victim in cases:
        size = len(health)
        decision = check_floor(size, budget, build(health), f"i-web-{victim + 1:02d}")
        before = health.count("serving")
        after = before - (health[victim] == "serving")
        floor = size - max(0, min(size, budget))
        allowed += decision.allowed
        told = f"{health}, budget {budget}, victim {victim}: {decision}"
        if decision.allowed:
            assert after >= 1, f"the last one: {told}"
            assert after == before or after >= floor, f"below the floor: {told}"
        else:
            # It refuses only what would do harm: the rule must not stop what it need not.
            assert after == 0 or (after < before and after < floor), f"needlessly strict: {told}"
        assert decision.reason
    assert 0 < allowed < len(cases)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_last_of_a_zone_in_every_small_fleet(size: int) -> None:
    """The same, for every way in which the machines can stand in two zones."""
    refused = 0
    for health in itertools.product(HEALTH[:3], repeat=size):
        zoneless = build(health)
        for zones in itertools.product("ab", repeat=size):
            observed = build(health, "".join(zones))
            places = list(zip(health, zones, strict=True))
            for victim, budget in itertools.product(range(size), (-1, *range(size + 1), size + 7)):
                name = f"i-web-{victim + 1:02d}"
                allowed = check_floor(size, budget, observed, name).allowed
                left = places.count(("serving", zones[victim])) - (health[victim] == "serving")
                last = health[victim] == "serving" and left == 0
                anyway = check_floor(size, budget, zoneless, name).allowed
                assert allowed == (anyway and not last), f"{health} {zones}, budget {budget}, victim {victim}"
                refused += anyway and not allowed
    assert (refused > 0) == (size > 1), "some are refused for their zone alone, if there can be two"


@pytest.mark.parametrize("surge", [-1, 0, 1, 4, math.nan, math.inf])
@pytest.mark.parametrize("unavailable", [-1, 0, 1, 4, 400, math.nan, math.inf])
def test_a_whole_rollout_of_every_small_fleet_never_takes_the_last(surge: float, unavailable: float) -> None:
    """All fleets of 1 to 4, every health, whatever stands for a budget: taken out one by one, in the plan's order."""
    for size in range(1, 5):
        slots = tuple(f"web-{number:02d}" for number in range(1, size + 1))
        shape = FleetShape("web", slots, max_surge=surge, max_unavailable=unavailable)  # type: ignore[arg-type]
        most = size + shape.budget.max_surge
        assert most <= size + 4, "what is no count adds nothing"
        for health in itertools.product(HEALTH[:3], repeat=size):
            observed = build(health)
            start = observed.serving_count()
            for each in plan(shape, TARGET, observed, NOW).slots:
                view = view_slot(shape, each.slot, TARGET, observed, NOW)
                if (
                    may_begin(shape, view, observed).allowed
                    and may_take_out(shape, observed, each.old_instance).allowed
                ):
                    left = tuple(one for one in observed.instances if one.id != each.old_instance)
                    observed = Observed(left, observed.backends)
            floor = size - shape.budget.max_unavailable
            assert observed.serving_count() >= min(start, max(1, floor)), f"{health}, surge {surge}, {unavailable}"


def test_a_victim_that_we_drain_ourselves_still_counts_as_capacity() -> None:
    for health, budget, victim in every_floor_case():
        size = len(health)
        decision = check_floor(size, budget, build(health), f"i-web-{victim + 1:02d}", counted=True)
        others = sum(word == "serving" for number, word in enumerate(health) if number != victim)
        assert decision.allowed == (others >= max(1, size - max(0, min(size, budget))))


def test_empty_is_never_all_and_unseen_is_never_gone() -> None:
    for budget in (0, 1, 4, 100):
        assert not check_floor(4, budget, Observed(), "i-web-01").allowed
        assert not check_floor(4, budget, fleet(), "i-other").allowed
        assert not check_floor(0, budget, Observed(), "").allowed


@pytest.mark.parametrize("budget", [float("nan"), float("inf"), None, "100%"])
def test_a_budget_that_is_no_count_allows_nothing(budget: object) -> None:
    assert not check_floor(4, budget, fleet(), "i-web-01").allowed  # type: ignore[arg-type]


@given(
    health=st.lists(st.sampled_from(HEALTH), min_size=1, max_size=40).map(tuple),
    budget=st.integers(-5, 50),
    data=st.data(),
)
def test_the_floor_in_larger_fleets(health: tuple[str, ...], budget: int, data: st.DataObject) -> None:
    victim = data.draw(st.integers(0, len(health) - 1))
    observed = build(health)
    if check_floor(len(health), budget, observed, f"i-web-{victim + 1:02d}").allowed:
        after = health.count("serving") - (health[victim] == "serving")
        assert after >= 1
        assert health[victim] != "serving" or after >= len(health) - max(0, budget)


@given(
    health=st.lists(st.sampled_from(HEALTH), min_size=1, max_size=12).map(tuple),
    surge=st.integers(0, 5),
    unavailable=st.integers(0, 12),
)
def test_taking_out_all_that_is_allowed_one_by_one_never_goes_below_the_floor(
    health: tuple[str, ...], surge: int, unavailable: int
) -> None:
    shape = FleetShape(
        "web",
        tuple(f"web-{number:02d}" for number in range(1, len(health) + 1)),
        max_surge=surge,
        max_unavailable=unavailable,
    )
    observed = build(health)
    start = len(observed.serving)
    for instance in observed.instances:
        if may_take_out(shape, observed, instance.id).allowed:
            left = tuple(each for each in observed.instances if each.id != instance.id)
            observed = Observed(left, observed.backends)
    floor = shape.size - shape.budget.max_unavailable
    assert len(observed.serving) >= max(1, min(start, floor)) or start == 0


def test_the_new_one_must_serve_before_the_old_one_goes() -> None:
    new = machine("web-01", NEW, name="new")
    for status, allowed in ((HEALTHY, True), (UNHEALTHY, False), (ABSENT, False)):
        observed = seen(*fleet().instances, new, new=status)
        assert may_take_out(SHAPE, observed, "i-web-01", "i-new").allowed is allowed
    assert may_take_out(SHAPE, fleet(), "i-web-01", "i-new") == Decision(
        False, "its replacement i-new is not to be seen"
    )


def test_a_budget_is_no_excuse_for_a_new_one_that_does_not_serve() -> None:
    """The floor would hold without the old one, so nothing but the new one's own health keeps it."""
    generous, new = replace(SHAPE, max_unavailable=2), machine("web-01", NEW, name="new")
    for status, allowed in ((HEALTHY, True), (UNHEALTHY, False), (ABSENT, False)):
        observed = seen(*fleet().instances, new, new=status)
        assert may_take_out(generous, observed, "i-web-01", "i-new").allowed is allowed


def test_a_replacement_begins_if_the_floor_will_hold_with_the_new_one() -> None:
    view = SlotView("web-01", "outdated", old=machine("web-01"), serves=True)
    assert may_begin(SHAPE, view, fleet()).allowed
    assert not may_begin(SHAPE, view, fleet(web_03=UNHEALTHY)).allowed
    assert not may_begin(replace(SHAPE, max_surge=0, max_unavailable=1), view, fleet(web_03=UNHEALTHY)).allowed
    assert may_begin(replace(SHAPE, max_surge=0, max_unavailable=1), view, fleet()).allowed
    assert may_begin(SHAPE, SlotView("web-01", "empty slot"), Observed()).allowed


def test_the_last_of_a_zone_goes_only_when_another_serves_there() -> None:
    in_a, in_b = machine("web-01", zone="a"), tuple(machine(f"web-0{n}", zone="b") for n in (2, 3, 4))
    view = SlotView("web-01", "outdated", old=in_a, serves=True)
    assert may_begin(SHAPE, view, seen(in_a, *in_b)).allowed, "the new one comes to zone a as well"
    elsewhere, beside = machine("web-01", NEW, name="new", zone="b"), machine("web-01", NEW, name="new", zone="a")
    refused = may_take_out(SHAPE, seen(in_a, *in_b, elsewhere), "i-web-01", "i-new")
    assert refused == Decision(False, "it is the last healthy one in zone a, so it stays whatever the budget says")
    assert may_take_out(SHAPE, seen(in_a, *in_b, beside), "i-web-01", "i-new").allowed
