"""Reapers on fakes, what they find left over, and short words for what their tests do all the time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from phoenix_fleet.domain import reaping
from phoenix_fleet.domain.models import Artefact, Instance, LaunchIntent
from phoenix_fleet.rollout.progress import Progress
from phoenix_fleet.rollout.reaping import Reaped, Reaper
from phoenix_fleet.rollout.throwaway import FLEET as THROWAWAY
from tests.rollout.scene import NEW, Scene, digest_of

HOUR = timedelta(hours=1)
QUICK = {"watch_time": "1s", "platform": {"boot_seconds": 1, "stop_seconds": 0, "stop_reads": 0, "boot_reads": 0}}


class Crash(BaseException):
    """The process died here."""


def reaper(scene: Scene, **changes: Any) -> Reaper:
    given = {"slots": scene.fleet.slots, "balancer": scene.front, "log": scene.story.append, "clock": scene.clock}
    return Reaper(scene.platform, scene.catalog, scene.fleet.name, **{**given, **changes})


def leave(scene: Scene, slot: str = "web-01", *, run: str = "run-0", admit: bool = False) -> str:
    """What a rollout that was cancelled right after its launch leaves behind; its id comes back."""
    rollout = scene.open(run)
    engine = scene.engine(rollout)
    while True:
        ticket = scene.claim(engine, min(each.wave for each in unfinished(scene, rollout.id)), scene.holder())
        assert ticket is not None
        if ticket.slot == slot:
            break
        scene.drive(engine, ticket)
    after = "watch" if admit else "ready"
    scene.drive(engine, ticket, until=lambda progress: gone_as_far_as(progress, after))
    scene.catalog.rollouts.cancel("web", actor="ann", reason="the release is bad")
    (left,) = [each for each in scene.living().values() if each["slot"] == slot and each["version"] == str(NEW)]
    return str(left["id"])


def gone_as_far_as(progress: Progress, step: str) -> bool:
    return progress.state == "moved" and progress.step == {"ready": "launch", "watch": "admit"}[step]


def unfinished(scene: Scene, rollout: int) -> list[Any]:
    return [each for each in scene.catalog.rollouts.slots(rollout) if each.state != "done"]


def hourly(scene: Scene, times: int, **changes: Any) -> list[Reaped]:
    """So many runs, an hour apart, each by a reaper that knows nothing of the others."""
    found = []
    for number in range(times):
        if number:
            scene.clock.advance(HOUR)
        found.append(reaper(scene, **changes).run(actor="airflow", reason="hourly"))
    return found


def terminated(scene: Scene) -> list[str]:
    return [call.subject for call in scene.platform.calls("terminate")]


def mutations(scene: Scene) -> int:
    calls = [*scene.platform.calls(), *scene.balancer.calls()]
    return sum(call.method in ("launch", "terminate", "admit", "drain", "remove") for call in calls)


def throw(scene: Scene, run: str, *, fleet: str = THROWAWAY, slot: str = "test-fake") -> Instance:
    """A throw-away instance as a test launches it, and as a killed one leaves it."""
    digest = digest_of(NEW)
    artefact = Artefact("fake", f"registry/base@{digest}", digest)
    intent = LaunchIntent(fleet, slot, run, 1, family="base", version=str(NEW), artefact=artefact)
    params = {"fleet": fleet, "slot": intent.slot, "family": "base", "name": intent.name}
    begun = scene.catalog.intents.begin("launch", intent.slot, params, ticket=None, purpose=run, token=intent.token)
    scene.by_hand.add(intent.name)
    born = scene.platform.launch(intent)
    scene.catalog.intents.outcome(begun.id, "done", {"instance": born.id})
    return born


def throwaway_reaper(scene: Scene, family: str = "base") -> Reaper:
    return Reaper(
        scene.platform,
        scene.catalog,
        THROWAWAY,
        family=family,
        place="fake",
        log=scene.story.append,
        clock=scene.clock,
        rules=reaping.THROWAWAYS,
    )
