"""Fleets with data volumes and a quorum: the data moves with its slot, and nobody goes whom the others need."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from phoenix_fleet.catalog.records import RolloutState
from phoenix_fleet.domain import errors
from phoenix_fleet.domain.models import OWNER, InstanceState
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.gates import fake as fake_gate
from phoenix_fleet.rollout.reaping import Reaper
from tests.rollout.acts import failure, new_machine, old_machine, reach
from tests.rollout.scene import NEW, OLD, Scene, no_connections
from tests.rollout.worlds import NO_SURGE, QUICK

Stage = Callable[..., Scene]
DATA: dict[str, Any] = {**QUICK, **NO_SURGE, "volumes": [{"name": "data", "size": "10g", "mount": "/srv/data"}]}


def calls(scene: Scene, *methods: str) -> list[str]:
    return [each.method for each in scene.platform.calls() if each.method in methods]


def holders(scene: Scene) -> dict[str, str]:
    """The version of who has each slot's volume; empty for nobody."""
    machines = scene.platform.machines()
    found = scene.platform.volumes().values()
    return {each["slot"]: machines[each["attached_to"]]["version"] if each["attached_to"] else "" for each in found}


def test_the_data_moves_to_the_new_instance_after_a_snapshot(stage: Stage) -> None:
    scene = stage(**DATA)
    scene.strict = True
    assert scene.run(scene.open()).state is RolloutState.DONE
    scene.check_at_rest()
    assert set(holders(scene).values()) == {str(NEW)}
    order = ["stop", "snapshot_volume", "detach_volume", "terminate", "launch", "attach_volume"]
    made = calls(scene, *order)[-6:]
    assert made == order


def test_the_configurator_is_told_where_the_data_is(stage: Stage) -> None:
    scene = stage(**DATA)
    told: list[Any] = []
    apply = scene.configurator.apply
    scene.configurator.apply = lambda instance, environment, say: (  # type: ignore[method-assign]
        told.append(environment.variables["phoenix_volumes"]),
        apply(instance, environment, say),
    )
    scene.run(scene.open())
    volume = scene.data["web-01"]
    assert told[0] == [
        {"name": "data", "device": f"/dev/disk/by-id/fake-{volume}", "mount": "/srv/data", "filesystem": "ext4"}
    ]
