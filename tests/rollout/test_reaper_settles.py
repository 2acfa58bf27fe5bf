"""Calls of a cancelled rollout that nobody wrote an outcome for: the reaper does, by what it sees."""

from __future__ import annotations

from collections.abc import Callable

from phoenix_fleet.catalog.records import IntentRecord, RolloutState
from phoenix_fleet.domain.errors import Unavailable
from phoenix_fleet.domain.steps import Step
from tests.rollout.acts import reach
from tests.rollout.reapers import mutations, reaper
from tests.rollout.scene import Scene

Stage = Callable[..., Scene]


def left_open(scene: Scene) -> IntentRecord:
    """The new instance is told once more to serve, and whoever does that dies before the call has an outcome."""
    engine, ticket = reach(scene, Step.WATCH)
    intents, purpose = scene.catalog.intents, engine.rollout.purpose
    (admit,) = [each for each in intents.list_intents(purpose) if each.action == "admit"]
    return intents.begin("admit", admit.target, admit.params, ticket=ticket, purpose=purpose)


def cancel(scene: Scene) -> None:
    scene.catalog.rollouts.cancel("web", actor="alice", reason="changed her mind")


def run(scene: Scene) -> None:
    """One run of the reaper, which calls nothing for that."""
    before = mutations(scene)
    assert reaper(scene).run(actor="airflow", reason="hourly").trouble == ""
    assert mutations(scene) == before


def outcome(scene: Scene, intent: IntentRecord) -> tuple[str | None, str | None]:
    (found,) = [each for each in scene.catalog.intents.list_intents(intent.purpose) if each.id == intent.id]
    return found.outcome, found.result.get("seen_later")


def test_what_a_cancelled_rollout_left_open_is_settled_where_nothing_is_left_to_replace(stage: Stage) -> None:
    """Seed 13071: its new instance serves alone in the slot, so that no later rollout has anything to do there."""
    scene = stage(size=1)
    intent = left_open(scene)
    cancel(scene)
    run(scene)
    assert outcome(scene, intent) == ("done", "the balancer says healthy")
    assert scene.catalog.reaping.left_open("web") == []


def test_what_a_rollout_is_at_is_its_own(stage: Stage) -> None:
    """Whoever makes the call may be in the midst of it."""
    scene = stage(size=1)
    intent = left_open(scene)
    run(scene)
    assert outcome(scene, intent)[0] is None
    assert scene.catalog.rollouts.halt("web", actor="bob", reason="looking").state is RolloutState.HALTED
    run(scene)
    assert outcome(scene, intent)[0] is None


def test_what_cannot_be_looked_at_now_stays_open(stage: Stage) -> None:
    scene = stage(size=1)
    intent = left_open(scene)
    cancel(scene)

    def away(position: str, method: str, subject: str) -> None:
        if (position, method, subject) == ("before", "get_instance", intent.target):
            raise Unavailable("the platform does not answer.")

    scene.on_call = away
    run(scene)
    assert outcome(scene, intent)[0] is None
    scene.on_call = lambda position, method, subject: None
    run(scene)
    assert outcome(scene, intent)[0] == "done"


def test_of_what_somebody_made_his_own_nobody_will_know(stage: Stage) -> None:
    scene = stage(size=1)
    intent = left_open(scene)
    cancel(scene)
    scene.platform.retag(intent.target, owner="someone else")
    run(scene)
    name = scene.platform.machines()[intent.target]["name"]
    assert outcome(scene, intent) == ("unknown", f"{name} ({intent.target}) is not ours")
