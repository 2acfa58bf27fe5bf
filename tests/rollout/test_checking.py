"""The first step: what is refused or waited for before anything is touched, and what is found in the slot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from phoenix_fleet.catalog.records import RolloutState
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import InstanceState
from phoenix_fleet.domain.steps import Step
from tests.rollout.acts import begin, failure, mutations, old_machine, reach, untouched
from tests.rollout.scene import NEW, Scene

Stage = Callable[..., Scene]


@pytest.mark.parametrize("rung", [Rung.REVOKED, Rung.RETIRED])
def test_an_image_that_is_no_longer_released_is_not_rolled_out(stage: Stage, rung: Rung) -> None:
    scene = stage()
    engine, ticket = begin(scene)
    scene.catalog.images.move("base", NEW, rung, actor="carol", reason="CVE-2026-1")
    before = mutations(scene)
    assert f"is {rung} now (CVE-2026-1)" in failure(scene, engine, ticket)
    assert mutations(scene) == before


def test_the_image_is_checked_again_right_before_the_launch(stage: Stage) -> None:
    scene = stage(max_surge="0", max_unavailable="1")
    engine, ticket = reach(scene, Step.LAUNCH)
    scene.catalog.images.move("base", NEW, Rung.REVOKED, actor="carol", reason="CVE-2026-1")
    assert "launch failed" in failure(scene, engine, ticket)
    assert len(scene.platform.calls("launch")) == 3


def test_an_artefact_that_the_platform_does_not_hold_is_not_rolled_out(stage: Stage) -> None:
    scene = stage()
    engine, ticket = begin(scene)
    scene.platform.delete_image(engine.image.artefacts["fake"])
    assert "fake does not hold registry/base@sha256:" in failure(scene, engine, ticket)
    untouched(scene)


def test_another_digest_than_the_one_bound_is_refused(stage: Stage) -> None:
    scene = stage()
    engine, ticket = begin(scene)
    other = replace(engine.image.artefacts["fake"], digest="sha256:other")
    engine.image = replace(engine.image, artefacts={"fake": other})
    assert "the rollout is bound to sha256:other" in failure(scene, engine, ticket)
    untouched(scene)


def test_a_slot_that_is_up_to_date_by_now_is_done_and_not_touched(stage: Stage) -> None:
    scene = stage()
    engine, ticket = begin(scene)
    scene.platform.set_state(old_machine(scene)["id"], InstanceState.GONE)
    scene.seed("web-01", NEW, attempt=77)
    before = mutations(scene)
    progress = scene.drive(engine, ticket)
    assert (progress.state, progress.step) == ("done", Step.CHECK)
    assert progress.message == "up to date already: on 2026.11-1"
    assert mutations(scene) == before
    assert scene.catalog.rollouts.slot(1, 1).facts["not_needed"] == progress.message


def test_it_does_not_begin_while_another_machine_is_missing(stage: Stage) -> None:
    scene = stage()
    engine, ticket = begin(scene)
    sick = old_machine(scene, "web-03")["name"]
    scene.balancer.set_health(sick, healthy=False)
    progress = engine.advance(ticket)
    assert progress.state == "waiting"
    assert "the floor is 3" in progress.message
    assert len(scene.platform.calls("launch")) == 3
    scene.balancer.set_health(sick, healthy=True)
    assert engine.advance(ticket).state == "moved"


def test_what_an_earlier_attempt_left_over_is_retired_first(stage: Stage) -> None:
    scene = stage(max_surge="2")  # so there is room enough with it
    left_over = scene.seed("web-01", NEW, attempt=50, admit=False)
    assert scene.run(scene.open()).state is RolloutState.DONE
    assert left_over not in scene.living()
    scene.check_at_rest()


def test_a_new_instance_that_serves_already_is_not_launched_again(stage: Stage) -> None:
    scene = stage()
    scene.seed("web-01", NEW, attempt=50)
    launched = len(scene.platform.calls("launch"))
    assert scene.run(scene.open()).state is RolloutState.DONE
    scene.check_at_rest()
    assert len(scene.platform.calls("launch")) == launched + 2
