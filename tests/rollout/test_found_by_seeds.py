"""What seeds of the simulator have found in the engine, each as the shortest scene that shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from phoenix_fleet.catalog.records import RolloutState
from phoenix_fleet.domain.errors import StepFailed, Unavailable
from phoenix_fleet.domain.left_over import find_left_over
from phoenix_fleet.domain.models import Backend, BackendStatus, Instance, InstanceState
from phoenix_fleet.domain.planner import view_slot
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.domain.windows import Version
from phoenix_fleet.gates import fake as fake_gate
from tests.rollout.acts import mutations, new_machine, old_machine, reach
from tests.rollout.scene import LEASE, NEW, OLD, START, Scene, no_connections
from tests.unit.domain.fleet_of import ABSENT, NOW, SHAPE, TARGET, machine, seen

Stage = Callable[..., Scene]


def without_sight(scene: Scene, act: Callable[[], object]) -> None:
    """Do that while the platform lists nothing."""

    def fail(position: str, method: str, subject: str) -> None:
        if (position, method) == ("before", "list_instances"):
            raise Unavailable("the platform does not answer.")

    scene.on_call, before = fail, scene.on_call
    try:
        act()
    finally:
        scene.on_call = before


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


def test_what_was_told_to_drain_serves_again_even_if_the_balancers_answer_is_old(stage: Stage) -> None:
    """Seed 2088: a machine dies while the old one is being drained, and reads still call that one healthy."""
    scene = stage(max_surge="1", max_unavailable="0", drain={"limit": "10m", "policy": "fail"})
    engine, ticket = reach(scene, Step.DRAIN)
    old = old_machine(scene)["name"]
    scene.balancer.set_connections(old, 3)
    assert engine.advance(ticket).message == f"{old} gets no new connections"
    scene.platform.set_state(old_machine(scene, "web-02")["id"], InstanceState.GONE)
    truth = scene.front.state

    def stale(instance: Instance) -> BackendStatus:
        return BackendStatus(Backend.HEALTHY, 3) if instance.name == old else truth(instance)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene.front, "state", stale)
        with pytest.raises(StepFailed, match="has to stay"):
            scene.drive(engine, ticket)
    assert [call.method for call in scene.balancer.calls() if call.subject == old][-1] == "admit"


def test_a_launch_that_no_listing_shows_yet_takes_its_room(stage: Stage) -> None:
    """Seed 3190: reads fall back to before the launch, so the failed replacement's machine is not to be seen."""
    scene = stage(max_surge="1", max_unavailable="0", size=1)
    engine, ticket = reach(scene, Step.CONFIGURE)
    scene.platform.lag(300)
    with pytest.raises(StepFailed, match="not to be seen any more"):
        scene.drive(engine, ticket)
    scene.catalog.rollouts.resume("web", actor="alice", reason="looked into it")
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket
    assert engine.advance(ticket).state == "moved"
    progress = engine.advance(ticket)
    assert (progress.state, progress.step) == ("waiting", Step.LAUNCH)
    assert "1 launched a moment ago are not to be seen" in progress.message


def test_one_that_failed_makes_room_for_its_successor(stage: Stage) -> None:
    """Seed 187 of the mid-states: another slot has its new instance beside the old one, and the floor holds both."""
    scene = stage(max_surge="1", max_unavailable="0")
    scene.seed("web-03", NEW, attempt=9)
    failed = old_machine(scene, "web-02")["id"]
    scene.platform.set_state(failed, InstanceState.FAILED)
    scene.balancer.set_health(scene.platform.machines()[failed]["name"], False)
    assert scene.run(scene.open()).state is RolloutState.DONE
    scene.check_at_rest()


def test_of_two_old_ones_in_a_slot_the_last_of_its_zone_is_replaced_in_its_zone() -> None:
    """Seed 2048: the other one may make room, and this one may not."""
    zones = [machine("web-01", zone="a"), machine("web-01", name="moved", zone="b"), machine("web-02", zone="b")]
    assert view_slot(SHAPE, "web-01", TARGET, seen(*zones), NOW).old == zones[0]
    assert view_slot(SHAPE, "web-01", TARGET, seen(zones[1], zones[0], zones[2]), NOW).old == zones[0]


