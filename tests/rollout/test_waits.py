"""What the catalog says of slots that wait, while a rollout goes on, is held up and stands still."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from phoenix_fleet.rollout.durations import BESIDE_THE_WATCH, durations_of
from phoenix_fleet.rollout.planning import draw_plan
from phoenix_fleet.rollout.waits import told_of, waits_of, waits_of_plan
from tests.rollout.acts import begin, old_machine
from tests.rollout.scene import NEW, Scene

Stage = Callable[..., Scene]


def reasons(scene: Scene) -> dict[str, tuple[str, float | None]]:
    rollout = scene.catalog.rollouts.get(1)
    found = waits_of(scene.catalog, rollout, scene.catalog.rollouts.slots(1), scene.clock.now())
    return {
        each.slot: (each.reason, None if each.begins_in is None else each.begins_in.total_seconds()) for each in found
    }


def test_from_a_guess_to_a_measured_pace(stage: Stage) -> None:
    scene = stage(size=3)
    guess = (scene.fleet.watch_time + BESIDE_THE_WATCH).total_seconds()
    assert durations_of(scene.catalog, scene.fleet).typical.total_seconds() == guess == 100
    rollout = scene.open()
    assert reasons(scene) == {
        "web-01": ("it is next", 0),
        "web-02": ("wave 1 begins after wave 0: web-01 is not done", 100),
        "web-03": ("wave 1 begins after wave 0: web-01 is not done", 200),
    }
    scene.replace_next(rollout)
    (took,) = scene.catalog.rollouts.recent_seconds("web")
    assert reasons(scene) == {"web-02": ("it is next", 0), "web-03": ("1 before it, 1 at once", took)}
    scene.run(rollout)
    assert reasons(scene) == {}


def test_one_that_is_held_up_says_so_until_it_goes_on(stage: Stage) -> None:
    scene = stage()
    engine, ticket = begin(scene)
    sick = old_machine(scene, "web-03")["name"]
    scene.balancer.set_health(sick, healthy=False)
    told = engine.advance(ticket).message
    assert "the floor is 3" in told
    assert reasons(scene)["web-01"] == (told, None)
    assert reasons(scene)["web-02"] == ("web-01 is before it and waits", None)
    assert told_of(scene.catalog, 1, "web-01") == f"web-01: {told}; nobody can tell for how long"
    scene.balancer.set_health(sick, healthy=True)
    assert engine.advance(ticket).state == "moved"
    assert "web-01" not in reasons(scene)
    reason, begins = reasons(scene)["web-02"]
    assert reason == "wave 1 begins after wave 0: web-01 is not done"
    assert begins is not None
    assert told_of(scene.catalog, 1, "web-01") == ""


def test_a_halt_is_everybodys_reason(stage: Stage) -> None:
    scene = stage()
    scene.open()
    scene.catalog.rollouts.halt("web", actor="alice", reason="looks wrong")
    assert set(reasons(scene).values()) == {("halted by alice: looks wrong", None)}


def test_a_plan_says_what_would_wait_zone_by_zone(stage: Stage) -> None:
    scene = stage(size=4, platform={"zones": ["a", "b"]}, max_surge="2", max_in_flight=2)
    drawn = draw_plan(scene.deps(), scene.fleet, scene.catalog.images.get("base", NEW))
    found = waits_of_plan(scene.catalog, scene.fleet, drawn)
    each = timedelta(seconds=100)
    assert [(wait.slot, wait.begins_in) for wait in found] == [
        ("web-01", 0 * each), ("web-03", each), ("web-02", 2 * each), ("web-04", 2 * each)
    ]  # fmt: skip
