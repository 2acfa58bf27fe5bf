"""Where the floor holds a slot because one behind it is dark, that one goes first (decision 0043)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from phoenix_fleet.catalog.records import RolloutState, SlotState
from phoenix_fleet.domain.models import InstanceState
from phoenix_fleet.domain.steps import Step
from tests.rollout.acts import begin, failure, old_machine, reach
from tests.rollout.scene import NEW, Scene

Stage = Callable[..., Scene]
BUDGETS = ({"max_surge": "1"}, {"max_surge": "0", "max_unavailable": "1"})


def launched(scene: Scene) -> list[str]:
    """The slots that the engine launched for, in order."""
    machines = sorted(scene.platform.machines().values(), key=lambda each: str(each["id"]))
    return [each["slot"] for each in machines if str(each["purpose"]).startswith("rollout")]


def lose(scene: Scene, slot: str) -> None:
    scene.platform.set_state(old_machine(scene, slot)["id"], InstanceState.GONE)


def at_rest(scene: Scene) -> None:
    """The balancer may still know the one that died by itself."""
    assert scene.versions() == {slot: [str(NEW)] for slot in scene.fleet.slots}
    assert len(scene.serving()) == scene.fleet.size
    scene.check_journals()


@pytest.mark.parametrize("budget", BUDGETS)
def test_what_died_behind_the_first_goes_before_it(stage: Stage, budget: dict[str, str]) -> None:
    scene = stage(**budget)
    rollout = scene.open()
    lose(scene, "web-03")
    assert scene.run(rollout).state is RolloutState.DONE
    assert launched(scene) == ["web-03", "web-02", "web-01"]
    (gave,) = [each for each in scene.catalog.events.list_events("fleets/web", 1000) if each.kind == "slot.gave_way"]
    assert gave.payload["to"] == "web-03"
    assert "the floor is" in gave.payload["reason"]
    at_rest(scene)


def test_what_is_sick_only_for_a_minute_changes_no_order(stage: Stage) -> None:
    scene = stage()
    engine, ticket = begin(scene)
    sick = old_machine(scene, "web-03")["name"]
    scene.balancer.set_health(sick, healthy=False)
    for _ in range(12):
        assert engine.advance(ticket).state == "waiting"
        scene.clock.advance(timedelta(seconds=5))
    scene.balancer.set_health(sick, healthy=True)
    assert engine.advance(ticket).state == "moved"
    assert scene.catalog.rollouts.slot(1, 1).slot == "web-01"


def test_one_that_is_to_be_drained_gives_way_too_and_goes_on_with_the_machine_that_it_has(stage: Stage) -> None:
    scene = stage()
    engine, ticket = reach(scene, Step.DRAIN)
    lose(scene, "web-02")
    progress = scene.drive(engine, ticket)
    assert progress.message.startswith("gives way to web-02: ")
    assert scene.run(engine.rollout).state is RolloutState.DONE
    assert launched(scene) == ["web-01", "web-02", "web-03"]
    at_rest(scene)


@pytest.mark.slow
def test_for_a_dark_slot_that_is_none_of_the_rollouts_it_waits_and_fails(stage: Stage) -> None:
    scene = stage()
    rollout = scene.open(only=["web-01", "web-02"])
    engine = scene.engine(rollout)
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket
    lose(scene, "web-03")
    assert "check failed: not done after" in failure(scene, engine, ticket)


def test_whoever_is_at_the_dark_slot_already_is_waited_for(stage: Stage) -> None:
    scene = stage(max_surge="2", max_in_flight=2)
    rollout = scene.open()
    assert scene.replace_next(rollout)
    engine, rollouts = scene.engine(rollout), scene.catalog.rollouts
    first, second = scene.claim(engine, 1, "a"), scene.claim(engine, 1, "b")
    assert first
    assert second
    lose(scene, "web-03")
    for _ in range(60):
        assert engine.advance(first).state != "done"
        scene.clock.advance(timedelta(seconds=5))
        rollouts.renew(first, timedelta(minutes=1))
        rollouts.renew(second, timedelta(minutes=1))
    assert [each.state for each in rollouts.slots(rollout.id)][1:] == [SlotState.RUNNING, SlotState.RUNNING]
