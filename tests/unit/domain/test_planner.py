from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.domain.models import Backend, BackendStatus, Instance, InstanceState
from phoenix_fleet.domain.planner import (
    Decision,
    FleetShape,
    Observed,
    Plan,
    SlotView,
    Target,
    check_domain,
    check_floor,
    check_surge,
    in_flight_limit,
    may_begin,
    may_take_out,
    plan,
    view_slot,
)
from phoenix_fleet.domain.windows import Version
from tests.unit.domain.fleet_of import (
    ABSENT,
    HEALTHY,
    NEW,
    NEWER,
    NOW,
    OLD,
    SHAPE,
    TARGET,
    UNHEALTHY,
    fleet,
    machine,
    seen,
)


def reason(instance: Instance, target: Target = TARGET, status: BackendStatus = HEALTHY) -> str:
    view = view_slot(SHAPE, instance.slot, target, Observed((instance,), {instance.id: status}), NOW)
    assert not view.refused
    return view.reason or f"({view.note})"


@pytest.mark.parametrize(
    ("instance", "status", "expected"),
    [
        (machine("web-01"), HEALTHY, "outdated: 2026.10-1"),
        (machine("web-01"), UNHEALTHY, "outdated: 2026.10-1"),
        (machine("web-01", NEW), HEALTHY, "(on 2026.11-1)"),
        (machine("web-01", NEW, days=34.9), HEALTHY, "(on 2026.11-1)"),
        (machine("web-01", NEW, days=35.1), HEALTHY, "older than 35 days"),
        (machine("web-01", NEW, launched_at=None), HEALTHY, "(on 2026.11-1)"),
        (machine("web-01", NEW), UNHEALTHY, "unhealthy: unhealthy at the balancer"),
        (machine("web-01", NEW), ABSENT, "unhealthy: absent at the balancer"),
        (machine("web-01", NEW, state=InstanceState.FAILED), HEALTHY, "unhealthy: failed"),
        (machine("web-01", NEW, state=InstanceState.STARTING), HEALTHY, "unhealthy: starting"),
        (machine("web-01", NEW, state=InstanceState.STOPPING), HEALTHY, "empty slot"),
        (machine("web-01", NEW, state=InstanceState.GONE), HEALTHY, "empty slot"),
        (machine("web-01", NEW, digest="sha256:new"), HEALTHY, "(on 2026.11-1)"),
        (machine("web-01", NEW, digest="sha256:x"), HEALTHY, "runs another image than 2026.11-1 is: sha256:x"),
        (machine("web-01", NEWER), HEALTHY, "no longer released: 2026.12-1"),
        (machine("web-01", "latest"), HEALTHY, "unknown version: 'latest'"),
        (machine("web-01", ""), HEALTHY, "unknown version: ''"),
    ],
)
def test_why_a_slot_is_replaced_or_left(instance: Instance, status: BackendStatus, expected: str) -> None:
    assert reason(instance, status=status) == expected


@pytest.mark.parametrize(
    ("instance", "status", "note", "refused"),
    [
        (machine("web-01", NEWER), HEALTHY, "on newer 2026.12-1", ""),
        (machine("web-01", NEWER, days=40), HEALTHY, "", "older than 35 days, but on 2026.12-1"),
        (machine("web-01", NEWER), UNHEALTHY, "", "unhealthy: unhealthy at the balancer, but on 2026.12-1"),
    ],
)
def test_never_a_downgrade_from_what_may_stay(
    instance: Instance, status: BackendStatus, note: str, refused: str
) -> None:
    target = replace(TARGET, acceptable={**TARGET.acceptable, NEWER: "sha256:newer"})
    view = view_slot(SHAPE, "web-01", target, Observed((instance,), {instance.id: status}), NOW)
    assert (view.reason, view.note) == ("", note)
    assert view.refused.startswith(refused)
    assert bool(view.refused) == bool(refused)


