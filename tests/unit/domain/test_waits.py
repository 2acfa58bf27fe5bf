"""Why slots wait: one reason each, and an estimate that the queue played forward bears out."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_fleet.domain.fleets import FleetShape
from phoenix_fleet.domain.waits import Place, Wait, room, waiting

MINUTE = timedelta(minutes=1)


def told(queue: list[Place], **changes: Any) -> list[tuple[str, str, float | None]]:
    arguments: dict[str, Any] = {"each": MINUTE, "at_once": 1, **changes}
    return [
        (each.slot, each.reason, None if each.begins_in is None else each.begins_in.total_seconds())
        for each in waiting(queue, **arguments)
    ]


def queue(*states: str, wave: int = 0, zone: str = "") -> list[Place]:
    return [Place(f"web-{n:02d}", wave, state, zone) for n, state in enumerate(states, start=1)]  # type: ignore[arg-type]


def test_one_after_another() -> None:
    assert told([*queue("done"), Place("web-02", 0), Place("web-03", 0), Place("web-04", 0)]) == [
        ("web-02", "it is next", 0),
        ("web-03", "1 before it, 1 at once", 60),
        ("web-04", "2 before it, 1 at once", 120),
    ]


def test_behind_one_that_is_under_way_and_how_far_it_is() -> None:
    running = Place("web-01", 0, "running", elapsed=timedelta(seconds=40))
    assert told([running, Place("web-02", 0), Place("web-03", 0)]) == [
        ("web-02", "it is next after web-01, 1 at once", 20),
        ("web-03", "1 before it, 1 at once", 80),
    ]
    late = Place("web-01", 0, "running", elapsed=timedelta(hours=2))
    assert told([late, Place("web-02", 0)]) == [("web-02", "it is next after web-01, 1 at once", 0)]


def test_two_at_once() -> None:
    places = [Place("web-01", 0, "running", elapsed=timedelta(seconds=30)), *queue(*["waiting"] * 4)[1:]]
    assert told(places, at_once=2) == [
        ("web-02", "it is next", 0),
        ("web-03", "1 before it, 2 at once", 30),
        ("web-04", "2 before it, 2 at once", 60),
    ]


def test_a_wave_begins_after_the_one_before_it() -> None:
    places = [Place("web-01", 0, "running"), Place("web-02", 1), Place("web-03", 1), Place("web-04", 2)]
    assert told(places, at_once=2) == [
        ("web-02", "wave 1 begins after wave 0: web-01 is not done", 60),
        ("web-03", "wave 1 begins after wave 0: web-01 is not done", 60),
        ("web-04", "wave 2 begins after wave 0: web-01 is not done", 120),
    ]


@pytest.mark.parametrize(("apart", "begins"), [(True, 60), (False, 0)])
def test_a_zone_begins_after_the_one_before_it(apart: bool, begins: float) -> None:
    places = [Place("web-01", 0, zone="a"), Place("web-02", 0, zone="b"), Place("web-03", 0, zone="b")]
    reason = "zone b begins after zone a: web-01 is not done" if apart else "1 before it, 2 at once"
    assert told(places, at_once=2, apart=apart)[1] == ("web-02", reason, begins)


def test_while_it_is_halted_that_is_everybodys_reason() -> None:
    places = queue("done", "failed", "waiting", "running")
    assert told(places, halted="halted by alice: looks wrong") == [
        ("web-02", "halted by alice: looks wrong", None),
        ("web-03", "halted by alice: looks wrong", None),
    ]


def test_one_that_is_held_up_says_why_and_those_behind_it_that() -> None:
    held = Place("web-01", 0, "running", held="the fleet db is degraded")
    assert told([held, Place("web-02", 0)]) == [
        ("web-01", "the fleet db is degraded", None),
        ("web-02", "web-01 is before it and waits", None),
    ]


@pytest.mark.parametrize(
    ("surge", "unavailable", "in_flight", "most"),
    [(1, 0, 1, 1), (3, 0, 5, 3), (3, 0, 2, 2), (0, 2, 5, 2), (0, 0, 5, 1), (2, 9, 5, 2)],
)
def test_how_many_at_once(surge: int, unavailable: int, in_flight: int, most: int) -> None:
    slots = tuple(f"web-{number}" for number in range(10))
    assert room(FleetShape("web", slots, 1, (10,), surge, unavailable, in_flight)) == most


@given(
    states=st.lists(st.sampled_from(["waiting", "waiting", "running", "failed", "done"]), max_size=30),
    waves=st.lists(st.integers(0, 3), min_size=30, max_size=30),
    zones=st.lists(st.sampled_from(["a", "b"]), min_size=30, max_size=30),
    at_once=st.integers(1, 5),
)
def test_everyone_who_waits_has_one_reason_and_the_estimates_keep_the_rules(
    states: list[str], waves: list[int], zones: list[str], at_once: int
) -> None:
    waves = sorted(waves)
    places = [
        Place(f"web-{n}", waves[n], state, zones[n]) for n, state in enumerate(states)  # type: ignore[arg-type]
    ]  # fmt: skip
    found = waiting(places, each=MINUTE, at_once=at_once)
    expected = [place.slot for place in places if place.state in ("waiting", "failed")]
    assert [each.slot for each in found] == expected
    assert all(each.reason and each.begins_in is not None for each in found)
    by_slot = {place.slot: place for place in places}
    check_played(found, by_slot, at_once)


def check_played(found: list[Wait], places: dict[str, Place], at_once: int) -> None:
    """Begun at the estimates, a wave never begins before the one before it ends, nor are too many under way."""
    spans = [(each.begins_in or timedelta(), places[each.slot]) for each in found]
    for begins, place in spans:
        together = sum(other <= begins < other + MINUTE for other, _ in spans)
        assert together <= at_once
        for other, earlier in spans:
            if earlier.wave < place.wave:
                assert other + MINUTE <= begins
