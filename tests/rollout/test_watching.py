"""Gates that judge a watch as a whole: who they are told of, and that only a failure ends the watch early."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from phoenix_fleet.domain.steps import Step
from phoenix_fleet.gates import fake
from tests.rollout.acts import failure, new_machine, reach, untouched
from tests.rollout.scene import Scene, no_connections

Stage = Callable[..., Scene]


class Watching(fake.Driver):
    watches: ClassVar[bool] = True


def watching(scene: Scene) -> Watching:
    scene.watch = gate = Watching(fake.Settings(), no_connections, scene.folder)
    return gate


def test_it_is_told_who_served_beside_it_all_the_time(stage: Stage) -> None:
    scene = stage(brake={"at_least": 3})
    gate = watching(scene)
    engine, ticket = reach(scene, Step.WATCH)
    gate.next = ["inconclusive"]
    assert engine.advance(ticket).state == "waiting", "before the end inconclusive is not yet"
    early = gate.calls[-1].facts
    gone = next(each for each in early["beside"] if each["name"].startswith("web-03"))
    scene.balancer.set_health(gone["name"], healthy=False)
    scene.drive(engine, ticket, until=lambda progress: progress.state == "moved")
    late = gate.calls[-1].facts
    assert (early["watch_over"], late["watch_over"]) == (False, True)
    assert [each["name"][:6] for each in early["beside"]] == ["web-01", "web-02", "web-03"]
    assert [each["name"][:6] for each in late["beside"]] == ["web-01", "web-02"]
    assert new_machine(scene)["name"] not in {each["name"] for each in early["beside"]}
    assert late["watched_from"] == early["watched_from"] == early["watched_until"] < late["watched_until"]


def test_what_fails_early_ends_the_watch_early(stage: Stage) -> None:
    scene = stage(watch_time="60s")
    gate = watching(scene)
    engine, ticket = reach(scene, Step.WATCH)
    gate.next = ["error", "failed"]
    assert "watch failed: metrics: failed" in failure(scene, engine, ticket)
    assert [call.facts["watch_over"] for call in gate.calls] == [False, False]
    untouched(scene)
