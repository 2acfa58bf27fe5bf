"""Adoption: what a crash in the launch left is found again by its token."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from phoenix_fleet.domain.errors import TransientError
from tests.rollout.reapers import Crash
from tests.rollout.scene import NEW, Scene


@pytest.mark.parametrize("where", ["not sent", "done, reply lost", "reply seen, not stored"])
def test_a_launch_that_died_is_adopted_and_never_made_twice(scene: Scene, where: str) -> None:
    rollout = scene.open()
    engine = scene.engine(rollout)
    position = {"not sent": "before", "done, reply lost": "", "reply seen, not stored": "after"}[where]

    def die(at: str, method: str, subject: str) -> None:
        if (at, method) == (position, "launch"):
            scene.on_call = lambda position, method, subject: None
            raise Crash

    scene.on_call = die
    if not position:
        scene.platform.lose_reply("launch")
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket is not None
    with pytest.raises((Crash, AssertionError)) if position else pytest.raises(TransientError):
        if position:
            scene.drive(engine, ticket)
        else:
            raise_when_lost(scene, engine, ticket)
    scene.on_call = lambda position, method, subject: None
    scene.clock.advance(timedelta(minutes=2))
    assert scene.run(rollout).state == "done"
    scene.check_at_rest()
    launched = [each for each in scene.platform.machines().values() if each["version"] == str(NEW)]
    assert len(launched) == 3


def raise_when_lost(scene: Scene, engine: Any, ticket: Any) -> None:
    """Drive until the lost reply shows, and die right there."""
    scene.drive(engine, ticket, until=lambda progress: "broke before the reply" in progress.message)
    raise TransientError("the process died here")
