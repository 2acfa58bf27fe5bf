"""The brake by tables: how many may be out of service, in small fleets too, and what an empty listing means."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_fleet.domain.brake import Brake, Braking, check_brake
from phoenix_fleet.domain.fleets import FleetShape, Observed
from phoenix_fleet.domain.models import BackendStatus, Instance, InstanceState
from tests.unit.domain.fleet_of import ABSENT, HEALTHY, UNHEALTHY, machine, seen

MINUTES = timedelta(minutes=10)


def shape_of(size: int) -> FleetShape:
    return FleetShape("web", tuple(f"web-{number:02d}" for number in range(1, size + 1)))


def look(size: int, dark: int, how: BackendStatus = UNHEALTHY) -> Observed:
    """A fleet of which the first so many are out of service."""
    slots = shape_of(size).slots
    return seen(*map(machine, slots), **{slot.replace("-", "_"): how for slot in slots[:dark]})


@pytest.mark.parametrize(
    ("size", "stops_at"),
    [
        (1, None),  # a machine alone is what a replacement is there to mend
        (2, 2), (3, 3), (4, 4), (5, 5), (6, 5), (10, 5), (24, 5), (25, 6), (30, 7), (100, 21), (1000, 201),
    ],
)  # fmt: skip
def test_how_many_stop_everything(size: int, stops_at: int | None) -> None:
    brake = Brake(most=size * 20 // 100)
    for dark in range(size + 1):
        found = check_brake(shape_of(size), brake, look(size, dark), excused=(), expected=True)
        assert found.state == ("meltdown" if stops_at is not None and dark >= stops_at else "off"), dark


@pytest.mark.parametrize(
    ("most", "at_least", "stops_at"), [(0, 1, 1), (2, 1, 3), (2, 6, 6), (8, 1, 9), (10, 5, None), (4, 99, 10)]
)
def test_both_figures_come_from_the_file(most: int, at_least: int, stops_at: int | None) -> None:
    for dark in range(11):
        found = check_brake(shape_of(10), Brake(most, at_least), look(10, dark), excused=(), expected=True)
        assert (found.state == "meltdown") == (stops_at is not None and dark >= stops_at), dark


def test_it_says_how_many_which_and_what_was_allowed() -> None:
    found = check_brake(shape_of(10), Brake(2), look(10, 7), excused=(), expected=True)
    assert found.reason == (
        "7 of 10 are out of service (web-01, web-02, web-03, web-04, web-05 and 2 more), and the brake of web stops "
        "everything at more than 4"
    )
    small = check_brake(shape_of(3), Brake(0), look(3, 3), excused=(), expected=True)
    assert small.reason.endswith("(web-01, web-02, web-03), and the brake of web stops everything at more than 2")


@pytest.mark.parametrize("how", [UNHEALTHY, ABSENT])
def test_unhealthy_unreachable_and_missing_all_count(how: BackendStatus) -> None:
    assert check_brake(shape_of(6), Brake(1), look(6, 5, how), excused=(), expected=True).state == "meltdown"
    missing = seen(machine("web-06"))
    assert check_brake(shape_of(6), Brake(1), missing, excused=(), expected=True).state == "meltdown"
    dead = seen(machine("web-06"), *(machine(f"web-0{n}", state=InstanceState.FAILED) for n in range(1, 6)))
    assert check_brake(shape_of(6), Brake(1), dead, excused=(), expected=True).state == "meltdown"


def test_what_is_known_to_be_dark_and_meant_is_excused_but_not_what_serves() -> None:
    excused = ["web-01", "web-02", "web-06", "web-99"]
    found = check_brake(shape_of(6), Brake(1), look(6, 5), excused=excused, expected=True)
    assert found == Braking("off", "3 of 6 are out of service, and 1 are borne")
    assert check_brake(shape_of(6), Brake(1), look(6, 5), excused=["web-06"], expected=True).state == "meltdown"


def test_an_empty_listing_is_a_broken_view_unless_nothing_was_ever_there() -> None:
    shape = shape_of(6)
    blind = check_brake(shape, Brake(1), Observed(), excused=(), expected=True)
    assert blind == Braking("blind", "nothing is listed of web, which has 6 slots: empty is never all")
    assert check_brake(shape, Brake(6), Observed(), excused=shape.slots, expected=True).state == "blind"
    assert check_brake(shape, Brake(1), Observed(), excused=shape.slots, expected=False).state == "off"


def test_two_in_a_slot_are_one_slot_and_strays_are_none() -> None:
    crowd = [machine(slot, name=f"{slot}{twin}") for slot in ("web-01", "web-88") for twin in "abcdef"]
    assert check_brake(shape_of(6), Brake(1), seen(*crowd), excused=(), expected=True).state == "meltdown"


def test_every_small_fleet() -> None:
    """All fleets of 1 to 4 in every state: only a whole fleet in the dark stops, and never a fleet of one."""
    for size in range(1, 5):
        slots = shape_of(size).slots
        for lit in itertools.product([True, False], repeat=size):
            instances = tuple(map(machine, slots))
            states = dict(zip((each.id for each in instances), (HEALTHY if on else ABSENT for on in lit), strict=True))
            found = check_brake(shape_of(size), Brake(0), Observed(instances, states), excused=(), expected=True)
            assert (found.state == "meltdown") == (size > 1 and not any(lit))


@given(
    states=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40),
    most=st.integers(0, 40),
    at_least=st.integers(1, 12),
)
def test_it_stops_exactly_at_what_was_said(states: list[tuple[bool, bool]], most: int, at_least: int) -> None:
    size = len(states)
    instances: list[Instance] = list(map(machine, shape_of(size).slots))
    observed = Observed(
        tuple(instances),
        {each.id: HEALTHY if lit else UNHEALTHY for each, (lit, _) in zip(instances, states, strict=True)},
    )
    excused = [each.slot for each, (_, known) in zip(instances, states, strict=True) if known]
    dark = sum(not lit and not known for lit, known in states)
    found = check_brake(shape_of(size), Brake(most, at_least, MINUTES), observed, excused=excused, expected=True)
    assert (found.state == "meltdown") == (size > 1 and dark > most and dark >= min(at_least, size))
    assert found.reason
