"""What tests of single steps share: how far a replacement goes, and what it must have left behind."""

from __future__ import annotations

from typing import Any

import pytest

from phoenix_fleet.catalog.records import RolloutState, Ticket
from phoenix_fleet.domain import errors
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.rollout.engine import Engine
from phoenix_fleet.rollout.progress import Progress
from tests.rollout.scene import NEW, OLD, Scene
from tests.rollout.strict import MUTATIONS


def begin(scene: Scene) -> tuple[Engine, Ticket]:
    engine = scene.engine(scene.open())
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket is not None
    return engine, ticket


def reach(scene: Scene, step: Step) -> tuple[Engine, Ticket]:
    """A replacement that has just entered that step."""
    engine, ticket = begin(scene)

    def entered(progress: Progress) -> bool:
        return scene.catalog.rollouts.slot(ticket.rollout_id, ticket.seq).step is step

    if step is not Step.CHECK:
        scene.drive(engine, ticket, until=entered)
    return engine, ticket


def mutations(scene: Scene) -> int:
    return sum(len(driver.calls(method)) for driver in (scene.platform, scene.balancer) for method in MUTATIONS)


def new_machine(scene: Scene) -> dict[str, Any]:
    return next(each for each in scene.living().values() if each["version"] == str(NEW))


def old_machine(scene: Scene, slot: str = "web-01") -> dict[str, Any]:
    return next(each for each in scene.living().values() if each["version"] == str(OLD) and each["slot"] == slot)


def failure(scene: Scene, engine: Engine, ticket: Ticket) -> str:
    """Drive it into its failure; the fleet must serve as before, with nothing left over."""
    with pytest.raises(errors.StepFailed) as caught:
        scene.drive(engine, ticket)
    assert scene.state(engine.rollout) is RolloutState.HALTED
    scene.check_journals()
    return str(caught.value)


def untouched(scene: Scene) -> None:
    assert scene.versions() == {slot: [str(OLD)] for slot in scene.fleet.slots}
    assert len(scene.serving()) == scene.fleet.size
    assert sorted(scene.balancer.servers()) == scene.serving()
