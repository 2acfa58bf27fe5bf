"""Rolling back, getting away from a revoked release, the queue, and one slot by order: stories and their invariants."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from phoenix_fleet.catalog.records import Errand, RolloutKind, RolloutRecord, RolloutState
from phoenix_fleet.domain import errors
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.domain.windows import Version
from phoenix_fleet.rollout.planning import draw_plan, slots_on
from tests.rollout.acts import reach
from tests.rollout.scene import NEW, OLD, Scene
from tests.rollout.test_golden import fails, tell

Stage = Callable[..., Scene]
NEWER = Version.parse("2026.11-2")
QUICK = {
    "size": 2,
    "platform": {"boot_reads": 0, "boot_seconds": 1, "stop_reads": 0, "stop_seconds": 1},
    "balancer": {"start_reads": 0, "start_seconds": 1},
    "watch_time": "1s",
}


def emergency(scene: Scene, version: Version) -> RolloutRecord:
    """The rollout away from NEW, which is revoked, over the slots that run it."""
    errand = Errand(RolloutKind.EMERGENCY, undone=NEW, deadline_in=scene.fleet.emergency_deadline)
    return scene.open("emergency", version, only=slots_on(scene.deps(), scene.fleet, NEW), errand=errand)


def test_rolling_back_a_rollout_that_failed(stage: Stage) -> None:
    scene = stage()
    rollout = scene.open()
    scene.watch.next = ["passed", "failed"]
    fails(scene, rollout)
    untouched = {m["id"] for m in scene.living().values() if m["slot"] in ("web-02", "web-03")}
    back = scene.roll_back()
    assert (back.kind, back.undoes, back.undone, back.version) == ("rollback", rollout.id, NEW, OLD)
    assert scene.state(rollout) is RolloutState.SUPERSEDED
    assert scene.run(back).state is RolloutState.DONE
    scene.check_at_rest(OLD)
    assert untouched <= set(scene.living()), "only what was replaced goes back"
    assert scene.catalog.blocks.newest_good("web", "base").version == OLD  # type: ignore[union-attr]
    with pytest.raises(errors.Refused, match=r"base 2026.11-1 is blocked for web by alice"):
        scene.open("run-2")
    scene.catalog.blocks.lift("web", "base", NEW, actor="bob", reason="it was the network")
    scene.story.append(f"{scene.at()} bob lifts the block")
    assert scene.run(scene.open("run-3")).state is RolloutState.DONE
    scene.check_at_rest(NEW)
    tell(scene, "rollback")


@pytest.mark.parametrize("budget", [("1", "0"), ("0", "1")], ids=["surge", "no-surge"])
@pytest.mark.parametrize("step", list(Step)[1:])
def test_rolling_back_undoes_a_replacement_at_any_step(stage: Stage, step: Step, budget: tuple[str, str]) -> None:
    scene = stage(**QUICK, max_surge=budget[0], max_unavailable=budget[1])
    engine, ticket = reach(scene, step)
    back = scene.roll_back()
    with pytest.raises(errors.Fenced):
        engine.advance(ticket)
    assert [each.slot for each in scene.catalog.rollouts.slots(back.id)] in ([], ["web-01"])
    standing = {key for key, m in scene.living().items() if m["version"] == str(OLD)}
    assert scene.run(back).state is RolloutState.DONE
    scene.check_at_rest(OLD)
    assert standing <= set(scene.living()), "a machine of the release that it goes back to was removed"


def test_a_rolled_back_rollout_cannot_be_resumed(stage: Stage) -> None:
    scene = stage(**QUICK)
    engine, _ = reach(scene, Step.ADMIT)
    found = scene.catalog.lifecycle.roll_back("web", actor="alice", reason="bad")
    assert scene.state(engine.rollout) is RolloutState.HALTED
    with pytest.raises(errors.Refused, match="blocked for web by alice"):
        scene.catalog.rollouts.resume("web", actor="bob", reason="go on")
    with pytest.raises(errors.Halted):
        scene.open("run-2", OLD)
    assert scene.catalog.lifecycle.roll_back("web", actor="alice", reason="bad") == found


def test_a_rollback_needs_a_release_that_is_good_still(stage: Stage) -> None:
    scene = stage(**QUICK)
    reach(scene, Step.ADMIT)
    scene.catalog.images.move("base", OLD, Rung.REVOKED, actor="carol", reason="CVE-2026-1")
    with pytest.raises(errors.Refused, match=r"no good release before 2026.11-1"):
        scene.catalog.lifecycle.roll_back("web", actor="alice", reason="bad")
    with pytest.raises(errors.Refused, match=r"cannot go back to base 2026.10-1: it is revoked"):
        scene.catalog.lifecycle.roll_back("web", actor="alice", reason="bad", to=OLD)
    assert scene.catalog.blocks.list_blocks("web") == [], "what is refused changes nothing"


def test_nothing_but_what_was_replaced_may_be_rolled_back(stage: Stage) -> None:
    scene = stage(**QUICK)
    reach(scene, Step.ADMIT)
    found = scene.catalog.lifecycle.roll_back("web", actor="alice", reason="bad")
    errand = Errand(RolloutKind.ROLLBACK, undoes=found.undoes, undone=found.undone)
    scene.raised = False  # what a person launches by hand is no call of the engine
    scene.seed("web-02", NEW)
    with pytest.raises(errors.Refused, match="left web-02 alone"):
        scene.open("back", OLD, only=scene.fleet.slots, errand=errand)


def test_the_same_holds_without_the_exception(stage: Stage) -> None:
    """Any other rollout to an older release finds the newer one good: never a downgrade."""
    scene = stage(**QUICK)
    assert scene.run(scene.open()).state is RolloutState.DONE
    plan = draw_plan(scene.deps(), scene.fleet, scene.catalog.images.get("base", OLD))
    assert plan.slots == ()
    assert dict(plan.up_to_date) == dict.fromkeys(scene.fleet.slots, "on newer 2026.11-1")


def test_revocation_starts_an_emergency(stage: Stage) -> None:
    scene = stage()
    rollout = scene.open()
    assert scene.replace_next(rollout)
    image, halted = scene.catalog.lifecycle.revoke("base", NEW, actor="carol", reason="CVE-2026-1")
    scene.story.append(f"{scene.at()} carol revokes {image}; halted: {', '.join(halted)}")
    revoked_at = scene.clock.now()
    assert (image.rung, halted) == (Rung.REVOKED, ["web"])
    with pytest.raises(errors.Halted, match=r"base 2026.11-1 is revoked: CVE-2026-1"):
        scene.replace_next(rollout)
    with pytest.raises(errors.Refused, match="which is revoked"):
        scene.catalog.rollouts.resume("web", actor="bob", reason="go on")
    away = emergency(scene, OLD)
    assert away.deadline == revoked_at + scene.fleet.emergency_deadline
    assert [each.slot for each in scene.catalog.rollouts.slots(away.id)] == ["web-01"]
    assert scene.state(rollout) is RolloutState.SUPERSEDED
    assert scene.run(away).state is RolloutState.DONE
    scene.check_at_rest(OLD)
    tell(scene, "revocation")


def test_an_emergency_goes_to_a_newer_release_if_there_is_one(stage: Stage) -> None:
    scene = stage(**QUICK)
    assert scene.run(scene.open()).state is RolloutState.DONE
    scene.release(NEWER)
    scene.catalog.lifecycle.revoke("base", NEW, actor="carol", reason="CVE-2026-1")
    newest = scene.catalog.blocks.newest_good("web", "base")
    assert newest is not None
    assert scene.run(emergency(scene, newest.version)).state is RolloutState.DONE
    scene.check_at_rest(NEWER)


def test_there_is_no_emergency_without_a_revocation(stage: Stage) -> None:
    scene = stage(**QUICK)
    with pytest.raises(errors.Refused, match="is not revoked, so there is no emergency"):
        emergency(scene, OLD)


def test_a_slot_by_order_is_replaced_although_it_is_up_to_date(stage: Stage) -> None:
    scene = stage(**QUICK)
    before = {m["slot"]: key for key, m in scene.living().items()}
    rollout = scene.open(version=OLD, only=["web-02"], errand=Errand(forced=True))
    assert scene.run(rollout).state is RolloutState.DONE
    after = {m["slot"]: key for key, m in scene.living().items()}
    assert after["web-01"] == before["web-01"]
    assert after["web-02"] != before["web-02"]
    scene.check_at_rest(OLD)
    with pytest.raises(errors.InvalidConfig, match="Only named slots can be forced"):
        scene.open("run-2", errand=Errand(forced=True))


def test_an_order_replaces_once_whoever_dies(stage: Stage) -> None:
    """The machine that an order has brought is not what was ordered to go."""
    scene = stage(**QUICK)
    rollout = scene.open(version=OLD, only=["web-02"], errand=Errand(forced=True))
    engine = scene.engine(rollout)
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket is not None
    scene.drive(engine, ticket, until=lambda progress: progress.step is Step.WATCH)
    scene.catalog.rollouts.cancel("web", actor="bob", reason="enough")
    launches = len(scene.platform.calls("launch"))
    assert scene.run(scene.open("run-2", OLD)).state is RolloutState.DONE
    assert len(scene.platform.calls("launch")) == launches


def test_a_newer_release_queues_and_the_newest_wins(stage: Stage) -> None:
    scene = stage(size=2)
    scene.release(NEWER)
    first, queue = scene.open(), scene.catalog.queue

    def asks(run: str, version: Version) -> None:
        place = queue.ask("web", run, version, RolloutKind.REFRESH, whole=True)
        told = f": {place.note}" if place.note else ""
        scene.story.append(f"{scene.at()} {run} asks for its turn with {version}: {place.state}{told}")

    def tries(run: str, version: Version) -> None:
        with pytest.raises(errors.PhoenixError) as refused:
            scene.open(run, version)
        scene.story.append(f"{scene.at()} {run} is told: {refused.value}")

    asks("run-2", NEW)
    tries("run-2", NEW)
    asks("run-3", NEWER)
    asks("run-2", NEW)
    assert scene.replace_next(first)
    scene.catalog.rollouts.halt("web", actor="bob", reason="customers call")
    tries("run-3", NEWER)
    scene.catalog.rollouts.resume("web", actor="bob", reason="false alarm")
    assert scene.run(first).state is RolloutState.DONE
    tries("run-2", NEW)
    assert [each.run for each in queue.waiting("web")] == ["run-3"]
    assert scene.run(scene.open("run-3", NEWER)).state is RolloutState.DONE
    assert queue.waiting("web") == []
    scene.check_at_rest(NEWER)
    tell(scene, "queue")
