"""The old instance: it goes last, exactly that one, and stays as long as it is needed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from phoenix_fleet.catalog.records import RolloutState
from phoenix_fleet.domain import errors
from phoenix_fleet.domain.models import InstanceState
from phoenix_fleet.domain.steps import Step
from tests.rollout.acts import failure, new_machine, old_machine, reach, untouched
from tests.rollout.scene import Scene

Stage = Callable[..., Scene]


def test_a_server_that_shows_no_sign_of_its_drain_is_removed_all_the_same(stage: Stage) -> None:
    """HAProxy shows a server that was never checked as starting, in maintenance too."""
    scene = stage(balancer={"start_reads": 40}, timeouts={"admit": "10s"})
    engine, ticket = reach(scene, Step.ADMIT)
    scene.balancer.drain = lambda instance: None  # type: ignore[method-assign]
    assert "admit failed" in failure(scene, engine, ticket)
    untouched(scene)


def test_the_old_one_stays_if_the_new_one_falls_sick_at_the_last_moment(stage: Stage) -> None:
    for step in (Step.DRAIN, Step.TERMINATE):
        scene = stage()
        engine, ticket = reach(scene, step)
        scene.balancer.set_health(new_machine(scene)["name"], healthy=False)
        told = failure(scene, engine, ticket) if step is Step.TERMINATE else ""
        if step is Step.DRAIN:
            scene.clock.advance(scene.fleet.timeouts.admit + timedelta(seconds=1))
            told = failure(scene, engine, ticket)
        assert "unhealthy at the balancer" in told
        untouched(scene)


def test_a_drained_one_comes_back_if_another_machine_dies_meanwhile(stage: Stage) -> None:
    scene = stage()
    engine, ticket = reach(scene, Step.TERMINATE)
    sick, old = (old_machine(scene, slot)["name"] for slot in ("web-03", "web-01"))
    assert old not in scene.serving()
    scene.balancer.set_health(sick, healthy=False)
    assert "has to stay: 2 of 3 would be in service without it" in failure(scene, engine, ticket)
    assert old in scene.serving()
    assert not [call for call in scene.platform.calls("terminate") if call.subject == old_machine(scene)["id"]]


def test_a_new_one_that_is_needed_stays_in_service_although_its_step_failed(stage: Stage) -> None:
    scene = stage()
    engine, ticket = reach(scene, Step.WATCH)
    sick = old_machine(scene, "web-03")["name"]
    scene.balancer.set_health(sick, healthy=False)
    scene.watch.next = ["failed"]
    told = failure(scene, engine, ticket)
    assert "is left in service" in told
    assert new_machine(scene)["name"] in scene.serving()
    scene.balancer.set_health(sick, healthy=True)
    scene.catalog.rollouts.resume("web", actor="alice", reason="web-03 is well again")
    assert scene.run(engine.rollout).state is RolloutState.DONE
    scene.check_at_rest()


def test_exactly_the_planned_instance_or_none(stage: Stage) -> None:
    scene = stage()
    engine, ticket = reach(scene, Step.TERMINATE)
    victim = old_machine(scene)["id"]
    with scene.platform.world.transaction() as data:
        data["machines"][victim]["token"] = "somebody-else"
    told = failure(scene, engine, ticket)
    assert "what stands there is not" in told
    assert "token is 'somebody-else'" in told
    assert not scene.platform.calls("terminate")


def test_a_machine_that_is_not_ours_any_more_is_never_terminated(stage: Stage) -> None:
    scene = stage()
    engine, ticket = reach(scene, Step.TERMINATE)
    with scene.platform.world.transaction() as data:
        data["machines"][old_machine(scene)["id"]]["owner"] = "another-team"
    with pytest.raises(errors.StepFailed, match="is not ours"):
        scene.drive(engine, ticket)
    assert not scene.platform.calls("terminate")


def test_an_old_one_that_vanished_by_itself_is_confirmed_and_forgotten(stage: Stage) -> None:
    for step in (Step.DRAIN, Step.TERMINATE):
        scene = stage()
        engine, ticket = reach(scene, step)
        victim = old_machine(scene)
        scene.platform.set_state(victim["id"], InstanceState.GONE)
        began = scene.clock.now()
        assert scene.drive(engine, ticket).state == "done"
        assert scene.clock.now() - began >= timedelta(seconds=3), "one look is not enough"
        assert victim["name"] not in scene.balancer.servers()
        assert not scene.platform.calls("terminate")
        scene.check_journals()


def test_not_to_be_seen_once_is_not_gone(stage: Stage) -> None:
    scene = stage()
    engine, ticket = reach(scene, Step.TERMINATE)
    victim = old_machine(scene)["id"]
    flicker = {"left": 1}
    real = scene.platform.get_instance
    listing = scene.platform.list_instances

    def get_instance(instance_id: str) -> Any:
        if instance_id == victim and flicker["left"]:
            raise errors.NotFound("not to be seen")
        return real(instance_id)

    def list_instances(fleet: str) -> Any:
        found = listing(fleet)
        if flicker["left"]:
            flicker["left"] -= 1
            return [each for each in found if each.id != victim]
        return found

    scene.platform.get_instance = get_instance  # type: ignore[method-assign]
    scene.platform.list_instances = list_instances  # type: ignore[method-assign]
    assert "must last before it counts" in engine.advance(ticket).message
    scene.clock.advance(timedelta(seconds=10))
    engine.advance(ticket)
    assert victim in scene.living(), "its end had only been believed, not asked for"
    assert scene.drive(engine, ticket).state == "done"
    assert victim not in scene.living()


def test_a_balancer_that_drains_in_turns_is_told_until_nothing_is_open(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = stage(drain={"limit": "10m", "policy": "fail"})
    monkeypatch.setattr(type(scene.balancer), "drains_in_turns", True)
    engine, ticket = reach(scene, Step.DRAIN)
    old = old_machine(scene)["name"]
    scene.balancer.set_connections(old, 2)
    drive_for = scene.clock.now() + timedelta(minutes=1)
    scene.drive(engine, ticket, until=lambda progress: scene.clock.now() >= drive_for)
    turns = [call.at for call in scene.balancer.calls("drain") if call.subject == old]
    assert len(turns) >= 3
    assert min(later - earlier for earlier, later in itertools.pairwise(turns[1:])) >= 10
    scene.balancer.set_connections(old, 0)
    scene.drive(engine, ticket)
    assert old not in scene.serving()
    scene.check_journals()


def test_a_balancer_that_drains_at_once_is_told_once(stage: Stage) -> None:
    scene = stage(drain={"limit": "10m", "policy": "fail"})
    engine, ticket = reach(scene, Step.DRAIN)
    old = old_machine(scene)["name"]
    scene.balancer.set_connections(old, 2)
    drive_for = scene.clock.now() + timedelta(minutes=1)
    scene.drive(engine, ticket, until=lambda progress: scene.clock.now() >= drive_for)
    assert [call.subject for call in scene.balancer.calls("drain")] == [old]
