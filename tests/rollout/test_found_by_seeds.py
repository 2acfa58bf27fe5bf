"""What seeds of the simulator have found in the engine, each as the shortest scene that shows it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from phoenix_fleet.catalog.records import RolloutState
from phoenix_fleet.domain.errors import StepFailed
from phoenix_fleet.domain.models import Backend, InstanceState
from phoenix_fleet.gates import fake as fake_gate
from tests.rollout.scene import NEW, OLD, START, Scene, no_connections

Stage = Callable[..., Scene]


def test_an_extra_machine_launched_by_hand_does_not_take_the_room_for_good(stage: Stage) -> None:
    """It stands in the last slot, so no other slot's new instance has room before that one's turn has come."""
    scene = stage(max_surge="1", max_unavailable="0")
    scene.seed("web-03", NEW, attempt=9)
    rollout = scene.open()
    assert [each.slot for each in scene.catalog.rollouts.slots(rollout.id)] == ["web-03", "web-01", "web-02"]
    assert scene.run(rollout).state is RolloutState.DONE
    scene.check_at_rest()


def test_a_balancer_that_lags_is_not_asked_every_second_and_loses_nobody_in_service(stage: Stage) -> None:
    """Reads show the new instance as absent although it serves: it is drained all the same before it goes."""
    scene = stage(size=2, timeouts={"admit": "2m"})
    rollout = scene.open()
    scene.balancer.lag(300)
    with pytest.raises(StepFailed, match="admit failed"):
        scene.run(rollout)
    new = next(
        call.subject for call in scene.balancer.calls("admit") if call.at > scene.platform.calls("launch")[-1].at
    )
    made = [(call.method, call.subject) for call in scene.balancer.calls() if call.subject == new]
    assert 2 <= made.count(("admit", new)) <= 6, "at the start, and every half minute"
    assert made.index(("drain", new)) < made.index(("remove", new))
    assert new not in scene.balancer.servers()
    assert scene.versions() == {slot: [str(OLD)] for slot in scene.fleet.slots}


def test_what_was_told_to_terminate_is_never_adopted_however_old_the_reads_are(stage: Stage) -> None:
    """Reads still show the failed new instance in service when a person resumes at once; the old one must not go."""
    scene = stage(size=2)
    rollout = scene.open()
    scene.watch = fake_gate.Driver(fake_gate.Settings(verdict="failed"), no_connections, scene.folder)
    with pytest.raises(StepFailed, match="watch failed"):
        scene.run(rollout)
    failed = next(call.subject for call in reversed(scene.platform.calls("terminate")))
    in_the_watch = START + timedelta(seconds=10)
    for lagging in (scene.platform, scene.balancer):
        lagging.lag((scene.clock.now() - in_the_watch).total_seconds())
    (shown,) = [each for each in scene.platform.list_instances("web") if each.id == failed]
    assert scene.balancer.state(shown).state is Backend.HEALTHY
    scene.catalog.rollouts.resume("web", actor="ann", reason="looks well")
    engine = scene.engine(rollout)
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket is not None
    progress = engine.advance(ticket)
    slot = scene.catalog.rollouts.slot(rollout.id, ticket.seq)
    assert (slot.new_instance, progress.message) == ("", "outdated: 2026.10-1")


def test_a_left_over_that_the_floor_holds_waits_for_the_empty_slots(stage: Stage) -> None:
    """Its new instance stands beside it, but with a slot empty the fleet is too small for it to go."""
    scene = stage(max_surge="1", max_unavailable="0")
    scene.seed("web-03", NEW, attempt=9)
    (gone,) = [key for key, each in scene.living().items() if each["slot"] == "web-01"]
    scene.platform.set_state(gone, InstanceState.GONE)
    rollout = scene.open()
    assert [each.slot for each in scene.catalog.rollouts.slots(rollout.id)] == ["web-01", "web-03", "web-02"]
    assert scene.run(rollout).state is RolloutState.DONE


def test_what_a_cancelled_rollout_left_goes_first(stage: Stage) -> None:
    """Its slot is not the next in order, and what stands there takes the room of whoever is."""
    scene = stage(max_surge="1", max_unavailable="0")
    scene.seed("web-03", NEW, attempt=9, admit=False)
    rollout = scene.open()
    assert [each.slot for each in scene.catalog.rollouts.slots(rollout.id)] == ["web-03", "web-01", "web-02"]
    assert scene.run(rollout).state is RolloutState.DONE
    scene.check_at_rest()


def test_a_left_over_that_turns_up_later_makes_room_too(stage: Stage) -> None:
    """It is launched by hand in the last slot while the first is being replaced."""
    scene = stage(max_surge="1", max_unavailable="0")
    rollout = scene.open()
    assert scene.replace_next(rollout)
    left_over = scene.seed("web-03", NEW, attempt=9, admit=False)
    assert scene.replace_next(rollout)
    assert left_over in [call.subject for call in scene.platform.calls("terminate")]
    assert scene.run(rollout).state is RolloutState.DONE
    scene.check_at_rest()


def test_of_two_in_service_in_one_slot_one_makes_room(stage: Stage) -> None:
    """Somebody retagged instances: one slot is empty, others have two, and more serve than there should be."""
    scene = stage(max_surge="1", max_unavailable="0")
    scene.seed("web-03", OLD, attempt=9)
    (gone,) = [key for key, each in scene.living().items() if each["slot"] == "web-01"]
    scene.platform.set_state(gone, InstanceState.GONE)
    scene.seed("web-02", OLD, attempt=9)
    rollout = scene.open()
    assert scene.run(rollout).state is RolloutState.DONE
    assert scene.versions() == {slot: [str(NEW)] for slot in scene.fleet.slots}


def test_what_is_out_of_service_for_long_goes_before_its_successor_where_nothing_else_makes_room(stage: Stage) -> None:
    """One slot has its new instance beside the old one, which the floor holds as long as another slot is idle."""
    scene = stage(max_surge="1", max_unavailable="0")
    scene.seed("web-03", NEW, attempt=9)
    (idle,) = [each for each in scene.platform.list_instances("web") if each.slot == "web-02"]
    scene.balancer.set_health(idle.name, False)
    rollout = scene.open()
    assert [each.slot for each in scene.catalog.rollouts.slots(rollout.id)] == ["web-02", "web-03", "web-01"]
    assert scene.run(rollout).state is RolloutState.DONE
    made = [(call.method, call.subject) for call in scene.platform.calls() if call.method in ("launch", "terminate")]
    assert made.index(("terminate", idle.id)) < [method for method, _ in made].index("launch", 4)
    scene.check_at_rest()


def test_what_somebody_gave_to_another_fleet_is_not_touched_any_more(stage: Stage) -> None:
    """The new instance is retagged in its watch time: the replacement fails, and its clean-up leaves it alone."""
    scene = stage(size=1, timeouts={"admit": "1m"})
    rollout = scene.open()
    engine = scene.engine(rollout)
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket is not None
    scene.drive(engine, ticket, until=lambda progress: progress.state == "moved" and str(progress.step) == "admit")
    new = scene.catalog.rollouts.slot(rollout.id, ticket.seq).new_instance
    scene.platform.retag(new, fleet="lab")
    with pytest.raises(StepFailed, match="belongs to lab, not web"):
        scene.drive(engine, ticket)
    assert new not in [call.subject for call in scene.platform.calls("terminate")]
