"""Whole rollouts as stories. ``PHOENIX_UPDATE_GOLDEN=1 pytest tests/rollout/test_golden.py`` writes them anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from phoenix_fleet.catalog.records import RolloutRecord, RolloutState
from phoenix_fleet.domain.errors import Halted, StepFailed
from phoenix_fleet.domain.models import InstanceState
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.rollout.progress import Progress
from tests.rollout.scene import LEASE, NEW, OLD, Scene

GOLDEN = Path(__file__).parent / "golden"
Stage = Callable[..., Scene]


@pytest.fixture
def stage(stage_anywhere: Stage) -> Stage:
    """On either database."""
    return stage_anywhere


def tell(scene: Scene, name: str) -> None:
    """Hold the story against the one on file."""
    story = "\n".join(line.rstrip() for line in scene.story) + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("PHOENIX_UPDATE_GOLDEN"):
        path.write_text(story, encoding="utf-8")
    assert story == path.read_text(encoding="utf-8")


def old_name(scene: Scene, slot: str) -> str:
    return next(m["name"] for m in scene.living().values() if m["slot"] == slot and m["version"] == str(OLD))


def fails(scene: Scene, rollout: RolloutRecord) -> StepFailed:
    """Run it into its failure; the halt must hold for whoever comes next."""
    with pytest.raises(StepFailed) as caught:
        scene.run(rollout)
    scene.story.append(f"{scene.at()} {caught.value}")
    assert scene.state(rollout) is RolloutState.HALTED
    before = len(scene.platform.calls()) + len(scene.balancer.calls())
    with pytest.raises(Halted) as refused:
        scene.catalog.rollouts.claim(rollout.id, 0, scene.holder(), lease=LEASE, max_in_flight=1)
    scene.story.append(f"{scene.at()} {refused.value}")
    assert len(scene.platform.calls()) + len(scene.balancer.calls()) == before
    scene.check_journals()
    return caught.value


def resumes(scene: Scene, rollout: RolloutRecord) -> None:
    scene.catalog.rollouts.resume("web", actor="alice", reason="looked into it")
    scene.story.append(f"{scene.at()} alice resumes")
    assert scene.run(rollout).state is RolloutState.DONE
    scene.check_at_rest()


def test_canary_then_waves(stage: Stage) -> None:
    scene = stage(size=5, waves=["60%", "100%"])
    assert scene.run(scene.open()).state is RolloutState.DONE
    scene.check_at_rest()
    tell(scene, "canary-then-waves")


def test_no_surge(stage: Stage) -> None:
    scene = stage(size=3, max_surge="0", max_unavailable="1")
    assert scene.run(scene.open()).state is RolloutState.DONE
    scene.check_at_rest()
    tell(scene, "no-surge")


def test_without_a_balancer(stage: Stage) -> None:
    scene = stage(size=2, balanced=False)
    assert scene.run(scene.open()).state is RolloutState.DONE
    scene.check_at_rest()
    tell(scene, "without-a-balancer")


def test_failing_verify_halts_and_resume_finishes(stage: Stage) -> None:
    scene = stage()
    rollout = scene.open()
    scene.verify.next = ["passed", "failed"]
    error = fails(scene, rollout)
    assert "web-02" in str(error)
    assert "verify" in str(error)
    assert "docs/runbooks/rollout-verify-failed.md" in str(error)
    assert scene.versions() == {"web-01": [str(NEW)], "web-02": [str(OLD)], "web-03": [str(OLD)]}
    assert len(scene.serving()) == 3
    resumes(scene, rollout)
    tell(scene, "verify-fails-then-resume")


def test_inconclusive_verify_asks_a_person(stage: Stage) -> None:
    scene = stage()
    rollout = scene.open()
    scene.verify.next = ["inconclusive"]
    assert "inconclusive" in str(fails(scene, rollout))
    resumes(scene, rollout)
    tell(scene, "verify-inconclusive")


def test_sick_in_the_watch_time(stage: Stage) -> None:
    scene = stage()
    rollout = scene.open()
    engine = scene.engine(rollout)
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket is not None
    scene.drive(engine, ticket, until=lambda progress: progress.step is Step.WATCH)
    new = next(m["name"] for m in scene.living().values() if m["version"] == str(NEW))
    scene.balancer.set_health(new, healthy=False)
    with pytest.raises(StepFailed) as caught:
        scene.drive(engine, ticket)
    scene.story.append(f"{scene.at()} {caught.value}")
    assert scene.versions() == {slot: [str(OLD)] for slot in scene.fleet.slots}
    assert len(scene.serving()) == 3
    assert new not in scene.balancer.servers()
    scene.check_journals()
    tell(scene, "sick-in-the-watch-time")


def cut_when_gone(scene: Scene, busy: str, gone: str = "") -> None:
    """The connections of ``busy`` end when that machine (or the other one) is terminated."""
    target = next(key for key, m in scene.living().items() if m["name"] == (gone or busy))

    def cut(position: str, method: str, subject: str) -> None:
        if (position, method, subject) == ("after", "terminate", target):
            scene.balancer.set_connections(busy, 0)

    scene.on_call = cut


@pytest.mark.parametrize("policy", ["fail", "force"])
def test_drain_policy(stage: Stage, policy: str) -> None:
    scene = stage(drain={"limit": "30s", "policy": policy})
    busy = old_name(scene, "web-02")
    scene.balancer.set_connections(busy, 7)
    rollout = scene.open()
    if policy == "force":
        cut_when_gone(scene, busy)
        assert scene.run(rollout).state is RolloutState.DONE
        scene.check_at_rest()
    else:
        assert "7 connections" in str(fails(scene, rollout))
        assert busy in scene.serving(), "the old instance must be back in service"
        assert scene.versions()["web-02"] == [str(OLD)]
        scene.balancer.set_connections(busy, 0)
        resumes(scene, rollout)
    tell(scene, f"drain-policy-{policy}")


def test_drain_policy_later_comes_back_at_the_end(stage: Stage) -> None:
    scene = stage(drain={"limit": "30s", "policy": "later"})
    busy = old_name(scene, "web-02")
    scene.balancer.set_connections(busy, 7)
    rollout = scene.open()
    cut_when_gone(scene, busy, gone=old_name(scene, "web-03"))
    assert scene.run(rollout).state is RolloutState.DONE
    scene.check_at_rest()
    done = [slot.slot for slot in scene.catalog.rollouts.slots(rollout.id)]
    assert done == ["web-01", "web-03", "web-02"]
    tell(scene, "drain-policy-later")


def test_drain_policy_later_halts_the_second_time(stage: Stage) -> None:
    scene = stage(drain={"limit": "30s", "policy": "later"})
    scene.balancer.set_connections(old_name(scene, "web-02"), 7)
    assert "7 connections" in str(fails(scene, scene.open()))
    assert scene.versions() == {"web-01": [str(NEW)], "web-02": [str(OLD)], "web-03": [str(NEW)]}
    tell(scene, "drain-policy-later-twice")


def test_old_instance_that_does_not_go(stage: Stage) -> None:
    scene = stage(timeouts={"terminate": "1m"})
    rollout = scene.open()
    stuck = next(key for key, m in scene.living().items() if m["slot"] == "web-01")
    with scene.platform.world.transaction() as data:
        # This machine goes on stopping, whatever is asked of it.
        data["machines"][stuck]["reads_left"] = 0
    hold_up = {"on": True}

    def never_gone(position: str, method: str, subject: str) -> None:
        if hold_up["on"] and position == "before" and method == "get_instance" and subject == stuck:
            with scene.platform.world.transaction() as data:
                if data["machines"][stuck]["timeline"][-1][1] == InstanceState.STOPPING:
                    data["machines"][stuck]["reads_left"] = 9

    scene.on_call = never_gone
    error = fails(scene, rollout)
    assert "terminate" in str(error)
    assert sorted(scene.versions()["web-01"]) == [str(OLD), str(NEW)], "nothing else may be touched"
    hold_up["on"] = False
    resumes(scene, rollout)
    tell(scene, "old-instance-does-not-go")


def test_holder_dies_and_another_goes_on(stage: Stage) -> None:
    scene = stage(size=2)
    rollout = scene.open()
    engine = scene.engine(rollout)
    first = scene.claim(engine, 0, scene.holder())
    assert first is not None

    def launched(progress: Progress) -> bool:
        return progress.step is Step.LAUNCH

    scene.drive(engine, first, until=launched)
    scene.story.append(f"{scene.at()} {first.holder} dies")
    assert scene.run(rollout).state is RolloutState.DONE
    scene.check_at_rest()
    tell(scene, "holder-dies")