def test_a_slot_with_a_left_over_beside_the_new_one_goes_on_where_it_stopped() -> None:
    new, old = machine("web-01", NEW, name="new"), machine("web-01", OLD, name="old", days=30)
    view = view_slot(SHAPE, "web-01", TARGET, seen(new, old), NOW)
    assert (view.new, view.old) == (new, old)
    assert view.reason == "left over beside new: outdated: 2026.10-1"


def test_what_is_left_over_out_of_service_is_surplus_and_what_serves_is_not() -> None:
    old, dead = machine("web-01", OLD, name="old", days=30), machine("web-01", NEW, name="dead")
    view = view_slot(SHAPE, "web-01", TARGET, seen(old, dead, dead=ABSENT), NOW)
    assert (view.old, view.new, view.surplus) == (old, None, (dead,))
    twin = machine("web-01", OLD, name="twin", days=29)
    assert view_slot(SHAPE, "web-01", TARGET, seen(old, twin), NOW).surplus == ()


def test_two_good_ones_in_a_slot_are_told() -> None:
    twins = seen(machine("web-01", NEW, name="a"), machine("web-01", NEW, name="b"))
    assert view_slot(SHAPE, "web-01", TARGET, twins, NOW).note == "on 2026.11-1; 2 instances stand there"


def test_a_whole_plan() -> None:
    drawn = plan(SHAPE, TARGET, fleet(), NOW)
    assert [(each.slot, each.wave) for each in drawn.slots] == [
        ("web-01", 0),
        ("web-02", 1),
        ("web-03", 2),
        ("web-04", 2),
    ]
    assert drawn.lines()[0] == "wave 0: replace web-01: outdated: 2026.10-1 (i-web-01)"


def test_empty_slots_first_then_what_is_out_of_service_then_the_rest() -> None:
    observed = seen(machine("web-01"), machine("web-02"), machine("web-04"), web_02=UNHEALTHY)
    drawn = plan(SHAPE, TARGET, observed, NOW)
    assert [each.slot for each in drawn.slots] == ["web-03", "web-02", "web-01", "web-04"]
    assert [each.old_instance for each in drawn.slots] == ["", "i-web-02", "i-web-01", "i-web-04"]


def test_a_new_fleet_is_filled_and_one_that_is_up_to_date_is_left_alone() -> None:
    assert {each.reason for each in plan(SHAPE, TARGET, Observed(), NOW).slots} == {"empty slot"}
    done = plan(SHAPE, TARGET, fleet(NEW), NOW)
    assert done == Plan(up_to_date=tuple((slot, "on 2026.11-1") for slot in SHAPE.slots))


def test_only_some_slots_and_unknown_ones_are_refused() -> None:
    drawn = plan(SHAPE, TARGET, fleet(), NOW, only=["web-03"])
    assert [(each.slot, each.wave) for each in drawn.slots] == [("web-03", 0)]
    assert drawn.up_to_date == ()
    with pytest.raises(InvalidConfig, match=r"no slot web-05, web-3.*web-01 to web-04"):
        plan(SHAPE, TARGET, fleet(), NOW, only=["web-3", "web-05", "web-01"])


def test_strays_are_shown_and_never_planned() -> None:
    drawn = plan(SHAPE, TARGET, seen(machine("web-01", NEW), machine("web-09", OLD)), NOW)
    assert drawn.strays == (("web-09", "web has no slot 'web-09'"),)
    assert "web-09" not in {each.slot for each in drawn.slots}
    assert "stray web-09: web has no slot 'web-09'" in drawn.lines()


def test_the_only_instance_of_a_fleet_without_surge_can_never_be_replaced() -> None:
    lonely = FleetShape("web", ("web-01",), max_surge=0, max_unavailable=1)
    drawn = plan(lonely, TARGET, seen(machine("web-01")), NOW)
    assert drawn.slots == ()
    assert "the last healthy one never goes first" in drawn.refusals[0][1]
    assert plan(lonely, TARGET, seen(machine("web-01"), web_01=ABSENT), NOW).slots[0].slot == "web-01"
    assert plan(replace(lonely, max_surge=1), TARGET, seen(machine("web-01")), NOW).slots[0].slot == "web-01"


