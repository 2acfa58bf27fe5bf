"""The platform's quota of launches: kept within every hour, whoever holds, and nobody takes an old one out for it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from phoenix_fleet.catalog.records import RolloutState
from phoenix_fleet.domain.errors import Unavailable
from phoenix_fleet.domain.steps import Step
from tests.rollout.acts import begin, old_machine
from tests.rollout.scene import LEASE, Scene

Stage = Callable[..., Scene]
HOUR = timedelta(hours=1)
WAVE = 1
"""The first after the canary."""


def launches(scene: Scene) -> list[datetime]:
    """When the engine's own launches were begun."""
    return sorted(each.begun_at for each in scene.catalog.intents.list_intents() if each.action == "launch")


@pytest.mark.parametrize("budget", [{"max_surge": "1"}, {"max_surge": "0", "max_unavailable": "1"}])
@pytest.mark.parametrize("rate", [1, 2])
def test_no_more_launches_within_an_hour_than_the_quota(stage: Stage, rate: int, budget: dict[str, str]) -> None:
    scene = stage(size=5, quota={"launches_per_hour": rate}, **budget)
    assert scene.run(scene.open()).state is RolloutState.DONE
    begun = launches(scene)
    assert len(begun) == 5
    assert all(later - earlier >= HOUR for earlier, later in zip(begun, begun[rate:], strict=False)), begun
    assert begun[-1] - begun[0] < HOUR * (5 / rate + 0.5), "no slower than it must be"
    scene.check_at_rest()


def test_who_waits_says_for_what_and_until_when_and_everything_serves_meanwhile(stage: Stage) -> None:
    scene = stage(quota={"launches_per_hour": 1}, max_surge="0", max_unavailable="1")
    rollout = scene.open()
    assert scene.replace_next(rollout)
    engine = scene.engine(rollout)
    ticket = scene.claim(engine, 1, scene.holder())
    assert ticket
    progress = engine.advance(ticket)
    assert progress.state == "waiting"
    opens = launches(scene)[0] + HOUR
    said = f"the quota of 1 launch an hour is used up; the next may go at {opens:%Y-%m-%d %H:%M} UTC"
    assert progress.message == scene.catalog.rollouts.slot(rollout.id, 2).facts["held"] == said
    assert len(scene.serving()) == 3


def test_waiting_for_the_quota_uses_up_no_limit_and_is_no_part_of_the_duration(stage: Stage) -> None:
    scene = stage(quota={"launches_per_hour": 1}, timeouts={"ready": "1m"})
    rollout = scene.open()
    assert scene.run(rollout).state is RolloutState.DONE
    for slot in scene.catalog.rollouts.slots(rollout.id):
        assert slot.began_at
        assert slot.finished_at
        assert slot.finished_at - slot.began_at < HOUR / 4


def test_two_that_stand_before_the_launch_do_not_share_the_last_place(stage: Stage) -> None:
    """Both have passed the look at the first step, as those who look in the same moment do."""
    scene = stage(quota={"launches_per_hour": 1}, max_surge="2", max_in_flight=2)
    rollout = scene.open()
    assert scene.replace_next(rollout)
    scene.clock.advance(HOUR)
    engine, rollouts = scene.engine(rollout), scene.catalog.rollouts
    first = rollouts.claim(rollout.id, WAVE, "worker-1", lease=LEASE, max_in_flight=2)
    other = rollouts.claim(rollout.id, WAVE, "worker-2", lease=LEASE, max_in_flight=2)
    assert first
    assert other
    for ticket in (first, other):
        rollouts.enter(ticket, Step.LAUNCH, facts={"round": 1, "began_at": scene.clock.now().isoformat()})
    moved = engine.advance(first)
    assert moved.state == "moved", moved.message
    second = engine.advance(other)
    assert (second.state, second.step) == ("waiting", Step.LAUNCH)
    assert "the quota of 1 launch an hour is used up" in second.message
    assert len(launches(scene)) == 2


def test_a_launch_begun_before_goes_on_although_the_quota_is_used_up(stage: Stage) -> None:
    scene = stage(quota={"launches_per_hour": 1})
    engine, ticket = begin(scene)
    assert engine.advance(ticket).state == "moved"

    def lose_the_reply(position: str, method: str, subject: str) -> None:
        if (position, method) == ("after", "launch"):
            scene.on_call = lambda position, method, subject: None
            raise Unavailable("the connection was reset")

    scene.on_call = lose_the_reply
    assert engine.advance(ticket).state == "waiting"
    assert engine.advance(ticket).message.endswith("had been launched before")
    assert len(launches(scene)) == 1
    assert old_machine(scene)["name"] in scene.serving()