def test_what_is_adopted_is_admitted_whatever_the_balancer_says_of_it(stage: Stage) -> None:
    """Seed 4439: the clean-up before had told it to drain, and reads that lag still called it healthy."""
    scene = stage(max_surge="1", max_unavailable="0")
    adopted = scene.seed("web-01", NEW, attempt=9)
    engine, ticket = reach(scene, Step.ADMIT)
    assert scene.catalog.rollouts.slot(1, ticket.seq).new_instance == adopted
    assert engine.advance(ticket).message.endswith("is admitted")
    assert scene.run(engine.rollout).state is RolloutState.DONE


def test_the_limit_of_a_drain_runs_from_when_it_was_told(stage: Stage) -> None:
    """Seed 4041: for a while no call came through, and then open connections were cut too soon."""
    scene = stage(max_surge="1", max_unavailable="0", drain={"limit": "30s", "policy": "force"})
    engine, ticket = reach(scene, Step.DRAIN)
    old = old_machine(scene)["name"]
    scene.balancer.set_connections(old, 3)
    away = scene.clock.now() + timedelta(seconds=25)

    def meet(position: str, method: str, subject: str) -> None:
        if (position, method) == ("before", "drain") and scene.clock.now() < away:
            raise Unavailable("no route to the balancer")

    scene.on_call = meet
    scene.drive(engine, ticket, until=lambda progress: progress.state == "moved")
    assert scene.clock.now() >= away + timedelta(seconds=30)


def test_what_the_last_of_its_zone_shares_its_slot_with_makes_room() -> None:
    """Seed 4292: nobody may take out the last one of a zone, and what lay idle beside it kept the room for good."""
    shape = replace(SHAPE, max_surge=0, max_unavailable=1)
    last, idle = machine("web-01", zone="a"), machine("web-01", name="moved", zone="b")
    look = seen(last, idle, machine("web-02", zone="b"), moved=ABSENT)
    assert view_slot(shape, "web-01", TARGET, look, NOW).refused.startswith("outdated")
    assert find_left_over(shape, TARGET, look, NOW, spared=()) == idle


def test_what_a_cancelled_rollout_left_unsettled_is_settled_by_the_next(stage: Stage) -> None:
    """Seed 4524: its holder had died in the middle of the call."""
    scene = stage(size=2)
    engine, ticket = reach(scene, Step.LAUNCH)
    intents, purpose = scene.catalog.intents, engine.rollout.purpose
    elsewhere = intents.begin("launch", "other", {"fleet": "other"}, ticket=None, purpose="rollout-9", token="theirs")
    intents.begin("launch", "new", {"name": "new"}, ticket=ticket, purpose=purpose, token="none")
    scene.catalog.rollouts.cancel("web", actor="alice", reason="changed her mind")
    assert scene.run(scene.open("run-2")).state is RolloutState.DONE
    (settled,) = [each for each in intents.list_intents(purpose) if each.token == "none"]
    assert (settled.outcome, settled.result) == ("unknown", {"seen_later": "no such instance is to be seen"})
    assert elsewhere in intents.pending(), "another fleet's is another fleet's business"


def test_what_is_gone_stays_at_the_balancer_while_too_much_is_out_of_service(stage: Stage) -> None:
    """Seed 5212: somebody terminates the old one in the middle of a meltdown, and nothing at all is touched then."""
    scene = stage(size=3)
    engine, ticket = reach(scene, Step.DRAIN)
    old = old_machine(scene)
    scene.platform.set_state(old["id"], InstanceState.GONE)
    for each in scene.living().values():
        scene.balancer.set_health(each["name"], False)
    with pytest.raises(StepFailed, match="3 of 3 are out of service"):
        scene.drive(engine, ticket)
    assert scene.balancer.calls("remove") == []
    assert old["name"] in scene.balancer.servers()


