"""Fleets of workloads: the engine tells each its image, watches, and goes back; their platform does the rolling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet.catalog.records import Errand, RolloutKind, RolloutState, SlotState
from phoenix_fleet.domain.errors import Fenced, Halted, InvalidConfig, InvalidSpec, NotOurs, StepFailed, Unavailable
from phoenix_fleet.domain.models import Backend, InstanceState
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.rollout.planning import draw_plan, rehearse
from tests.rollout.scene import LEASE, NEW, OLD
from tests.rollout.workloads import WorkloadScene, image_of

Stage = Callable[..., WorkloadScene]


@pytest.fixture
def workloads(folder: Path) -> Iterator[Stage]:
    """Makes scenes of the workloads with those names."""
    made: list[WorkloadScene] = []

    def make(*names: str, **changes: Any) -> WorkloadScene:
        made.append(WorkloadScene(folder / f"scene-{len(made)}", *names, **changes))
        return made[-1].prepare()

    yield make
    for scene in made:
        scene.catalog.close()


def halted(scene: WorkloadScene, rollout: Any) -> str:
    """Run it into its failure; nothing more is touched by whoever comes next."""
    with pytest.raises(StepFailed) as caught:
        scene.run(rollout)
    assert scene.state(rollout) is RolloutState.HALTED
    with pytest.raises(Halted):
        scene.catalog.rollouts.claim(rollout.id, 0, scene.holder(), lease=LEASE, max_in_flight=1)
    scene.check_record()
    return str(caught.value)


def starts(scene: WorkloadScene) -> list[str]:
    """The workloads that were started, in order, by the image that they have now."""
    began = {each["current"]["token"]: name for name, each in scene.workload.workloads().items()}
    return [began[call.subject] for call in scene.workload.calls("start")]


def test_one_after_another_in_the_order_of_the_file(workloads: Stage) -> None:
    scene = workloads("b/shop", "a/shop", "a/till")
    assert scene.run(scene.open()).state is RolloutState.DONE
    scene.check_workloads()
    assert starts(scene) == ["b/shop", "a/shop", "a/till"]


def test_the_next_begins_when_the_one_before_is_complete_watched_and_settled(workloads: Stage) -> None:
    scene = workloads("one", "two")
    open_when_started: list[list[str]] = []

    def look(position: str, method: str, subject: str) -> None:
        if (position, method) == ("before", "start"):
            open_when_started.append(scene.open_ends())

    scene.on_call = look
    began = scene.clock.now()
    scene.run(scene.open())
    assert open_when_started == [[], []]
    assert (scene.clock.now() - began).total_seconds() >= 2 * (20 + 10)


def test_what_is_up_to_date_is_left_alone(workloads: Stage) -> None:
    scene = workloads("one", "two")
    scene.run(scene.open())
    plan = draw_plan(scene.deps(), scene.fleet, scene.catalog.images.get("base", NEW))
    assert not plan.slots
    assert [slot for slot, _ in plan.up_to_date] == ["web-01", "web-02"]


def test_a_roll_that_fails_is_undone_and_the_next_is_never_touched(workloads: Stage) -> None:
    scene = workloads("east/shop", "west/shop")
    scene.workload.fail_roll("east/shop", "CrashLoopBackOff: back-off restarting failed container")
    told = halted(scene, scene.open())
    assert "web-01" in told
    assert "CrashLoopBackOff" in told
    assert scene.images() == dict.fromkeys(scene.names, image_of(OLD))
    assert not scene.open_ends()
    assert len(scene.workload.calls("start")) == 1


def test_a_roll_that_takes_too_long_is_undone(workloads: Stage) -> None:
    scene = workloads("one", roll_seconds=90, timeouts={"ready": "1m", "terminate": "10m"})
    assert "not done after" in halted(scene, scene.open())
    assert scene.images() == {"one": image_of(OLD)}
    assert not scene.open_ends()


@pytest.mark.parametrize("gate", ["verify", "watch"])
def test_a_gate_that_fails_undoes_even_the_only_workload(workloads: Stage, gate: str) -> None:
    scene = workloads("one")
    getattr(scene, gate).next = ["failed"]
    halted(scene, scene.open())
    assert scene.images() == {"one": image_of(OLD)}
    assert not scene.open_ends()


def test_a_watch_is_compared_with_other_workloads_and_not_with_what_was_rolled_over(
    workloads: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = workloads("one", "two")
    monkeypatch.setattr(type(scene.watch), "watches", True)
    scene.run(scene.open())
    seen = [[each["name"][:6] for each in call.facts["beside"]] for call in scene.watch.calls]
    assert {tuple(each) for each in seen} == {("web-02",), ()}


def test_replicas_that_fall_ill_in_the_watch_time_undo_it(workloads: Stage) -> None:
    scene = workloads("one", "two", watch_time="60s")
    rollout = scene.open()
    engine = scene.engine(rollout)
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket is not None
    scene.drive(engine, ticket, until=lambda seen: seen.step is Step.WATCH)
    scene.workload.set_available("one", 2)
    with pytest.raises(StepFailed, match="unhealthy at the balancer"):
        scene.drive(engine, ticket)
    assert scene.images() == dict.fromkeys(scene.names, image_of(OLD))


def test_after_a_resume_it_goes_on_with_another_attempt(workloads: Stage) -> None:
    scene = workloads("one", "two")
    scene.workload.fail_roll("one", "ImagePullBackOff")
    rollout = scene.open()
    halted(scene, rollout)
    scene.catalog.rollouts.resume("web", actor="alice", reason="the registry is back")
    assert scene.run(rollout).state is RolloutState.DONE
    scene.check_workloads()
    assert len({call.subject for call in scene.workload.calls("start")}) == 3


def test_a_cancelled_rollout_leaves_a_way_back_which_the_next_one_takes(workloads: Stage) -> None:
    scene = workloads("one", "two")
    rollout = scene.open()
    engine = scene.engine(rollout)
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket is not None
    scene.drive(engine, ticket, until=lambda seen: seen.step is Step.READY)
    scene.catalog.rollouts.cancel("web", actor="alice", reason="not today")
    with pytest.raises(Fenced):
        engine.advance(ticket)
    assert scene.open_ends() == ["one"]
    assert scene.run(scene.open("run-2")).state is RolloutState.DONE
    scene.check_workloads()


def test_a_rollback_brings_the_release_before_to_what_was_reached(workloads: Stage) -> None:
    scene = workloads("one", "two", "three", waves=["67%", "100%"])
    rollout = scene.open()
    scene.replace_next(rollout)
    found = scene.catalog.lifecycle.roll_back("web", actor="alice", reason="it drops sessions")
    errand = Errand(RolloutKind.ROLLBACK, undoes=found.undoes, undone=found.undone)
    back = scene.open("back", found.version, only=found.slots, errand=errand)
    assert scene.run(back).state is RolloutState.DONE
    scene.check_workloads(OLD)
    assert [each.slot for each in scene.catalog.rollouts.slots(back.id)] == ["web-01"]


def die_once(scene: Any, rollout: Any, position: str, method: str) -> None:
    """Let the holder die at its first call of that kind, and its lease run out."""
    died: list[str] = []

    def die(where: str, called: str, subject: str) -> None:
        if (where, called) == (position, method) and not died:
            died.append(subject)
            raise KeyboardInterrupt

    scene.on_call = die
    with pytest.raises(KeyboardInterrupt):
        scene.run(rollout)
    scene.clock.advance(2 * LEASE)


@pytest.mark.parametrize("method", ["start", "settle"])
@pytest.mark.parametrize("position", ["before", "after"])
def test_dying_at_a_call_is_harmless(workloads: Stage, method: str, position: str) -> None:
    scene = workloads("one", "two")
    rollout = scene.open()
    die_once(scene, rollout, position, method)
    assert scene.run(rollout).state is RolloutState.DONE
    scene.check_workloads()
    assert len({call.subject for call in scene.workload.calls("start")}) == 2


@pytest.mark.parametrize("position", ["before", "after"])
def test_dying_while_undoing_is_harmless(workloads: Stage, position: str) -> None:
    scene = workloads("one", "two")
    scene.workload.fail_roll("one", "ImagePullBackOff")
    rollout = scene.open()
    die_once(scene, rollout, position, "undo")
    halted(scene, rollout)
    assert scene.images() == dict.fromkeys(scene.names, image_of(OLD))
    assert not scene.open_ends()


@pytest.mark.parametrize("method", ["start", "undo", "settle", "progress", "list_workloads"])
def test_a_lost_reply_changes_nothing(workloads: Stage, method: str) -> None:
    scene = workloads("one", "two")
    if method == "undo":
        scene.workload.fail_roll("one", "ImagePullBackOff")
    rollout = scene.open()
    scene.workload.lose_reply(method)
    if method == "undo":
        halted(scene, rollout)
        assert scene.images() == dict.fromkeys(scene.names, image_of(OLD))
    else:
        scene.run(rollout)
        scene.check_workloads()
        assert len({call.subject for call in scene.workload.calls("start")}) == 2


def test_a_platform_that_is_away_for_a_while_only_delays(workloads: Stage) -> None:
    scene = workloads("one", "two")
    rollout = scene.open()
    for _ in range(20):
        scene.workload.fail_next("list_workloads", Unavailable("the API server is away."))
    assert scene.run(rollout).state is RolloutState.DONE
    scene.check_workloads()


def test_an_image_that_somebody_sets_meanwhile_is_nobody_elses_to_undo(workloads: Stage) -> None:
    scene = workloads("one", "two")
    rollout = scene.open()
    engine = scene.engine(rollout)
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket is not None
    scene.drive(engine, ticket, until=lambda seen: seen.step is Step.WATCH)
    by_hand = "registry/base@sha256:" + 64 * "f"
    scene.workload.set_image("one", by_hand)
    with pytest.raises(StepFailed):
        scene.drive(engine, ticket)
    assert scene.images()["one"] == by_hand
    assert scene.images()["two"] == image_of(OLD)


def test_a_rehearsal_touches_nothing(workloads: Stage) -> None:
    scene = workloads("one", "two")
    image = scene.catalog.images.get("base", NEW)
    before = scene.workload.workloads()
    assert rehearse(scene.deps(), scene.fleet, image, draw_plan(scene.deps(), scene.fleet, image)) == 2
    assert scene.workload.workloads() == before
    assert [call.method for call in scene.workload.calls()].count("start") == 0


def test_what_would_be_refused_is_known_before_anything_changes(workloads: Stage) -> None:
    scene = workloads("one", "two")
    image = scene.catalog.images.get("base", NEW)
    plan = draw_plan(scene.deps(), scene.fleet, image)
    scene.workload.fail_next("rehearse", InvalidSpec("may not patch deployments in shop.", remedy="Apply rbac.yaml."))
    with pytest.raises(InvalidSpec, match=r"web-01 of web: may not patch .* Remedy: Apply rbac\.yaml"):
        rehearse(scene.deps(), scene.fleet, image, plan)


def test_more_or_fewer_workloads_than_the_file_says_are_refused(workloads: Stage) -> None:
    scene = workloads("one", "two")
    scene.revisions.size = 3
    with pytest.raises(InvalidConfig, match="selects 2 workloads, and size is 3"):
        scene.revisions.list_instances("web")


def test_what_is_not_marked_as_ours_is_not_touched(workloads: Stage) -> None:
    scene = workloads("one", "two")
    rollout = scene.open()
    scene.workload.retag("two", owner="somebody")
    with pytest.raises(NotOurs):
        scene.revisions.list_instances("web")
    with pytest.raises((StepFailed, NotOurs)):
        scene.run(rollout)
    assert scene.images() == dict.fromkeys(scene.names, image_of(OLD))


class TestTheEnginesView:
    """What stands for an instance at each moment of a roll."""

    def seen(self, scene: WorkloadScene) -> list[tuple[str, InstanceState, Backend]]:
        return [
            (each.version, each.state, scene.revisions.status(each).state)
            for each in scene.revisions.list_instances("web")
        ]

    def test_of_a_roll_that_is_settled(self, workloads: Stage) -> None:
        scene = workloads("one")
        rollout = scene.open()
        engine = scene.engine(rollout)
        ticket = scene.claim(engine, 0, scene.holder())
        assert ticket is not None
        old, new = str(OLD), str(NEW)
        running, healthy = InstanceState.RUNNING, Backend.HEALTHY
        assert self.seen(scene) == [(old, running, healthy)]
        scene.drive(engine, ticket, until=lambda seen: seen.step is Step.READY)
        assert self.seen(scene) == [(old, running, healthy), (new, InstanceState.STARTING, Backend.STARTING)]
        scene.drive(engine, ticket, until=lambda seen: seen.step is Step.WATCH)
        assert self.seen(scene) == [(old, running, healthy), (new, running, healthy)]
        scene.drive(engine, ticket)
        assert self.seen(scene) == [(new, running, healthy)]
        (slot,) = scene.catalog.rollouts.slots(rollout.id)
        assert slot.state is SlotState.DONE
        gone = scene.revisions.get_instance(slot.old_instance)
        assert gone.state is InstanceState.GONE

    def test_of_a_roll_that_is_undone(self, workloads: Stage) -> None:
        scene = workloads("one")
        scene.workload.fail_roll("one", "ImagePullBackOff")
        engine = scene.engine(scene.open())
        ticket = scene.claim(engine, 0, scene.holder())
        assert ticket is not None
        scene.drive(engine, ticket, until=lambda seen: "told to terminate" in seen.message)
        old, new = str(OLD), str(NEW)
        assert self.seen(scene) == [
            (old, InstanceState.RUNNING, Backend.HEALTHY),
            (new, InstanceState.STOPPING, Backend.ABSENT),
        ]
        scene.clock.advance(LEASE / 2)
        assert self.seen(scene) == [(old, InstanceState.RUNNING, Backend.HEALTHY)]

    def test_too_few_replicas_while_it_rolls_are_no_service(self, workloads: Stage) -> None:
        scene = workloads("one")
        engine = scene.engine(scene.open())
        ticket = scene.claim(engine, 0, scene.holder())
        assert ticket is not None
        scene.drive(engine, ticket, until=lambda seen: seen.step is Step.READY)
        scene.workload.set_available("one", 4)
        assert [backend for *_, backend in self.seen(scene)] == [Backend.UNHEALTHY, Backend.STARTING]
