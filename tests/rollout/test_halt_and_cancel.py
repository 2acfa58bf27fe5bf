"""Halt, pause and cancel at every step and at every call, and then every way in which work is begun again.

The bounds: after a halt or a cancel has been written down no further call is begun, so that at most the one goes out
that was under way at that moment. After a pause nothing begins; what had begun is finished.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.records import RolloutState, SlotState, Ticket
from phoenix_fleet.domain import errors
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.gates import fake as fake_gate
from phoenix_fleet.rollout.engine import Engine
from tests.rollout.acts import begin, mutations, reach
from tests.rollout.scene import LEASE, NEW, OLD, Scene, no_connections
from tests.sampling import sample

Stage = Callable[..., Scene]
WHO: dict[str, Any] = {"actor": "bob", "reason": "customers call"}
QUICK: dict[str, Any] = {
    "size": 2,
    "platform": {"boot_reads": 0, "boot_seconds": 1, "stop_reads": 0, "stop_seconds": 1},
    "balancer": {"start_reads": 0, "start_seconds": 1},
    "watch_time": "1s",
}


def retry(scene: Scene, engine: Engine, ticket: Ticket) -> None:
    """Another try of the task, once the lease of the one before has run out."""
    scene.clock.advance(LEASE + timedelta(seconds=1))
    scene.catalog.rollouts.claim(ticket.rollout_id, 0, "another-try", lease=LEASE, max_in_flight=1)


def clear(scene: Scene, engine: Engine, ticket: Ticket) -> None:
    """The cleared task under the same name."""
    scene.catalog.rollouts.claim(ticket.rollout_id, 0, ticket.holder, lease=LEASE, max_in_flight=1)


def next_wave(scene: Scene, engine: Engine, ticket: Ticket) -> None:
    """A task of the wave after it."""
    scene.catalog.rollouts.claim(ticket.rollout_id, 1, "another-task", lease=LEASE, max_in_flight=2)


def second_engine(scene: Scene, engine: Engine, ticket: Ticket) -> None:
    """The same ticket in an engine made anew."""
    scene.engine(engine.rollout).advance(ticket)


def restart(scene: Scene, engine: Engine, ticket: Ticket) -> None:
    """Another process: nothing is left but the database."""
    with Catalog(f"sqlite:///{scene.folder}/catalog.db", scene.clock) as catalog:
        before, scene.catalog = scene.catalog, catalog
        try:
            scene.engine(catalog.rollouts.get(ticket.rollout_id)).advance(ticket)
        finally:
            scene.catalog = before


def complete(scene: Scene, engine: Engine, ticket: Ticket) -> None:
    """The report task."""
    scene.catalog.rollouts.complete(ticket.rollout_id)


def new_run(scene: Scene, engine: Engine, ticket: Ticket) -> None:
    """The next scheduled run."""
    scene.open(run="run-2")


def backfill(scene: Scene, engine: Engine, ticket: Ticket) -> None:
    """A run for a window long past."""
    scene.open(run="backfill-1", window=OLD.window)


def nobody_resumes(scene: Scene, engine: Engine, ticket: Ticket) -> None:
    """A resume without a name."""
    scene.catalog.rollouts.resume("web", actor=" ", reason="go on")


AGAIN = (retry, clear, next_wave, second_engine, restart, complete)
"""Work of the same run; after a cancel too none of it goes on."""
OTHERS = (new_run, backfill, nobody_resumes)


def begun(scene: Scene) -> int:
    """How often a call was announced."""
    events = scene.catalog.events.list_events("intents/", limit=10_000)
    return sum(event.kind in ("intent.begun", "intent.repeated") for event in events)


def goes_on(scene: Scene, engine: Engine, act: str) -> None:
    """The person who may lets it go on, and all ends well."""
    if act == "halt":
        scene.catalog.rollouts.resume("web", actor="carol", reason="false alarm")
        rollout = engine.rollout
    else:
        assert scene.catalog.rollouts.cancel("web", **WHO).closed_by == "bob", "cancelling again changes nothing"
        with pytest.raises(errors.NotFound):
            scene.catalog.rollouts.resume("web", actor="carol", reason="no, go on")
        rollout = scene.open(run="run-3")
    assert scene.run(rollout).state is RolloutState.DONE
    scene.check_at_rest()


@pytest.mark.parametrize("act", ["halt", "cancel"])
@pytest.mark.parametrize("step", list(Step))
def test_nothing_goes_on_by_itself_from_any_step(stage: Stage, step: Step, act: str) -> None:
    scene = stage(**QUICK)
    engine, ticket = reach(scene, step)
    before, announced = mutations(scene), begun(scene)
    getattr(scene.catalog.rollouts, act)("web", **WHO)
    with pytest.raises(errors.Refused, match="bob"):
        engine.advance(ticket)
    for path in AGAIN if act == "cancel" else (*AGAIN, *OTHERS):
        with pytest.raises(errors.Refused):
            path(scene, engine, ticket)
        assert scene.state(engine.rollout) == ("halted" if act == "halt" else "cancelled"), path.__name__
        assert (mutations(scene), begun(scene)) == (before, announced), path.__name__
    goes_on(scene, engine, act)


def test_what_a_cancel_left_under_way_is_on_record(stage: Stage) -> None:
    scene = stage(**QUICK)
    _, ticket = reach(scene, Step.ADMIT)
    scene.catalog.rollouts.cancel("web", **WHO)
    (event,) = [each for each in scene.catalog.events.list_events("fleets/web") if each.kind == "rollout.cancelled"]
    (left,) = event.payload["under_way"]
    assert (left["slot"], left["step"]) == ("web-01", "admit")
    assert left["new_instance"] == scene.catalog.rollouts.slot(ticket.rollout_id, ticket.seq).new_instance != ""


def play(scene: Scene) -> int:
    """One replacement; how many calls it makes."""
    points = 0

    def count(*_: str) -> None:
        nonlocal points
        points += 1

    engine, ticket = begin(scene)
    scene.on_call = count
    with contextlib.suppress(errors.StepFailed):
        scene.drive(engine, ticket)
    return points


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True], ids=["goes-well", "fails-and-is-undone"])
@pytest.mark.parametrize("act", ["halt", "cancel"])
def test_at_most_one_call_after_it_at_every_call_of_a_replacement(stage: Stage, act: str, fails: bool) -> None:
    """A call in flight cannot be called back; nothing else may follow, in the clean-up of a failure neither."""

    def prepared() -> Scene:
        scene = stage(**QUICK)
        if fails:
            scene.watch = fake_gate.Driver(fake_gate.Settings(verdict="failed"), no_connections, scene.folder)
        return scene

    scene = prepared()
    beginning = scene.snapshot()
    points = play(scene)
    assert points > 60
    for number in sample(range(points), 35):
        scene.restore(beginning)
        engine, ticket = begin(scene)
        left, at = number, (0, 0)

        def point(*_: str, scene: Scene = scene) -> None:
            nonlocal left, at
            left -= 1
            if left == -1:
                getattr(scene.catalog.rollouts, act)("web", **WHO)
                at = mutations(scene), begun(scene)

        scene.on_call = point
        with contextlib.suppress(errors.Refused, errors.StepFailed):
            scene.drive(engine, ticket)
        assert begun(scene) == at[1], f"a call was begun after the {act} at point {number}"
        assert mutations(scene) - at[0] <= 1, f"point {number}"
        for path in AGAIN:
            with pytest.raises(errors.Refused):
                path(scene, engine, ticket)
        assert begun(scene) == at[1], f"something went on after the {act} at point {number}"
        assert len(scene.serving()) >= scene.fleet.size
        if not fails and number % 5 == 0:
            goes_on(scene, engine, act)


@pytest.mark.parametrize("step", list(Step))
def test_a_pause_lets_what_has_begun_end_and_nothing_begin(stage: Stage, step: Step) -> None:
    scene = stage(**QUICK)
    engine, ticket = reach(scene, step)
    scene.catalog.rollouts.pause("web", **WHO)
    launches = len(scene.platform.calls("launch"))
    if step is Step.CHECK:
        with pytest.raises(errors.Halted, match="web-01 waits: paused by bob: customers call"):
            engine.advance(ticket)
    else:
        scene.drive(engine, ticket)
        launches += step is Step.LAUNCH
    for path in (next_wave,) if step is not Step.CHECK else (retry, second_engine, restart):
        with pytest.raises(errors.Refused):
            path(scene, engine, ticket)
    with pytest.raises(errors.Busy):
        new_run(scene, engine, ticket)
    assert len(scene.platform.calls("launch")) == launches
    states = [each.state for each in scene.catalog.rollouts.slots(engine.rollout.id)]
    assert states == [SlotState.RUNNING if step is Step.CHECK else SlotState.DONE, SlotState.WAITING]
    scene.catalog.rollouts.resume("web", actor="carol", reason="quiet again")
    assert scene.run(engine.rollout).state is RolloutState.DONE
    scene.check_at_rest(NEW)


def test_a_replacement_whose_holder_died_is_finished_under_a_pause(stage: Stage) -> None:
    scene = stage(**QUICK)
    engine, _ = reach(scene, Step.ADMIT)
    scene.catalog.rollouts.pause("web", **WHO)
    scene.clock.advance(LEASE + timedelta(seconds=1))
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket is not None
    assert scene.drive(engine, ticket).state == "done"
    scene.check_between()


def test_a_pause_and_a_halt_are_lifted_by_one_resume(stage: Stage) -> None:
    scene = stage(**QUICK)
    rollout = scene.open()
    scene.catalog.rollouts.pause("web", **WHO)
    assert scene.catalog.rollouts.pause("web", actor="eve", reason="me too").paused_by == "bob"
    assert scene.catalog.rollouts.halt("web", **WHO).paused_by == "bob"
    resumed = scene.catalog.rollouts.resume("web", actor="carol", reason="fine")
    assert (resumed.state, resumed.paused_by, resumed.halted_by) == ("open", "", "")
    assert scene.run(rollout).state is RolloutState.DONE
