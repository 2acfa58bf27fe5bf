"""A tally that was told change by change says what a look at the whole fleet says; so does a queue."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.domain.fleets import FleetShape, Observed, PlannedSlot
from phoenix_fleet.domain.models import Backend, BackendStatus, Instance, InstanceState
from phoenix_fleet.domain.planner import (
    check_floor,
    check_surge,
    in_flight_limit,
    may_begin,
    may_take_out,
    plan,
    view_slot,
)
from phoenix_fleet.domain.tally import Seen, Tally
from phoenix_fleet.domain.turns import Turn, Turns
from tests.unit.domain.fleet_of import HEALTHY, NEW, NOW, OLD, SHAPE, TARGET, UNHEALTHY, fleet, machine

VERSIONS = [str(OLD), str(NEW), "junk"]
ZONES = ["", "a", "b"]
changes = st.tuples(
    st.integers(0, 9),
    st.sampled_from(["see", "see", "see", "forget"]),
    st.sampled_from([*SHAPE.slots, "web-77"]),
    st.sampled_from(VERSIONS),
    st.sampled_from(InstanceState),
    st.sampled_from(Backend),
    st.sampled_from(ZONES),
    st.integers(0, 50),
)


def apply(tally: Tally, world: dict[str, tuple[Instance, BackendStatus]], change: tuple[object, ...]) -> None:
    number, what, slot, version, state, backend, zone, days = change
    made = machine(str(slot), version, name=f"m{number}", days=int(str(days)), state=state, zone=zone)
    if what == "see":
        world[made.id] = (made, BackendStatus(Backend(str(backend))))
        tally.see(*world[made.id])
    else:
        world.pop(made.id, None)
        tally.forget(made.id)


@given(st.lists(changes, max_size=60), st.integers(0, 4), st.integers(0, 4))
def test_told_change_by_change_is_as_good_as_a_whole_look(
    told: list[tuple[object, ...]], surge: int, unavailable: int
) -> None:
    shape = replace(SHAPE, max_surge=surge, max_unavailable=unavailable, max_in_flight=4)
    tally, world = Tally(), dict[str, tuple[Instance, BackendStatus]]()
    for change in told:
        apply(tally, world, change)
        tally.living_in(shape.known)  # from now on it is kept, and must stay right
    whole = Observed(tuple(each for each, _ in world.values()), {key: status for key, (_, status) in world.items()})
    counts_by_hand(tally, whole, shape)
    assert check_surge(shape, tally) == check_surge(shape, whole)
    assert in_flight_limit(shape, TARGET, tally, ["web-01"]) == in_flight_limit(shape, TARGET, whole, ["web-01"])
    for victim in [*world, "i-nobody"]:
        assert check_floor(4, unavailable, tally, victim) == check_floor(4, unavailable, whole, victim)
        for new in ("", *world):
            assert may_take_out(shape, tally, victim, new) == may_take_out(shape, whole, victim, new)
    for slot in shape.slots:
        view = view_slot(shape, slot, TARGET, tally, NOW)
        assert view == view_slot(shape, slot, TARGET, whole, NOW)
        assert may_begin(shape, view, tally) == may_begin(shape, view, whole)


def counts_by_hand(tally: Tally, whole: Observed, shape: FleetShape) -> None:
    """The counts, by the plainest reading of what they promise."""
    serving = [
        each
        for each in whole.instances
        if each.state is InstanceState.RUNNING and whole.backends[each.id].state is Backend.HEALTHY
    ]
    standing = [e for e in whole.instances if e.state not in (InstanceState.GONE, InstanceState.STOPPING)]
    assert len(tally) == len(whole.instances)
    assert tally.serving_count() == len(serving)
    for zone in ZONES:
        assert tally.serving_in(zone) == sum(each.zone == zone for each in serving)
        assert tally.standing_in(zone) == sum(each.zone == zone for each in standing)
    for version in VERSIONS:
        assert tally.serving_on(version) == sum(each.version == version for each in serving)
        assert tally.missing_on(version) == sum(each.version == version and each not in serving for each in standing)
    living = [each for each in whole.instances if each.state is not InstanceState.GONE]
    assert tally.living_in(shape.known) == sum(each.slot in shape.slots for each in living)
    assert tally.living_in(frozenset({"web-77"})) == sum(each.slot == "web-77" for each in living)
    for slot in shape.slots:
        assert {each.id for each in tally.in_slot(slot)} == {each.id for each in standing if each.slot == slot}


# The queue


def drawn(shape: FleetShape, whole: Observed) -> tuple[PlannedSlot, ...]:
    return plan(shape, TARGET, whole, NOW).slots


@given(
    size=st.integers(1, 12),
    seed=st.integers(0, 10**6),
    surge=st.integers(0, 3),
    unavailable=st.integers(0, 3),
    in_flight=st.integers(1, 4),
    domain=st.sampled_from(["zone", "host", "none"]),
)
def test_a_queue_that_was_told_all_decides_like_one_made_anew(
    size: int, seed: int, surge: int, unavailable: int, in_flight: int, domain: str
) -> None:
    """A whole rollout with machines that fall sick: at every point both say the same, and in the end all is done."""
    chance = random.Random(seed)  # noqa: S311
    slots = tuple(f"web-{number:02d}" for number in range(1, size + 1))
    shape = FleetShape(
        "web", slots, 1, (max(1, size // 2), size), surge, unavailable, in_flight, timedelta(days=35), domain  # type: ignore[arg-type]
    )  # fmt: skip
    machines = [
        machine(slot, days=chance.randint(1, 30), zone=chance.choice("ab"), host=chance.choice("xyz")) for slot in slots
    ]
    tally = Tally.of(machines, {each.id: HEALTHY for each in machines})
    planned = drawn(shape, Observed(tuple(machines), {each.id: HEALTHY for each in machines}))
    turns, done, under_way = Turns(shape, TARGET, planned), list[str](), dict[str, PlannedSlot]()
    by_slot = {each.slot: each for each in planned}
    for _ in range(400):
        turn = turns.next(tally, NOW)
        assert turn == Turns(shape, TARGET, planned, under_way=under_way, done=done).next(tally, NOW)
        assert turn.reason
        if turn.allowed and turn.needed and chance.random() < 0.8:
            mine = by_slot[turn.slot]
            assert domain == "none" or all(each.zone == mine.zone for each in under_way.values())
            assert all(each.wave == mine.wave for each in under_way.values())
            turns.begin(turn.slot)
            under_way[turn.slot] = mine
            assert len(under_way) <= max(1, in_flight)
        elif under_way:
            slot = chance.choice(sorted(under_way))
            replaced(tally, slot, chance)
            turns.finish(slot)
            done.append(slot)
            del under_way[slot]
        elif turn == Turn("", False, "every slot is done"):
            break
        elif not turn.allowed:
            heal(tally, shape)
    assert sorted(done) == sorted(by_slot)
    assert len(turns) == 0


def replaced(tally: Tally, slot: str, chance: random.Random) -> None:
    for old in tally.in_slot(slot):
        tally.forget(old.id)
        tally.see(replace(old, id=f"{old.id}x", version=str(NEW)), chance.choice([HEALTHY, HEALTHY, UNHEALTHY]))


def heal(tally: Tally, shape: FleetShape) -> None:
    for slot in shape.slots:
        for each in tally.in_slot(slot):
            tally.see(each, HEALTHY)


def test_an_empty_queue_is_done_and_another_ones_turn_is_refused() -> None:
    assert Turns(SHAPE, TARGET, ()).next(fleet(), NOW) == Turn("", False, "every slot is done")
    turns = Turns(SHAPE, TARGET, drawn(SHAPE, fleet()))
    with pytest.raises(InvalidConfig, match="not the turn of web-02, but of web-01"):
        turns.begin("web-02")


def test_every_wait_has_its_reason() -> None:
    def at(version: object = OLD, **sick: BackendStatus) -> Seen:
        return fleet(**sick) if version == OLD else fleet(NEW, **sick)

    turns = Turns(SHAPE, TARGET, drawn(SHAPE, fleet()))
    assert turns.next(at(), NOW) == Turn("web-01", True, "outdated: 2026.10-1")
    assert turns.next(at(web_03=UNHEALTHY), NOW).reason == "3 of 4 would be in service without it, and the floor is 4"
    turns.begin("web-01")
    assert turns.next(at(), NOW).reason == "web-01 of wave 0 is under way, and wave 1 begins after it"
    turns.postpone("web-01")
    turns.begin("web-02")
    assert turns.next(at(), NOW).reason == "web-02 of wave 1 is under way, and wave 2 begins after it"
    turns.finish("web-02")
    assert turns.next(at(NEW), NOW) == Turn("web-03", True, "on 2026.11-1", needed=False)
    turns.begin("web-03")
    assert turns.next(at(), NOW).reason.startswith("web-03 is under way: no instance serves on 2026.11-1 yet")
    turns.finish("web-03")
    turns.begin("web-04")
    turns.finish("web-04")
    assert turns.next(at(), NOW).slot == "web-01", "what was put back comes last"
    turns.begin("web-01")
    assert turns.next(at(), NOW) == Turn("", False, "web-01 is under way")