def test_what_drains_is_not_taken_away_while_the_floor_is_broken(stage: Stage) -> None:
    """Seed 5217: a cancelled rollout had told it to drain, and before the next one another machine died."""
    scene = stage(size=3, max_surge="1", max_unavailable="0")
    engine, ticket = reach(scene, Step.DRAIN)
    drained, died = old_machine(scene, "web-01"), old_machine(scene, "web-02")
    scene.balancer.set_connections(drained["name"], 3)
    scene.drive(engine, ticket, until=lambda progress: drained["name"] not in scene.serving())
    scene.catalog.rollouts.cancel("web", actor="alice", reason="a newer one is out")
    scene.platform.set_state(died["id"], InstanceState.GONE)
    scene.balancer.set_connections(drained["name"], 0)
    newer, before = scene.release(Version.parse("2026.11-2")).version, len(scene.platform.calls("launch"))
    assert scene.run(scene.open("run-2", newer)).state is RolloutState.DONE
    in_its_place = scene.platform.calls("launch")[before]
    taken = [*scene.balancer.calls("remove"), *scene.platform.calls("terminate")]
    assert in_its_place.at < min(each.at for each in taken if each.subject in (drained["id"], drained["name"]))
    assert scene.versions() == {slot: [str(newer)] for slot in scene.fleet.slots}


@pytest.mark.parametrize("method", ["launch", "admit", "drain", "remove", "terminate"])
def test_of_a_call_whose_caller_was_killed_the_outcome_is_known_in_the_end(stage: Stage, method: str) -> None:
    """Found by the campaign on real processes: the call was made, and the kill came before that was written down."""
    scene = stage(size=2)
    rollout, killed = scene.open(), []

    def kill(position: str, made: str, subject: str) -> None:
        if (
            (position, made) == ("after", method)
            and rollout.purpose in str(scene.catalog.intents.pending())
            and not killed
        ):
            killed.append(subject)
            raise KeyboardInterrupt

    scene.on_call = kill
    with pytest.raises(KeyboardInterrupt):
        scene.run(rollout)
    assert [each.outcome for each in scene.catalog.intents.pending()] == [None]
    scene.clock.advance(2 * LEASE)
    assert scene.run(rollout).state is RolloutState.DONE
    assert scene.catalog.intents.pending() == []


def test_what_drains_goes_where_only_its_own_slot_can_make_up_for_it(stage: Stage) -> None:
    """Seed 34 of the mid-states: what serves beside it fell sick, and all others serve."""
    scene = stage(size=3, max_surge="1", max_unavailable="0")
    engine, ticket = reach(scene, Step.DRAIN)
    drained = old_machine(scene, "web-01")
    scene.balancer.set_connections(drained["name"], 3)
    scene.drive(engine, ticket, until=lambda progress: drained["name"] not in scene.serving())
    scene.catalog.rollouts.cancel("web", actor="alice", reason="a newer one is out")
    scene.balancer.set_connections(drained["name"], 0)
    (sick,) = [each for each in scene.living().values() if each["version"] == str(NEW)]
    scene.balancer.set_health(sick["name"], False)
    newer = scene.release(Version.parse("2026.11-2")).version
    assert scene.run(scene.open("run-2", newer)).state is RolloutState.DONE
    scene.check_at_rest(newer)


def test_an_old_one_that_an_earlier_attempt_told_to_drain_stays_while_the_floor_is_broken(stage: Stage) -> None:
    """Seed 10384: nothing was to be seen for so long that it could not be brought back, and others died meanwhile."""
    scene = stage(size=3, max_surge="1", max_unavailable="0")
    engine, ticket = reach(scene, Step.DRAIN)
    drained, died, new = old_machine(scene, "web-01"), old_machine(scene, "web-02"), new_machine(scene)
    scene.balancer.set_connections(drained["name"], 3)
    scene.drive(engine, ticket, until=lambda progress: drained["name"] not in scene.serving())
    with pytest.raises(StepFailed, match="our own view is broken"):
        without_sight(scene, lambda: scene.drive(engine, ticket))
    for each in (new, died):
        scene.platform.set_state(each["id"], InstanceState.GONE)
    scene.balancer.set_connections(drained["name"], 0)
    scene.catalog.rollouts.resume("web", actor="alice", reason="it is to be seen again")
    before = len(scene.platform.calls("launch"))
    assert scene.run(engine.rollout).state is RolloutState.DONE
    # One in its own place, and one in that of the dead one, before it goes.
    launched = scene.platform.calls("launch")[before:]
    taken = [*scene.balancer.calls("remove"), *scene.platform.calls("terminate")]
    gone = min(each.at for each in taken if each.subject in (drained["id"], drained["name"]))
    assert sum(each.at < gone for each in launched) == 2
    assert scene.versions() == {slot: [str(NEW)] for slot in scene.fleet.slots}
    assert len(scene.serving()) == scene.fleet.size