# The floor: all fleets of 1 to 4, every health of every machine, every budget, every victim.

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


def test_alone_in_its_zone_without_surge_is_refused_before_anything_begins() -> None:
    shape = replace(SHAPE, max_surge=0, max_unavailable=1)
    drawn = plan(
        shape, TARGET, seen(machine("web-01", zone="a"), machine("web-02", zone="b"), machine("web-03", zone="b")), NOW
    )
    assert dict(drawn.refusals) == {
        "web-01": "outdated: 2026.10-1, but web-01 is the only instance in zone a and max_surge is 0: "
        "the last one never goes first"
    }
    assert {each.slot for each in drawn.slots} == {"web-02", "web-03", "web-04"}


def test_oldest_first_and_what_runs_the_wrong_image_before_what_is_only_old() -> None:
    observed = seen(
        machine("web-01", NEW, days=90),
        machine("web-02", OLD, days=3),
        machine("web-03", OLD, days=9),
        machine("web-04", OLD, launched_at=None),
    )
    drawn = plan(SHAPE, TARGET, observed, NOW)
    assert [each.slot for each in drawn.slots] == ["web-04", "web-03", "web-02", "web-01"]


def test_zone_by_zone_and_in_it_host_by_host_the_oldest_first() -> None:
    spread = {
        "web-01": ("b", "h3", 5), "web-02": ("a", "h1", 8), "web-03": ("b", "h4", 7), "web-04": ("a", "h2", 9),
        "web-05": ("b", "h3", 6), "web-06": ("a", "h1", 1), "web-07": ("b", "h4", 30), "web-08": ("a", "h2", 2),
    }  # fmt: skip
    observed = seen(*(machine(slot, zone=z, host=h, days=days) for slot, (z, h, days) in spread.items()))
    drawn = plan(FleetShape("web", tuple(spread), waves=(8,)), TARGET, observed, NOW)
    assert [(each.slot, each.zone, each.host) for each in drawn.slots] == [
        (slot, *spread[slot][:2])
        for slot in ("web-07", "web-03", "web-05", "web-01", "web-04", "web-08", "web-02", "web-06")
    ]


def test_what_is_out_of_service_goes_first_whatever_its_zone() -> None:
    observed = seen(
        machine("web-01", zone="a", days=9), machine("web-02", zone="b"), machine("web-03", zone="a"), web_02=UNHEALTHY
    )
    assert [each.slot for each in plan(SHAPE, TARGET, observed, NOW).slots] == ["web-04", "web-02", "web-01", "web-03"]


@pytest.mark.parametrize(
    ("domain", "mine", "others", "refused"),
    [
        ("zone", ("a", "h1"), [], ""),
        ("zone", ("a", "h1"), [("web-02", ("a", "h2"))], ""),
        ("zone", ("a", ""), [("web-02", ("b", ""))], "web-02 in zone b is under way, and zone a begins after it"),
        ("zone", ("", ""), [("web-02", ("b", ""))], ""),
        ("zone", ("a", ""), [("web-02", ("", ""))], ""),
        ("host", ("a", "h1"), [("web-02", ("a", "h1"))], ""),
        ("host", ("a", "h1"), [("web-02", ("a", "h2"))], "web-02 in host h2 is under way, and host h1 begins after it"),
        ("host", ("a", "h1"), [("web-02", ("b", "h1"))], "web-02 in zone b is under way, and zone a begins after it"),
        ("none", ("a", "h1"), [("web-02", ("b", "h2"))], ""),
    ],
)
def test_never_two_failure_domains_at_once(
    domain: str, mine: tuple[str, str], others: list[tuple[str, tuple[str, str]]], refused: str
) -> None:
    decision = check_domain(replace(SHAPE, failure_domain=domain), mine, others)  # type: ignore[arg-type]
    assert (not decision.allowed, decision.reason if refused else "") == (bool(refused), refused)


