"""Who may act: stale holders, halts, several at once, and machines that are not ours."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from phoenix_fleet.catalog.records import RolloutState
from phoenix_fleet.domain import errors
from phoenix_fleet.domain.models import InstanceState
from phoenix_fleet.domain.steps import Step
from tests.rollout.acts import mutations, reach
from tests.rollout.scene import LEASE, OLD, Scene

Stage = Callable[..., Scene]


@pytest.fixture
def stage(stage_anywhere: Stage) -> Stage:
    """On either database."""
    return stage_anywhere


def test_a_stale_ticket_does_nothing(stage: Stage) -> None:
    for step in Step:
        scene = stage(size=2)
        engine, stale = reach(scene, step)
        scene.clock.advance(LEASE + timedelta(seconds=1))
        fresh = scene.claim(engine, 0, scene.holder())
        assert fresh is not None
        assert fresh.token > stale.token
        before = mutations(scene)
        with pytest.raises(errors.Fenced):
            engine.advance(stale)
        assert mutations(scene) == before
        assert scene.drive(engine, fresh).state == "done"


def test_a_stale_holder_configures_and_measures_nothing(stage: Stage) -> None:
    """Neither has an intent that could refuse it, so the ticket must hold before the step begins."""
    for step in (Step.CONFIGURE, Step.VERIFY):
        scene = stage(size=2)
        engine, stale = reach(scene, step)
        scene.clock.advance(LEASE + timedelta(seconds=1))
        assert scene.claim(engine, 0, scene.holder())
        before = len(scene.configurator.calls), len(scene.verify.calls)
        with pytest.raises(errors.Fenced):
            engine.advance(stale)
        assert (len(scene.configurator.calls), len(scene.verify.calls)) == before


def test_a_call_whose_outcome_was_never_written_is_settled_by_what_is_seen(stage: Stage) -> None:
    scene = stage(size=2)
    engine, ticket = reach(scene, Step.LAUNCH)
    slot = scene.catalog.rollouts.slot(ticket.rollout_id, ticket.seq).slot
    intents, purpose = scene.catalog.intents, engine.rollout.purpose
    never = intents.begin("launch", "never-made", {"name": "never-made"}, ticket=ticket, purpose=purpose, token="none")
    assert never.slot == slot
    engine.advance(ticket)
    settled = next(each for each in intents.list_intents(purpose) if each.id == never.id)
    assert settled.outcome == "unknown", "the old machine of the slot was not launched by it"
    assert settled.result == {"seen_later": "no such instance is to be seen"}


def test_a_holder_that_was_overtaken_in_the_middle_of_a_step_does_nothing_more(stage: Stage) -> None:
    scene = stage(size=2)
    engine, stale = reach(scene, Step.LAUNCH)
    overtaken: list[int] = []

    def overtake(position: str, method: str, subject: str) -> None:
        if (position, method) == ("after", "list_instances") and not overtaken:
            overtaken.append(1)
            scene.clock.advance(LEASE + timedelta(seconds=1))
            assert scene.catalog.rollouts.claim(1, 0, "other", lease=LEASE, max_in_flight=1)

    scene.on_call = overtake
    with pytest.raises(errors.Fenced):
        engine.advance(stale)
    assert len(scene.platform.calls("launch")) == 2


def test_a_halt_by_a_person_stops_the_next_call_and_resume_goes_on_there(stage: Stage) -> None:
    scene = stage()
    engine, ticket = reach(scene, Step.ADMIT)
    scene.catalog.rollouts.halt("web", actor="bob", reason="customers call")
    before = mutations(scene)
    with pytest.raises(errors.Halted, match="bob"):
        engine.advance(ticket)
    assert mutations(scene) == before
    scene.catalog.rollouts.resume("web", actor="bob", reason="false alarm")
    assert scene.run(engine.rollout).state is RolloutState.DONE
    scene.check_at_rest()


def test_a_finished_rollout_changes_nothing_when_run_again(stage: Stage) -> None:
    scene = stage()
    assert scene.run(scene.open()).state is RolloutState.DONE
    before = mutations(scene)
    again = scene.open(run="run-2")
    assert scene.catalog.rollouts.slots(again.id) == []
    assert scene.run(again).state is RolloutState.DONE
    assert mutations(scene) == before


def test_two_at_once_once_the_first_one_serves(stage: Stage) -> None:
    scene = stage(size=4, max_surge="2", max_in_flight=2, canary="1")
    rollout = scene.open()
    engine = scene.engine(rollout)
    assert engine.in_flight_limit()[0] == 1
    first = scene.claim(engine, 0, scene.holder())
    assert first is not None
    scene.drive(engine, first)
    assert engine.in_flight_limit()[0] == 2
    tickets = [scene.claim(engine, 1, scene.holder()) for _ in range(2)]
    running = [ticket for ticket in tickets if ticket is not None]
    assert len(running) == 2
    while running:
        for ticket in list(running):
            if engine.advance(ticket).state == "done":
                running.remove(ticket)
        scene.clock.advance(timedelta(seconds=1))
    assert scene.run(rollout).state is RolloutState.DONE
    scene.check_at_rest()


def test_foreign_machines_with_look_alike_names_are_never_touched(stage: Stage) -> None:
    scene = stage()
    strangers = [
        scene.platform.add_foreign(f"web-01-{number}", fleet="web", slot="web-01", version=str(OLD), token="t")
        for number in range(5)
    ]
    assert scene.run(scene.open()).state is RolloutState.DONE
    for stranger in strangers:
        assert scene.platform.machines()[stranger]["state"] is InstanceState.RUNNING
    assert not {call.subject for call in scene.platform.calls("terminate")} & set(strangers)
