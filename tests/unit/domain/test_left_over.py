"""What takes the room that a launch needs and that nobody misses (decision 0041)."""

from __future__ import annotations

from dataclasses import replace

from phoenix_fleet.domain.fleets import Observed
from phoenix_fleet.domain.left_over import crowded, find_left_over
from phoenix_fleet.domain.models import Instance, InstanceState
from tests.unit.domain.fleet_of import (
    ABSENT,
    DRAINING,
    HEALTHY,
    NEW,
    NOW,
    OLD,
    SHAPE,
    TARGET,
    UNHEALTHY,
    fleet,
    machine,
    seen,
)

SECOND = machine("web-02", NEW, name="web-02-new")


def found(observed: Observed, *spared: str, kept: str = "") -> Instance | None:
    return find_left_over(SHAPE, TARGET, observed, NOW, spared, kept)


def beside(*more: Instance, **backends: object) -> Observed:
    """The whole fleet on the old release, with these beside it."""
    return seen(*fleet().instances, *more, **backends)  # type: ignore[arg-type]


def test_in_a_fleet_with_one_in_each_slot_nothing_is_left_over() -> None:
    assert found(fleet()) is None
    assert found(fleet(web_02=UNHEALTHY)) is None


def test_what_is_out_of_service_beside_one_that_serves() -> None:
    assert found(beside(SECOND, web_02_new=ABSENT)) == SECOND


def test_what_is_in_hand_is_never_left_over() -> None:
    observed = beside(SECOND, web_02_new=ABSENT)
    assert found(observed, "web-01") == SECOND
    assert found(observed, "web-02") is None


def test_the_old_one_once_the_new_one_serves_and_the_floor_holds_without_it() -> None:
    old = machine("web-02")
    assert found(beside(SECOND)) == old
    assert found(beside(SECOND), kept=old.id) is None
    assert found(beside(SECOND, web_04=UNHEALTHY)) is None, "the floor of four would be broken"


def test_the_only_one_in_service_is_never_left_over() -> None:
    going = machine("web-01", name="going", state=InstanceState.STOPPING)
    observed = beside(going, SECOND)
    assert found(observed) == machine("web-02", OLD)


def test_where_a_replacement_is_done_only_what_runs_another_release_is_left_over() -> None:
    others = [machine(slot) for slot in ("web-01", "web-03", "web-04")]
    new = replace(SECOND, name="web-02")
    moved = machine("web-02", OLD, name="moved")
    twin = machine("web-02", NEW, name="twin")
    done = {"done": ["web-02"]}
    assert find_left_over(SHAPE, TARGET, seen(*others, new, moved), NOW, (), **done) == moved
    assert find_left_over(SHAPE, TARGET, seen(*others, new, moved, moved=UNHEALTHY), NOW, (), **done) == moved
    assert find_left_over(SHAPE, TARGET, seen(*others, new, twin, twin=UNHEALTHY), NOW, (), **done) is None
    assert find_left_over(SHAPE, TARGET, seen(*others, new, moved, web_02=UNHEALTHY), NOW, (), **done) is None
    assert find_left_over(SHAPE, TARGET, seen(*others[1:], new, moved), NOW, (), **done) is None, "the floor"


def test_what_drains_stays_while_the_floor_is_broken() -> None:
    assert found(beside(SECOND, web_02_new=DRAINING)) == SECOND
    assert found(beside(SECOND, web_02_new=DRAINING, web_04=UNHEALTHY)) is None
    assert found(beside(SECOND, web_02=DRAINING)) == machine("web-02")
    assert found(beside(SECOND, web_02=DRAINING, web_04=UNHEALTHY)) is None
    moved = machine("web-02", OLD, name="moved")
    for broken, expected in ((HEALTHY, moved), (UNHEALTHY, None)):
        look = beside(replace(SECOND, name="new"), moved, moved=DRAINING, web_04=broken)
        without_the_old_one = replace(look, instances=tuple(each for each in look.instances if each.name != "web-02"))
        assert find_left_over(SHAPE, TARGET, without_the_old_one, NOW, (), done=["web-02"]) == expected


def test_which_slots_hold_several_is_told() -> None:
    assert crowded(SHAPE, fleet()) == ""
    assert crowded(SHAPE, beside(SECOND)) == "2 in web-02"
    many = beside(SECOND, *(machine(slot, NEW, name=f"{slot}-new") for slot in ("web-01", "web-03", "web-04")))
    assert crowded(SHAPE, many) == "2 in web-01, 2 in web-02, 2 in web-03, 2 in web-04"
