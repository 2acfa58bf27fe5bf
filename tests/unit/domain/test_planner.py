"""The plan: which slots are replaced, why, and in what order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.domain.models import Backend, BackendStatus, Instance, InstanceState
from phoenix_fleet.domain.planner import FleetShape, Observed, Plan, Target, plan, view_slot
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