@pytest.mark.parametrize(
    ("sick", "under_way", "limit"),
    [((), (), 3), (("web-01",), (), 2), (("web-01", "web-02"), (), 1), (("web-01",), ("web-01",), 3),
     (("web-01", "web-02", "web-03"), (), 1)],
)  # fmt: skip
def test_every_new_instance_out_of_service_takes_one_off(
    sick: tuple[str, ...], under_way: tuple[str, ...], limit: int
) -> None:
    shape = replace(SHAPE, max_surge=3, max_in_flight=3)
    observed = fleet(NEW, **{slot.replace("-", "_"): UNHEALTHY for slot in sick})
    assert in_flight_limit(shape, TARGET, observed, under_way)[0] == limit


@pytest.mark.parametrize(
    ("extra", "allowed"),
    [
        ((), True),
        ((machine("web-01", NEW, name="x", state=InstanceState.STARTING),), False),
        ((machine("web-01", NEW, name="x", state=InstanceState.STOPPING),), False),
        ((machine("web-01", NEW, name="x", state=InstanceState.FAILED),), False),
        ((machine("web-01", NEW, name="x", state=InstanceState.GONE),), True),
        ((machine("web-77", NEW, name="x"),), True),
    ],
)
def test_the_surge_bound_counts_all_that_is_not_gone(extra: tuple[Instance, ...], allowed: bool) -> None:
    assert check_surge(SHAPE, seen(*fleet().instances, *extra)).allowed is allowed


@pytest.mark.parametrize(
    ("version", "changes", "limit"),
    [
        (OLD, {"max_in_flight": 3, "max_surge": 3}, 1),
        (NEW, {"max_in_flight": 3, "max_surge": 3}, 3),
        (NEW, {"max_in_flight": 3, "max_surge": 1}, 1),
        (NEW, {"max_in_flight": 3, "max_surge": 0, "max_unavailable": 2}, 2),
        (NEW, {"max_in_flight": 3, "max_surge": 0, "max_unavailable": 0}, 1),
    ],
)
def test_how_many_at_once(version: Version, changes: dict[str, int], limit: int) -> None:
    found, why = in_flight_limit(replace(SHAPE, **changes), TARGET, fleet(version))  # type: ignore[arg-type]
    assert (found, bool(why)) == (limit, True)


versions = st.sampled_from(["2026.09-1", "2026.10-1", "2026.11-1", "2026.11-2", "2026.12-1", "junk", ""])
machines = st.builds(
    machine,
    st.sampled_from([*SHAPE.slots, "web-09"]),
    versions,
    name=st.text("abcdef", min_size=3, max_size=6),
    days=st.floats(0, 80),
    state=st.sampled_from(InstanceState),
    digest=st.sampled_from(["", "sha256:new", "sha256:evil"]),
)


@given(
    instances=st.lists(machines, max_size=12, unique_by=lambda each: each.name),
    data=st.data(),
    shape=st.builds(
        FleetShape, st.just("web"), st.just(SHAPE.slots), st.integers(0, 9), st.lists(st.integers(0, 4), max_size=3)
    ),
)
def test_every_slot_is_accounted_for_exactly_once(
    instances: list[Instance], data: st.DataObject, shape: FleetShape
) -> None:
    states = data.draw(st.lists(st.sampled_from(Backend), min_size=len(instances), max_size=len(instances)))
    observed = Observed(
        tuple(instances), {each.id: BackendStatus(state) for each, state in zip(instances, states, strict=True)}
    )
    drawn = plan(replace(shape, waves=tuple(sorted(shape.waves))), TARGET, observed, NOW)
    told = [each.slot for each in drawn.slots] + [slot for slot, _ in (*drawn.up_to_date, *drawn.refusals)]
    assert sorted(told) == sorted(SHAPE.slots)
    assert [each.wave for each in drawn.slots] == sorted(each.wave for each in drawn.slots)
    victims = {each.old_instance for each in drawn.slots} - {""}
    for instance in instances:
        if instance.id in victims:
            assert instance.slot in SHAPE.slots
            assert not (
                instance.version == str(NEW)
                and observed.serves(instance)
                and instance.digest != "sha256:evil"
                and NOW - (instance.launched_at or NOW) <= SHAPE.max_age
            ), "what is up to date and serves is never a victim"
