"""Clocks that jump by a day and clocks that differ by minutes: nothing happens before its time, or twice."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.records import RolloutState
from phoenix_fleet.domain.errors import Busy, Fenced, Halted, StepFailed
from phoenix_fleet.domain.models import InstanceState
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.rollout import gone
from phoenix_fleet.rollout.engine import Engine
from tests.rollout.acts import mutations, old_machine, reach
from tests.rollout.scene import LEASE, Scene
from tests.rollout.snapshots import Skewed
from tests.rollout.worlds import QUICK

Stage = Callable[..., Scene]
DAY = timedelta(hours=24)
HANDED_OVER_AFTER = 7
JUMPS = pytest.mark.parametrize("jump", [DAY, -DAY], ids=["forward", "back"])

SHORT_JUMPS = pytest.mark.parametrize("jump", [timedelta(minutes=4), -DAY], ids=["forward", "back"])
"""Forward by less than a step may take: a longer jump ends the step's time, and it halts before anything else."""


@JUMPS
def test_a_jump_between_any_two_looks_ends_no_machine_early(stage: Stage, jump: timedelta) -> None:
    """Whatever the jump makes of the limits of steps, at worst it halts, and a person who resumes gets it done."""
    number = 0
    while True:
        scene = stage(size=2, **QUICK)
        scene.strict = True
        rollout = scene.open()
        jumped = _run_with_a_jump(scene, number, jump)
        assert not scene.violations
        assert len(scene.serving()) >= 2
        scene.watch_on_the_wall.off = timedelta()
        scene.clock.advance(2 * DAY)
        if scene.state(rollout) is RolloutState.HALTED:
            scene.catalog.rollouts.resume("web", actor="alice", reason="the clock is right again")
        assert scene.run(rollout).state is RolloutState.DONE
        scene.check_at_rest()
        if not jumped:
            break
        number += 3
    assert number > 15


def _run_with_a_jump(scene: Scene, number: int, jump: timedelta) -> bool:
    """The first replacement; the clock jumps after so many looks. Whether there were so many."""
    engine = scene.engine(scene.catalog.rollouts.get(1))
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket is not None
    for look in range(200):
        if look == number:
            scene.watch_on_the_wall.off = jump
        try:
            progress = engine.advance(ticket)
        except StepFailed:
            break
        if progress.state == "done":
            break
        scene.clock.advance(progress.check_after)
    return look >= number


@SHORT_JUMPS
def test_a_jump_cuts_no_connection_before_the_drain_limit(stage: Stage, jump: timedelta) -> None:
    scene = stage(size=2, drain={"limit": "30s", "policy": "force"})
    engine, ticket = reach(scene, Step.DRAIN)
    old = old_machine(scene)
    scene.balancer.set_connections(old["name"], 3)
    began = scene.clock.now()
    for look in range(100):
        if look == 2:
            scene.watch_on_the_wall.off = jump
        progress = engine.advance(ticket)
        if progress.step is not Step.DRAIN or progress.state == "moved":
            break
        scene.clock.advance(progress.check_after)
    assert scene.clock.now() - began >= timedelta(seconds=30), "the connections were cut early"
    scene.balancer.set_connections(old["name"], 0)


@SHORT_JUMPS
def test_a_jump_makes_nothing_gone(stage: Stage, jump: timedelta) -> None:
    """It is missing at one look, and then the clock jumps: that is no proof that it was missing for long."""
    scene = stage(size=2)
    engine, ticket = reach(scene, Step.TERMINATE)
    while not any(key.startswith("missing") for key in scene.catalog.rollouts.slot(1, ticket.seq).facts):
        scene.clock.advance(engine.advance(ticket).check_after)
    asked = scene.clock.now()
    scene.watch_on_the_wall.off = jump
    assert engine.advance(ticket).state == "waiting"
    scene.clock.advance(gone.MISSING_FOR)
    assert engine.advance(ticket).state == "done"
    assert scene.clock.now() - asked == gone.MISSING_FOR


@pytest.mark.parametrize("minutes", [5, -5])
def test_holders_whose_clocks_differ_hand_a_replacement_to_each_other(stage: Stage, minutes: int) -> None:
    """Each has a clock of its own over the same catalog, and each takes over after a few looks.

    What differs is taken from the time that a step may take, and from nothing else.
    """
    scene = stage(size=2, **QUICK, timeouts=dict.fromkeys(("ready", "configure", "verify", "admit", "terminate"), "1h"))
    scene.strict = True
    rollout = scene.open()
    other = Skewed(scene.clock)
    other.off = timedelta(minutes=minutes)
    with Catalog(scene.url, other) as theirs:
        deps = scene.deps()
        engines = [
            (scene.catalog, scene.engine(rollout)),
            (
                theirs,
                Engine(
                    type(deps)(**{**vars(deps), "catalog": theirs, "clock": other}),
                    scene.fleet,
                    scene.catalog.images.get("base", rollout.version),
                    rollout,
                ),
            ),
        ]
        looks = 0
        while scene.catalog.rollouts.under_way(1) or not looks:
            catalog, engine = engines[looks // HANDED_OVER_AFTER % 2]
            looks += 1
            assert looks < 300, "\n".join(scene.story)
            try:
                ticket = catalog.rollouts.claim(
                    1, 0, f"holder-{looks // HANDED_OVER_AFTER}", lease=LEASE, max_in_flight=1
                )
            except Busy:
                scene.clock.advance(timedelta(seconds=30))
                continue
            if ticket is None:
                break
            scene.clock.advance(engine.advance(ticket).check_after)
    assert looks > 20
    assert scene.run(rollout).state is RolloutState.DONE
    assert len(scene.platform.calls("launch")) == 4
    scene.check_at_rest()


def test_a_person_still_halts_while_the_clock_is_wrong(stage: Stage) -> None:
    scene = stage(size=2)
    engine, ticket = reach(scene, Step.WATCH)
    scene.watch_on_the_wall.off = -DAY
    scene.catalog.rollouts.halt("web", actor="bob", reason="odd times in the log")
    before = mutations(scene)
    with pytest.raises(Halted):
        engine.advance(ticket)
    scene.catalog.rollouts.cancel("web", actor="bob", reason="not today")
    with pytest.raises(Fenced):
        engine.advance(ticket)
    assert mutations(scene) == before
    assert old_machine(scene)["state"] is InstanceState.RUNNING
