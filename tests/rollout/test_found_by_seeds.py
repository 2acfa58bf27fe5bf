"""What seeds of the simulator have found in the engine, each as the shortest scene that shows it."""

from __future__ import annotations

from collections.abc import Callable

from phoenix_fleet.catalog.records import RolloutState
from tests.rollout.scene import NEW, Scene

Stage = Callable[..., Scene]


def test_an_extra_machine_launched_by_hand_does_not_take_the_room_for_good(stage: Stage) -> None:
    """It stands in the last slot, so no other slot's new instance has room before that one's turn has come."""
    scene = stage(max_surge="1", max_unavailable="0")
    scene.seed("web-03", NEW, attempt=9)
    rollout = scene.open()
    assert [each.slot for each in scene.catalog.rollouts.slots(rollout.id)] == ["web-03", "web-01", "web-02"]
    assert scene.run(rollout).state is RolloutState.DONE
    scene.check_at_rest()
