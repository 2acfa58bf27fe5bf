"""The reaper deletes old snapshots of data volumes, and never one that anybody might still need."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from phoenix_fleet.catalog.records import RolloutState
from phoenix_fleet.domain.errors import Blind, Unavailable
from phoenix_fleet.domain.volumes import snapshot_token
from phoenix_fleet.rollout import reaping_snapshots
from phoenix_fleet.rollout.reaping_snapshots import SnapshotReaper
from tests.rollout.reapers import Crash
from tests.rollout.scene import Scene
from tests.rollout.test_stateful import DATA

Stage = Callable[..., Scene]
MONTH = timedelta(days=30)


@pytest.fixture
def scene(stage: Stage) -> Scene:
    return stage(**DATA)


def reaper(scene: Scene, keep: int = 2) -> SnapshotReaper:
    return SnapshotReaper(
        scene.platform, scene.catalog, "web", {"data": keep}, log=scene.story.append, clock=scene.clock
    )


def take(scene: Scene, times: int, slot: str = "web-01") -> list[str]:
    """Snapshots of the slot's volume as so many rollouts leave them, a month apart, the last a month ago; their ids."""
    volume, found = scene.data[slot], []
    for number in range(times):
        purpose = f"rollout-{900 + number}"
        token = snapshot_token(purpose, volume, "machine")
        params = {"name": f"{slot}/data", "label": f"{slot}/data"}
        intent = scene.catalog.intents.begin("snapshot", volume, params, ticket=None, purpose=purpose, token=token)
        found.append(scene.platform.snapshot_volume(volume, token).id)
        scene.catalog.intents.outcome(intent.id, "done", {})
        scene.clock.advance(MONTH)
    return found


def left(scene: Scene, slot: str = "web-01") -> list[str]:
    return [each["id"] for each in scene.platform.volumes()[scene.data[slot]]["snapshots"]]


def test_the_newest_of_each_slot_stay(scene: Scene) -> None:
    first, second = take(scene, 4), take(scene, 3, "web-02")

    done = reaper(scene).run()

    assert (left(scene), left(scene, "web-02")) == (first[2:], second[1:])
    assert set(done.deleted) == {*first[:2], second[0]}
    assert reaper(scene).run().lines() == []
    scene.check_journals()


def test_a_look_touches_nothing(scene: Scene) -> None:
    taken = take(scene, 4)

    found = reaper(scene).look()

    assert [each.snapshot.id for each in found.due] == taken[:2]
    assert left(scene) == taken
    assert scene.platform.calls("delete_snapshot") == []


def test_what_we_did_not_ask_for_stays(scene: Scene) -> None:
    by_hand = [scene.platform.snapshot_volume(scene.data["web-01"], f"by hand {number}").id for number in range(3)]
    taken = take(scene, 3)

    reaper(scene).run()

    assert left(scene) == [*by_hand, *taken[1:]]


def test_a_volume_that_the_file_does_not_name_any_more_keeps_all(scene: Scene) -> None:
    taken = take(scene, 4)

    SnapshotReaper(scene.platform, scene.catalog, "web", {"logs": 1}, log=print, clock=scene.clock).run()

    assert left(scene) == taken


def test_a_rollout_that_comes_after_the_look_keeps_its_slots(scene: Scene) -> None:
    taken = take(scene, 4)

    def open_meanwhile(position: str, method: str, _subject: str) -> None:
        if (position, method) == ("after", "list_snapshots"):
            scene.on_call = lambda *_: None
            scene.open()

    scene.on_call = open_meanwhile
    done = reaper(scene).run()

    assert (done.deleted, left(scene)) == ((), taken)
    assert "what stands there is its own" in done.spared[0][1]


def test_after_a_real_rollout_its_snapshots_are_the_newest(scene: Scene) -> None:
    taken = take(scene, 3)
    rollout = scene.run(scene.open())
    assert rollout.state is RolloutState.DONE
    *_, newest = left(scene)

    reaper(scene, 1).run()
    assert left(scene) == [taken[-1], newest]  # so young that it may fail yet

    scene.clock.advance(timedelta(days=2))
    reaper(scene, 1).run()
    assert left(scene) == [newest]
    scene.check_at_rest()


@pytest.mark.parametrize("position", ["before", "after"])
def test_whoever_dies_over_one_is_followed_by_another(scene: Scene, position: str) -> None:
    taken = take(scene, 4)

    def die(at: str, method: str, _subject: str) -> None:
        if (at, method) == (position, "delete_snapshot"):
            scene.on_call = lambda *_: None
            raise Crash

    scene.on_call = die
    with pytest.raises(Crash):
        reaper(scene).run()
    reaper(scene).run()

    assert left(scene) == taken[2:]
    reaper(scene).run()
    scene.check_journals()


def test_without_a_complete_list_nothing_is_touched(scene: Scene) -> None:
    taken = take(scene, 4)
    scene.platform.fail_next("list_snapshots", Unavailable("page 2 is missing"))

    with pytest.raises(Blind):
        reaper(scene).run()

    assert left(scene) == taken


def test_a_few_at_a_time(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaping_snapshots, "MOST", 2)
    taken = take(scene, 6)

    reaper(scene, 1).run()
    assert left(scene) == taken[2:]
    reaper(scene, 1).run()
    assert left(scene) == taken[4:]