def test_an_old_one_that_died_by_itself_counts_in_a_meltdown_although_its_slot_is_in_hand(stage: Stage) -> None:
    """Seed 10470: without surge a slot in hand is meant to be dark, but only where we made it so."""
    scene = stage(size=3, max_surge="0", max_unavailable="1")
    engine, ticket = reach(scene, Step.DRAIN)
    old = old_machine(scene, ticket.slot)
    for each in scene.living().values():
        scene.platform.set_state(each["id"], InstanceState.GONE if each["id"] == old["id"] else InstanceState.FAILED)
        scene.balancer.set_health(each["name"], False)
    with pytest.raises(StepFailed, match="3 of 3 are out of service"):
        scene.drive(engine, ticket)
    assert mutations(scene) == len(scene.fleet.slots) * 2, "those that made the fleet"


def test_an_old_one_that_did_not_serve_when_it_was_told_to_drain_counts_in_a_meltdown(stage: Stage) -> None:
    """Seed 14092: a drain does not make it our doing that its slot was dark before."""
    scene = stage(size=3, max_surge="0", max_unavailable="1")
    sick = next(each for each in scene.living().values() if each["slot"] == "web-03")
    scene.balancer.set_health(sick["name"], False)
    engine, ticket = reach(scene, Step.LAUNCH)
    assert ticket.slot == "web-03"
    for each in scene.living().values():
        scene.platform.set_state(each["id"], InstanceState.FAILED)
        scene.balancer.set_health(each["name"], False)
    with pytest.raises(StepFailed, match="3 of 3 are out of service"):
        scene.drive(engine, ticket)
    assert len(scene.platform.calls("launch")) == len(scene.fleet.slots), "those that made the fleet"


@pytest.mark.parametrize("step", [Step.WATCH, Step.DRAIN])
def test_what_only_the_next_holders_clock_has_seen_pass_counts_for_nothing(stage: Stage, step: Step) -> None:
    """Seed 13462: its clock was ahead, so that it took over at once, and what had just begun seemed to be over."""
    scene = stage(watch_time="30s", drain={"limit": "30s", "policy": "force"})
    engine, first = reach(scene, step)
    scene.balancer.set_connections(old_machine(scene)["name"], 3)
    began = scene.clock.now()
    scene.clock.advance(engine.advance(first).check_after)
    scene.watch_on_the_wall.off = LEASE
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket
    assert ticket.slot == first.slot
    scene.drive(engine, ticket, until=lambda progress: progress.state == "moved")
    assert timedelta(seconds=30) <= scene.clock.now() - began <= timedelta(minutes=1)


def test_a_left_over_that_was_told_to_drain_stays_while_the_floor_is_broken(stage: Stage) -> None:
    """Seed 13708: between its drain and the next call another machine died."""
    scene = stage(max_surge="1", max_unavailable="0")
    scene.seed("web-03", OLD, attempt=9)
    engine, ticket = reach(scene, Step.LAUNCH)
    died = next(each for each in ("web-01", "web-02") if each != ticket.slot)
    there = {each["name"]: key for key, each in scene.living().items() if each["slot"] == "web-03"}
    for name in there:
        scene.balancer.set_connections(name, 3)
    scene.drive(engine, ticket, until=lambda progress: "connections are open" in progress.message)
    (drained,) = set(there) - set(scene.serving())
    scene.platform.set_state(old_machine(scene, died)["id"], InstanceState.GONE)
    for name in there:
        scene.balancer.set_connections(name, 0)
    before = len(scene.platform.calls("launch"))
    scene.drive(engine, ticket)
    assert scene.run(engine.rollout).state is RolloutState.DONE
    makes_up_for_it = scene.platform.calls("launch")[before]
    taken = [*scene.balancer.calls("remove"), *scene.platform.calls("terminate")]
    assert makes_up_for_it.at < min(each.at for each in taken if each.subject in (drained, there[drained]))
    assert scene.versions() == {slot: [str(NEW)] for slot in scene.fleet.slots}
    assert len(scene.serving()) == scene.fleet.size
