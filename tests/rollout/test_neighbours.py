"""A fleet that depends on another: nothing begins here while that one is degraded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from phoenix_fleet.balancers import fake as fake_balancer
from phoenix_fleet.catalog.records import RolloutRecord, RolloutState
from phoenix_fleet.config import Fleet
from phoenix_fleet.domain import errors
from phoenix_fleet.domain.models import Artefact, InstanceState, LaunchIntent
from phoenix_fleet.domain.planner import PlannedSlot
from phoenix_fleet.rollout.deps import Neighbour
from phoenix_fleet.rollout.engine import Engine
from phoenix_fleet.rollout.planning import freeze
from tests.rollout.acts import mutations
from tests.rollout.scene import OLD, Scene, digest_of, no_connections
from tests.rollout.test_golden import tell

Stage = Callable[..., Scene]


class Beside:
    """The fleet ``db`` of two machines, on the same platform and a balancer of its own."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.balancer = fake_balancer.Driver(fake_balancer.Settings(), no_connections, clock=scene.clock)
        self.fleet = Fleet.model_validate(
            {
                "fleet": "db",
                "family": "base",
                "owners": {"team": "shop"},
                "size": 2,
                "platform": "fake",
                "balancer": "fake",
            }
        )
        for slot in self.fleet.slots:
            self.start(slot)

    def start(self, slot: str) -> None:
        digest = digest_of(OLD)
        artefact = Artefact("fake", f"registry/base@{digest}", digest)
        intent = LaunchIntent("db", slot, f"seed-{slot}", 1, "base", str(OLD), artefact)
        self.scene.by_hand |= {intent.token, intent.name}
        self.scene.raised = False
        born = self.scene.platform.launch(intent)
        self.scene.raised = True
        while (seen := self.scene.platform.get_instance(born.id)).state is InstanceState.STARTING:
            self.scene.clock.advance(timedelta(seconds=1))
        self.balancer.admit(seen)
        for _ in range(3):
            self.balancer.state(seen)

    def names(self) -> list[str]:
        return [each["name"] for each in self.scene.platform.machines().values() if each["fleet"] == "db"]

    def engine(self, rollout: RolloutRecord) -> Engine:
        """That of the fleet that depends on it."""
        made = self.scene.engine(rollout)
        beside = Neighbour(self.fleet, self.scene.platform, self.balancer)
        made.deps = replace(made.deps, neighbours=(beside,))
        return made

    def open(self) -> RolloutRecord:
        """A rollout of db."""
        return self.scene.catalog.rollouts.open(
            "db", "base", OLD, OLD.window, "db-1", [PlannedSlot("db-01", 0, "outdated")],
            settings=freeze(self.fleet), actor="airflow", reason="scheduled refresh",
        )  # fmt: skip


def waits(scene: Scene, beside: Beside, hours: float = 5) -> str:
    """Drive the next replacement for as long as that; it may only wait, with one and the same reason."""
    engine = beside.engine(scene.open())
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket is not None
    before, until, reasons = mutations(scene), scene.clock.now() + timedelta(hours=hours), set[str]()
    while scene.clock.now() < until:
        progress = engine.advance(ticket)
        assert progress.state == "waiting"
        reasons.add(progress.message)
        scene.clock.advance(progress.check_after)
    assert mutations(scene) == before
    (reason,) = reasons
    return reason


def test_one_below_its_floor_is_waited_for_however_long_it_takes(stage: Stage) -> None:
    scene = stage(size=2)
    beside = Beside(scene)
    sick = beside.names()[1]
    rollout = scene.open()
    engine = beside.engine(rollout)
    beside.balancer.set_health(sick, healthy=False)
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket is not None
    before, until = mutations(scene), scene.clock.now() + timedelta(hours=2)
    scene.drive(engine, ticket, until=lambda progress: scene.clock.now() >= until)
    assert mutations(scene) == before
    beside.balancer.set_health(sick, healthy=True)
    scene.story.append(f"{scene.at()} db is whole again")
    scene.drive(engine, ticket)
    ticket = scene.claim(engine, 1, scene.holder())
    assert ticket is not None
    scene.drive(engine, ticket)
    assert scene.catalog.rollouts.complete(rollout.id).state is RolloutState.DONE
    tell(scene, "waits-for-another-fleet")


def test_one_whose_rollout_is_halted_is_waited_for(stage: Stage) -> None:
    scene = stage()
    beside = Beside(scene)
    rollout = beside.open()
    scene.catalog.rollouts.halt("db", actor="alice", reason="looks wrong")
    assert waits(scene, beside, hours=0.1) == (
        f"the fleet db, which this one depends on, is degraded: its rollout {rollout.id} is halted: looks wrong"
    )


def test_one_that_cannot_be_seen_is_not_whole(stage: Stage) -> None:
    scene = stage()
    beside = Beside(scene)

    def away(position: str, method: str, subject: str) -> None:
        if (position, method, subject) == ("before", "list_instances", "db"):
            raise errors.AuthenticationFailed("the token has expired.")

    scene.on_call = away
    assert waits(scene, beside, hours=0.1).endswith("is degraded: it cannot be seen: the token has expired")


def test_one_that_is_whole_or_in_mid_rollout_holds_nobody_up(stage: Stage) -> None:
    scene = stage()
    beside = Beside(scene)
    beside.open()
    engine = beside.engine(scene.open())
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket is not None
    assert engine.advance(ticket).state == "moved"


def test_what_has_begun_goes_on(stage: Stage) -> None:
    scene = stage(size=1)
    beside = Beside(scene)
    rollout = scene.open()
    engine = beside.engine(rollout)
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket is not None
    assert engine.advance(ticket).state == "moved"
    for name in beside.names():
        beside.balancer.set_health(name, healthy=False)
    scene.drive(engine, ticket)
    assert scene.catalog.rollouts.complete(rollout.id).state is RolloutState.DONE


@pytest.mark.parametrize(("sick", "whole"), [(0, True), (1, True), (2, False)])
def test_its_floor_is_its_own_files(stage: Stage, sick: int, whole: bool) -> None:
    scene = stage()
    beside = Beside(scene)
    beside.fleet = beside.fleet.model_copy(update={"max_unavailable": "50%"})
    for name in beside.names()[:sick]:
        beside.balancer.set_health(name, healthy=False)
    engine = beside.engine(scene.open())
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket is not None
    assert (engine.advance(ticket).state == "moved") is whole
