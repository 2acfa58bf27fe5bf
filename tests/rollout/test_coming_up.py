"""The new instance: launched once, proven to be what it should be, and retired whenever it is not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from phoenix_fleet.catalog.records import RolloutState
from phoenix_fleet.domain import errors
from phoenix_fleet.domain.models import Backend, InstanceState
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.domain.verdicts import Verdict
from tests.rollout.acts import begin, failure, new_machine, reach, untouched
from tests.rollout.scene import NEW, OLD, Scene

Stage = Callable[..., Scene]


def test_a_lost_reply_to_the_launch_is_no_second_machine(stage: Stage) -> None:
    scene = stage()
    scene.platform.lose_reply("launch")
    assert scene.run(scene.open()).state is RolloutState.DONE
    scene.check_at_rest()
    assert len({call.subject for call in scene.platform.calls("launch")}) == 6


@pytest.mark.parametrize("method", ["launch", "terminate", "list_instances", "get_instance", "list_images"])
@pytest.mark.parametrize("budget", [("1", "0"), ("0", "1")], ids=["surge", "no-surge"])
def test_any_reply_of_the_platform_may_be_lost(stage: Stage, method: str, budget: tuple[str, str]) -> None:
    scene = stage(max_surge=budget[0], max_unavailable=budget[1])
    rollout = scene.open()
    for _ in range(3):
        scene.platform.lose_reply(method)
    assert scene.run(rollout).state is RolloutState.DONE
    scene.check_at_rest()


@pytest.mark.parametrize("method", ["admit", "drain", "remove", "state"])
@pytest.mark.parametrize("budget", [("1", "0"), ("0", "1")], ids=["surge", "no-surge"])
def test_any_reply_of_the_balancer_may_be_lost(stage: Stage, method: str, budget: tuple[str, str]) -> None:
    scene = stage(max_surge=budget[0], max_unavailable=budget[1])
    rollout = scene.open()
    for _ in range(3):
        scene.balancer.lose_reply(method)
    assert scene.run(rollout).state is RolloutState.DONE
    scene.check_at_rest()


@pytest.mark.parametrize("seconds", [5, 45])
def test_reads_may_lag(stage: Stage, seconds: int) -> None:
    scene = stage()
    rollout = scene.open()
    scene.platform.lag(seconds)
    assert scene.run(rollout).state is RolloutState.DONE
    scene.platform.lag(0)
    scene.check_at_rest()
    assert len({call.subject for call in scene.platform.calls("launch")}) == 6


def test_a_machine_that_turns_up_late_after_its_step_failed_is_retired_all_the_same(stage: Stage) -> None:
    scene = stage(timeouts={"ready": "1m"})
    engine, ticket = reach(scene, Step.READY)
    scene.platform.lag(120)
    assert "ready failed" in failure(scene, engine, ticket)
    scene.platform.lag(0)
    untouched(scene)


def test_a_launch_that_was_not_answered_and_then_refused_is_searched_for(stage: Stage) -> None:
    """The refusal is about the second call; the first one may have made a machine that is not to be seen yet."""
    scene = stage()
    engine, ticket = reach(scene, Step.LAUNCH)
    scene.platform.lag(60)
    scene.platform.lose_reply("launch")
    assert engine.advance(ticket).state == "waiting"
    scene.platform.fail_next("launch", errors.InvalidSpec("that network is gone"))
    assert "that network is gone" in failure(scene, engine, ticket)
    scene.platform.lag(0)
    untouched(scene)


def test_a_refused_launch_leaves_the_old_machine_alone_though_more_may_be_missing(stage: Stage) -> None:
    """The budget would let it go, so nothing but the token keeps the clean-up from taking it for the new one."""
    scene = stage(max_unavailable="2")
    engine, ticket = reach(scene, Step.LAUNCH)
    scene.platform.fail_next("launch", errors.InvalidSpec("that network is gone"))
    assert "that network is gone" in failure(scene, engine, ticket)
    untouched(scene)
    assert not scene.platform.calls("terminate")


def test_throttling_is_not_bad_health(stage: Stage) -> None:
    scene = stage()
    rollout = scene.open()
    scene.on_call = lambda position, method, subject: (
        (scene.platform.throttle(3), scene.balancer.throttle(2))  # type: ignore[func-returns-value]
        if (position, method) in (("after", "launch"), ("after", "admit"), ("after", "drain"))
        else None
    )
    assert scene.run(rollout).state is RolloutState.DONE
    scene.check_at_rest()


def test_a_throttled_call_is_made_again(stage: Stage) -> None:
    """Reads that are throttled are a broken view; a call that is throttled has simply not been made yet."""
    scene = stage(size=1)
    rollout = scene.open()
    for driver, methods in ((scene.platform, ("launch", "terminate")), (scene.balancer, ("admit", "drain"))):
        for method in methods:
            driver.fail_next(method, errors.Throttled("slow down."))
    assert scene.run(rollout).state is RolloutState.DONE
    scene.check_at_rest()


def test_nothing_is_launched_beyond_the_surge(stage: Stage) -> None:
    scene = stage()
    engine, ticket = reach(scene, Step.LAUNCH)
    extra = scene.seed("web-03", OLD, attempt=60)
    launched = len(scene.platform.calls("launch"))
    scene.platform.terminate(extra)
    progress = engine.advance(ticket)
    assert (progress.state, "4 instances are not gone yet, and 4 are the most" in progress.message) == ("waiting", True)
    assert len(scene.platform.calls("launch")) == launched, "one that is stopping is still there"
    scene.clock.advance(timedelta(seconds=10))
    assert scene.drive(engine, ticket).state == "done"


def test_no_room_is_waited_for_and_then_fails_without_a_trace(stage: Stage) -> None:
    scene = stage(platform={"capacity": 3}, timeouts={"ready": "1m", "terminate": "1m"})
    engine, ticket = begin(scene)
    assert "launch failed: not done after 2 min: No room" in failure(scene, engine, ticket)
    untouched(scene)


def test_a_machine_that_never_boots_is_retired(stage: Stage) -> None:
    scene = stage()
    engine, ticket = begin(scene)
    scene.platform.fail_boot("kernel panic")
    assert "is failed: kernel panic" in failure(scene, engine, ticket)
    untouched(scene)


def test_a_machine_that_runs_another_image_is_retired(stage: Stage) -> None:
    scene = stage()
    engine, ticket = begin(scene)
    scene.platform.boot_wrong("sha256:evil")
    assert "runs sha256:evil, not sha256:" in failure(scene, engine, ticket)
    untouched(scene)
    assert scene.configurator.calls == []


def test_an_impostor_at_the_address_is_never_configured(stage: Stage) -> None:
    scene = stage()
    scene.probe = lambda instance: ("ssh-ed25519 SOMEBODYELSE",)
    engine, ticket = begin(scene)
    assert "has the host key ssh-ed25519 SOMEBODYELSE" in failure(scene, engine, ticket)
    untouched(scene)
    assert scene.configurator.calls == []


def test_one_strange_key_among_the_right_ones_is_enough_to_refuse(stage: Stage) -> None:
    scene = stage()
    scene.probe = lambda instance: (*instance.host_keys, "ssh-ed25519 SOMEBODYELSE")
    engine, ticket = begin(scene)
    assert "SOMEBODYELSE" in failure(scene, engine, ticket)


def test_silence_at_the_address_is_waited_for_and_then_fails(stage: Stage) -> None:
    scene = stage(timeouts={"ready": "1m"})
    scene.probe = lambda instance: ()
    engine, ticket = begin(scene)
    assert "not done after 1 min: nothing answers SSH at 127.66.0." in failure(scene, engine, ticket)
    untouched(scene)


def test_a_machine_that_dies_later_is_retired(stage: Stage) -> None:
    for step in (Step.CONFIGURE, Step.VERIFY, Step.ADMIT, Step.WATCH):
        scene = stage()
        engine, ticket = reach(scene, step)
        scene.platform.set_state(new_machine(scene)["id"], InstanceState.FAILED, "disk failure")
        assert f"{step} failed" in failure(scene, engine, ticket)
        untouched(scene)


def test_a_failed_configuration_names_the_task(stage: Stage) -> None:
    scene = stage()
    engine, ticket = begin(scene)
    scene.configurator.next = ["failed"]
    assert "configure failed" in (told := failure(scene, engine, ticket))
    assert "task 'fake : told to fail' failed" in told
    untouched(scene)


def test_an_unreachable_machine_is_configured_as_soon_as_it_answers(stage: Stage) -> None:
    scene = stage()
    engine, ticket = begin(scene)
    scene.configurator.next = ["unavailable", "lost_reply", "timeout"]
    assert scene.drive(engine, ticket).state == "done"
    assert len(scene.configurator.calls) == 4


@pytest.mark.parametrize(
    ("word", "verdict"), [("failed", Verdict.FAILED), ("error", Verdict.ERROR), ("inconclusive", Verdict.INCONCLUSIVE)]
)
def test_whatever_is_not_passed_is_recorded_and_fails_the_step(stage: Stage, word: Any, verdict: Verdict) -> None:
    scene = stage()
    engine, ticket = begin(scene)
    scene.verify.next = [word]
    assert f"verify failed: checks: {word}" in failure(scene, engine, ticket)
    untouched(scene)
    (record,) = scene.catalog.measurements.latest("base", NEW, "rollout")
    assert (record.gate, record.verdict) == ("checks", verdict)
    assert record.subject.startswith("web-01-")


def test_a_gate_that_breaks_is_an_error_and_never_a_pass(stage: Stage) -> None:
    scene = stage()
    engine, ticket = begin(scene)

    def broken(subject: object) -> Any:
        raise RuntimeError("a bug")

    scene.verify.measure = broken  # type: ignore[method-assign]
    assert "checks: error: RuntimeError: a bug" in failure(scene, engine, ticket)
    untouched(scene)


def test_gates_are_shown_everything_they_may_need(stage: Stage) -> None:
    scene = stage()
    engine, ticket = begin(scene)
    scene.drive(engine, ticket)
    subject = scene.verify.calls[0]
    assert subject.instance is not None
    assert subject.instance.host_keys
    assert subject.hostspec == f"fake://{subject.instance.id}"
    assert subject.artefact == engine.image.artefacts["fake"]
    assert subject.facts["values"] == {"colour": "blue"}
    assert {subject.facts[name] for name in ("family", "version", "fleet", "slot", "environment", "stage")} == {
        "base",
        "2026.11-1",
        "web",
        "web-01",
        "production",
        "rollout",
    }


def test_one_healthy_answer_is_not_enough(stage: Stage) -> None:
    scene = stage(balancer={"start_reads": 0})
    engine, ticket = reach(scene, Step.ADMIT)
    assert "is admitted" in engine.advance(ticket).message
    assert "healthy once" in engine.advance(ticket).message
    name = new_machine(scene)["name"]
    scene.balancer.set_health(name, healthy=False)
    assert "unhealthy at the balancer" in engine.advance(ticket).message
    scene.balancer.set_health(name, healthy=True)
    assert "healthy once" in engine.advance(ticket).message
    assert engine.advance(ticket).state == "moved"


def test_a_machine_that_never_becomes_healthy_is_removed(stage: Stage) -> None:
    scene = stage()
    engine, ticket = reach(scene, Step.ADMIT)
    scene.balancer.set_health(new_machine(scene)["name"], healthy=False)
    assert "admit failed: not done after 5 min" in failure(scene, engine, ticket)
    untouched(scene)


def test_a_balancer_that_forgot_it_while_it_was_watched(stage: Stage) -> None:
    scene = stage()
    engine, ticket = reach(scene, Step.WATCH)
    name = new_machine(scene)["name"]
    with scene.balancer.world.transaction() as data:
        data["servers"][name]["timeline"].append([scene.balancer.world.now(), str(Backend.ABSENT)])
    assert "watch failed" in failure(scene, engine, ticket)
    untouched(scene)


def test_a_failed_watch_gate_removes_the_new_one(stage: Stage) -> None:
    scene = stage()
    engine, ticket = begin(scene)
    scene.watch.next = ["failed"]
    assert "watch failed: metrics: failed" in failure(scene, engine, ticket)
    untouched(scene)


def test_a_watch_in_which_nobody_looked_starts_anew(stage: Stage) -> None:
    scene = stage(watch_time="60s")
    engine, ticket = reach(scene, Step.WATCH)
    assert engine.advance(ticket).state == "waiting"
    scene.clock.advance(timedelta(minutes=5))
    ticket = scene.claim(engine, 0, ticket.holder) or ticket
    assert engine.advance(ticket).state == "waiting", "five unwatched minutes prove nothing"
    began = scene.clock.now()
    scene.drive(engine, ticket, until=lambda progress: progress.state == "moved")
    assert scene.clock.now() - began >= timedelta(seconds=60)
