"""What belongs to nobody, by tables: every reason to leave an instance alone, alone and all at once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_fleet.domain.errors import Blind
from phoenix_fleet.domain.fleets import Observed
from phoenix_fleet.domain.models import Backend, BackendStatus, Instance, InstanceState
from phoenix_fleet.domain.reaping import (
    FLEETS,
    RUN_LIMIT,
    SKEW,
    THROWAWAY_AGE,
    Inventory,
    Launch,
    Memory,
    Reaping,
    Rules,
    decide,
    decide_throwaways,
)
from tests.unit.domain.fleet_of import ABSENT, HEALTHY, NEW, NOW, UNHEALTHY, machine, seen

SLOTS = ("web-01", "web-02", "web-03")
HOUR = timedelta(hours=1)
STATUS = {word: BackendStatus(word) for word in Backend}


def left_over(slot: str = "web-01", *, name: str = "left", purpose: str = "rollout-7", **changes: object) -> Instance:
    """What a crash may leave: launched by us, in a slot of the fleet, unknown to the balancer."""
    return machine(slot, NEW, name=name, **{"token": f"{purpose}/{slot}/{name}", **changes})  # type: ignore[arg-type]


def launches(*instances: Instance) -> dict[str, Launch]:
    """All of them as the catalog would know them."""
    return {each.token: Launch(each.token.split("/")[0], each.fleet, each.slot) for each in instances}


def catalog(*instances: Instance, **changes: object) -> Inventory:
    known = Inventory("web", slots=frozenset(SLOTS), launches=launches(*instances))
    return replace(known, **changes)  # type: ignore[arg-type]


def fleet_with(*more: Instance, status: BackendStatus = ABSENT, **backends: BackendStatus) -> Observed:
    """Three machines in service, and those."""
    said = {each.name.replace("-", "_"): status for each in more}
    return seen(*(machine(slot) for slot in SLOTS), *more, **{**said, **backends})


def remembered(*instances: Instance, ago: timedelta = 3 * HOUR, last: timedelta = HOUR) -> Memory:
    """The look before this one, an hour ago, knew those for three hours less that one."""
    return Memory(NOW - last, {(each.id, each.token): NOW - ago for each in instances})


def judged(look: Observed, known: Inventory, memory: Memory | None = None, rules: Rules = FLEETS) -> Reaping:
    memory = remembered(*look.instances) if memory is None else memory
    return decide(look, known, memory, NOW, rules)


def names(found: Reaping) -> list[str]:
    return [each.instance.name for each in found.due]


def test_what_a_crash_left_beside_a_serving_one_goes() -> None:
    orphan = left_over()
    found = judged(fleet_with(orphan), catalog(orphan))
    assert names(found) == ["left"]
    assert found.due[0].reason == "rollout-7 left it beside web-01, which serves"
    assert found.due[0].witness == "i-web-01"
    assert (found.refused, found.strangers, found.left) == ("", (), ())


@pytest.mark.parametrize("state", list(InstanceState))
@pytest.mark.parametrize("word", list(Backend))
def test_only_what_no_traffic_reaches(state: InstanceState, word: Backend) -> None:
    orphan = left_over(state=state)
    found = judged(fleet_with(orphan, status=STATUS[word]), catalog(orphan))
    going = state in (InstanceState.STOPPING, InstanceState.GONE)
    served = word in (Backend.HEALTHY, Backend.STARTING)
    assert names(found) == ([] if going or served else ["left"])


@pytest.mark.parametrize("dark", [UNHEALTHY, ABSENT, STATUS[Backend.DRAINING], STATUS[Backend.STARTING]])
def test_never_where_nothing_else_serves_in_the_slot(dark: BackendStatus) -> None:
    orphan = left_over()
    found = judged(fleet_with(orphan, web_01=dark), catalog(orphan))
    assert found.due == ()
    assert ("left", "nothing else is in service in web-01") in found.left


def test_never_the_only_one_of_a_slot() -> None:
    orphan = left_over()
    look = seen(machine("web-02"), machine("web-03"), orphan, left=ABSENT)
    assert judged(look, catalog(orphan)).due == ()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"token": ""}, "no launch in the catalog has its token"),
        ({"token": "somebody-elses"}, "no launch in the catalog has its token"),
        ({"slot": "web-02"}, "its token is that of a launch for web/web-01"),
    ],
)
def test_what_no_launch_of_ours_explains_is_told_and_never_touched(change: dict[str, str], why: str) -> None:
    orphan = left_over()
    found = judged(fleet_with(replace(orphan, **change)), catalog(orphan))  # type: ignore[arg-type]
    assert found.due == found.orphans == ()
    assert found.strangers == (("left", why),)


@pytest.mark.parametrize(
    "change", [{"alive": frozenset({"rollout-7"})}, {"in_hand": frozenset({"web-01"})}], ids=["its own", "its slot"]
)
def test_an_open_rollouts_machines_are_its_own(change: dict[str, object]) -> None:
    orphan = left_over()
    found = judged(fleet_with(orphan), catalog(orphan, **change))
    assert found == Reaping()


def test_a_slot_that_the_fleet_does_not_have_is_a_persons() -> None:
    orphan = left_over("web-09")
    found = judged(fleet_with(orphan), catalog(orphan))
    assert found.due == ()
    assert found.left == (("left", "its slot 'web-09' is not one of the fleet's"),)


def test_what_the_last_replacement_brought_is_not_an_orphan_because_it_is_sick() -> None:
    orphan = left_over()
    found = judged(fleet_with(orphan, status=UNHEALTHY), catalog(orphan, placed={"web-01": orphan.id}))
    assert found.due == ()
    assert found.left == (("left", "it is what the last replacement of web-01 brought, out of service"),)


@pytest.mark.parametrize(
    ("memory", "due"),
    [
        (Memory(), False),
        (remembered(left_over(), ago=2 * HOUR), True),
        (remembered(left_over(), ago=2 * HOUR - timedelta(seconds=1)), False),
        (remembered(left_over(), ago=9 * HOUR, last=6 * HOUR), True),
        (remembered(left_over(), ago=9 * HOUR, last=6 * HOUR + timedelta(seconds=1)), False),
        (remembered(left_over(name="other")), False),
        (remembered(left_over(token="rollout-8/web-01/left")), False),
        (remembered(left_over(), ago=9 * HOUR, last=-HOUR), False),
        (remembered(left_over(), ago=9 * HOUR, last=-SKEW), True),
    ],
    ids=[
        "first look",
        "ripe",
        "not yet",
        "long ago",
        "too long ago",
        "another",
        "id again",
        "from later",
        "clocks differ",
    ],
)
def test_it_must_have_been_one_for_the_grace_at_every_look(memory: Memory, due: bool) -> None:
    orphan = left_over()
    found = judged(fleet_with(orphan), catalog(orphan), memory)
    assert bool(found.due) == due
    assert [each.instance.name for each in found.orphans] == ["left"]


def test_two_looks_even_without_a_grace() -> None:
    orphan = left_over()
    rules = Rules(grace=timedelta())
    assert judged(fleet_with(orphan), catalog(orphan), Memory(), rules).due == ()
    assert names(judged(fleet_with(orphan), catalog(orphan), remembered(orphan), rules)) == ["left"]


def test_a_since_that_lies_ahead_begins_now() -> None:
    orphan = left_over()
    (found,) = judged(fleet_with(orphan), catalog(orphan), remembered(orphan, ago=-9 * HOUR)).orphans
    assert found.since == NOW


def test_so_many_in_a_run_those_known_longest_first() -> None:
    slots = [f"web-{number:02d}" for number in range(1, 41)]
    orphans = [left_over(slot, name=f"left-{slot}") for slot in slots[:6]]
    look = seen(*map(machine, slots), *orphans, **{each.name.replace("-", "_"): ABSENT for each in orphans})
    since = {(each.id, each.token): NOW - (3 + number) * HOUR for number, each in enumerate(orphans)}
    found = decide(look, catalog(*orphans, slots=frozenset(slots)), Memory(NOW - HOUR, since), NOW, FLEETS)
    assert names(found) == ["left-web-06", "left-web-05", "left-web-04"]
    assert len(found.orphans) == 6


@pytest.mark.parametrize(("size", "believed"), [(1, 2), (8, 2), (12, 3), (100, 25)])
def test_too_many_at_once_and_nothing_is_touched(size: int, believed: int) -> None:
    slots = [f"web-{number:03d}" for number in range(size)]
    for count in (believed, believed + 1):
        orphans = [left_over(slots[number % size], name=f"left-{number}") for number in range(count)]
        look = seen(*map(machine, slots), *orphans, **{each.name.replace("-", "_"): ABSENT for each in orphans})
        found = judged(look, catalog(*orphans, slots=frozenset(slots)))
        assert bool(found.due) == (count == believed)
        assert bool(found.refused) == (count > believed)


def test_strangers_count_too_because_a_lost_catalog_explains_nothing() -> None:
    orphan = left_over()
    strangers = [left_over(slot, name=f"lost-{slot}") for slot in SLOTS]
    found = judged(fleet_with(orphan, *strangers), catalog(orphan))
    assert found.due == ()
    assert found.refused == (
        "4 of 7 instances look as if they belonged to nobody, and 2 are believed: the catalog or the listing is wrong"
    )


def test_an_empty_catalog_reaps_nothing() -> None:
    found = judged(fleet_with(left_over()), Inventory("web", slots=frozenset(SLOTS)))
    assert found.due == found.orphans == ()


@pytest.mark.parametrize(
    "listed",
    [
        (),
        (machine("web-01"), machine("web-01")),
        (machine("web-01"), machine("shop-01", fleet="shop")),
    ],
    ids=["empty", "a page twice", "filter dropped"],
)
def test_a_listing_that_cannot_be_true_shows_nothing(listed: tuple[Instance, ...]) -> None:
    with pytest.raises(Blind):
        judged(seen(*listed), catalog(placed={"web-01": "i-web-01"}))


INSTANCES = st.builds(
    left_over,
    slot=st.sampled_from([*SLOTS, "web-09"]),
    name=st.sampled_from([f"m{number}" for number in range(6)]),
    purpose=st.sampled_from(["rollout-7", "rollout-8"]),
    state=st.sampled_from(InstanceState),
)


@given(
    st.lists(INSTANCES, max_size=8, unique_by=lambda each: each.id),
    st.lists(st.sampled_from(Backend), min_size=8, max_size=8),
    st.lists(st.booleans(), min_size=8, max_size=8),
    st.sets(st.sampled_from(["rollout-7", "rollout-8"])),
    st.sets(st.sampled_from(SLOTS)),
)
def test_whatever_is_seen_every_slot_keeps_what_it_has_in_service(
    instances: list[Instance], words: list[Backend], known: list[bool], alive: set[str], in_hand: set[str]
) -> None:
    look = Observed(tuple(instances), {each.id: STATUS[word] for each, word in zip(instances, words, strict=False)})
    explained = [each for each, is_known in zip(instances, known, strict=False) if is_known]
    found = judged(look, catalog(*explained, alive=frozenset(alive), in_hand=frozenset(in_hand)))
    assert len(found.due) <= FLEETS.per_run
    for orphan in found.due:
        instance = orphan.instance
        assert instance in explained
        assert not look.serves(instance)
        assert instance.token.split("/")[0] not in alive
        assert instance.slot not in in_hand
        witness = look.find(orphan.witness)
        assert witness is not None
        assert witness.slot == instance.slot
        assert witness.id != instance.id
        assert look.serves(witness)
        assert witness not in [each.instance for each in found.due]


def thrown(name: str = "test-docker", *, age: timedelta, purpose: str = "image.base/run-1") -> Instance:
    made = machine("test-docker", name=name, fleet="throwaway", token=f"{purpose}#{name}")
    return replace(made, launched_at=NOW - age)


def throwaways(*listed: Instance, alive: frozenset[str] = frozenset(), family: str = "base") -> Reaping:
    known = {each.token: Launch(each.token.split("#")[0], "throwaway", each.slot, "base") for each in listed}
    inventory = Inventory("throwaway", family=family, launches=known, alive=alive)
    return decide_throwaways(listed, inventory, remembered(*listed), NOW)


@pytest.mark.parametrize(
    ("age", "alive", "due"),
    [
        (THROWAWAY_AGE, False, True),
        (THROWAWAY_AGE - timedelta(seconds=1), False, False),
        (THROWAWAY_AGE, True, False),
        (RUN_LIMIT, True, True),
    ],
)
def test_a_throw_away_instance_goes_when_its_run_is_over(age: timedelta, alive: bool, due: bool) -> None:
    found = throwaways(thrown(age=age), alive=frozenset({"image.base/run-1"} if alive else ()))
    assert bool(found.due) == due


def test_throw_away_instances_of_another_family_or_deployment_are_not_ours_to_judge() -> None:
    mine = thrown(age=RUN_LIMIT)
    assert throwaways(mine, family="other").orphans == ()
    stranger = thrown("theirs", age=RUN_LIMIT)
    inventory = Inventory(
        "throwaway", family="base", launches={mine.token: Launch("r", "throwaway", mine.slot, "base")}
    )
    many = [replace(stranger, id=f"i-{number}", name=f"theirs-{number}") for number in range(50)]
    found = decide_throwaways([mine, *many], inventory, remembered(mine), NOW)
    assert names(found) == [mine.name]
    assert len(found.strangers) == 50


def test_too_many_throw_away_instances_are_a_persons() -> None:
    listed = [thrown(f"t-{number}", age=RUN_LIMIT) for number in range(11)]
    assert throwaways(*listed).refused
    assert names(throwaways(*listed[:10])) == ["t-0", "t-1", "t-2"]


def test_one_whose_age_nobody_knows_stays() -> None:
    assert throwaways(replace(thrown(age=RUN_LIMIT), launched_at=None)).orphans == ()


def test_a_status_that_is_healthy_counts_whatever_the_machine_says() -> None:
    orphan = left_over(state=InstanceState.FAILED)
    assert judged(fleet_with(orphan, status=HEALTHY), catalog(orphan)).orphans == ()
