"""Artefacts of dead images on fakes: deleted under an intent, but never what serves or what a rollback needs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from phoenix_fleet.domain.errors import Blind, Unavailable
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import Image
from phoenix_fleet.domain.windows import Version, Window
from phoenix_fleet.rollout.reaping_images import ImageReaper
from tests.rollout.scene import NEW, OLD, Scene, digest_of

Stage = Callable[..., Scene]


def reaper(scene: Scene) -> ImageReaper:
    log = scene.story.append
    return ImageReaper(scene.platform, scene.catalog, "base", ["web"], place="fake", log=log, clock=scene.clock)


def rejected(scene: Scene, build: int = 2) -> Image:
    image = scene.release(Version(Window(2026, 11), build), Rung.TESTED)
    return scene.catalog.images.move("base", image.version, Rung.REJECTED, actor="ann", reason="it failed")


def held(scene: Scene) -> list[str]:
    return [marks["version"] for _, marks in scene.platform.list_images("base")]


@pytest.fixture
def scene(stage: Stage) -> Scene:
    return stage(watch_time="1s")


def test_a_rejected_candidate_goes_after_a_week(scene: Scene) -> None:
    image = rejected(scene)
    scene.clock.advance(timedelta(days=6, hours=23))
    assert reaper(scene).run().deleted == ()
    scene.clock.advance(timedelta(hours=1))
    assert [str(found) for _, found in reaper(scene).look().found.due] == [str(image)]
    assert len(held(scene)) == 3
    assert reaper(scene).run().deleted == (f"registry/base@{digest_of(image.version)}",)
    assert held(scene) == [str(OLD), str(NEW)]
    intents = scene.catalog.intents.list_intents("reap-base/fake")
    assert [(each.action, each.outcome) for each in intents] == [("delete_image", "done")]
    assert reaper(scene).run().lines() == []


def test_what_a_rollback_goes_to_stays_even_retired(scene: Scene) -> None:
    scene.run(scene.open("run-old"))
    newest = scene.release(Version(Window(2026, 12), 1))
    scene.run(scene.open("run-new", newest.version))
    for version in (OLD, NEW):
        scene.catalog.images.move("base", version, Rung.RETIRED, actor="ann")
    scene.clock.advance(timedelta(days=60))
    reaper(scene).run()
    assert held(scene) == [str(NEW), str(newest.version)]


def test_what_still_runs_is_spared(scene: Scene) -> None:
    scene.catalog.images.move("base", OLD, Rung.RETIRED, actor="ann")
    scene.clock.advance(timedelta(days=60))
    found = reaper(scene).run()
    assert [why for _, why in found.spared] == [f"registry/base@{digest_of(OLD)} is still run by {names(scene)[0]}"]
    assert str(OLD) in held(scene)


def names(scene: Scene) -> list[str]:
    return [each["name"] for each in scene.living().values()]


def test_one_that_moved_meanwhile_is_read_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    image = rejected(scene)
    scene.clock.advance(timedelta(days=8))
    monkeypatch.setattr(scene.catalog.images, "get", lambda family, version: Image(family, version, Rung.RELEASED))
    assert [why for _, why in reaper(scene).run().spared] == [f"{image} is released now"]
    assert len(held(scene)) == 3


def test_a_list_that_fails_deletes_nothing(scene: Scene) -> None:
    rejected(scene)
    scene.clock.advance(timedelta(days=8))
    scene.platform.fail_next("list_images", Unavailable("page 2 did not come"))
    with pytest.raises(Blind):
        reaper(scene).run()
    assert len(held(scene)) == 3


def test_a_lost_reply_is_made_good_by_the_next_run(scene: Scene) -> None:
    rejected(scene)
    scene.clock.advance(timedelta(days=8))
    scene.platform.lose_reply("delete_image")
    with pytest.raises(Unavailable):
        reaper(scene).run()
    (intent,) = scene.catalog.intents.pending("reap-base/fake")
    assert intent.outcome == "unknown"
    assert reaper(scene).run().lines() == []
    assert scene.catalog.intents.pending("reap-base/fake") == []


def marks(scene: Scene) -> dict[str, str]:
    return {each["version"]: each["status"] for _, each in scene.platform.list_images("base")}


def test_what_is_revoked_says_so_on_the_platform(scene: Scene) -> None:
    scene.catalog.images.move("base", NEW, Rung.REVOKED, actor="ann", reason="CVE-2026-1")
    assert marks(scene) == {str(OLD): "released", str(NEW): "released"}
    assert [str(image.version) for _, image in reaper(scene).look().found.mismarked] == [str(NEW)]
    assert reaper(scene).run().marked == (f"registry/base@{digest_of(NEW)}",)
    assert marks(scene) == {str(OLD): "released", str(NEW): "revoked"}
    intents = scene.catalog.intents.list_intents("reap-base/fake")
    assert [(each.action, each.params, each.outcome) for each in intents] == [
        ("tag_image", {"status": "revoked"}, "done")
    ]
    assert reaper(scene).run().lines() == []


def test_a_mark_whose_reply_is_lost_is_settled_by_the_next_run(scene: Scene) -> None:
    scene.catalog.images.move("base", NEW, Rung.REVOKED, actor="ann", reason="CVE-2026-1")

    def lose_the_reply(position: str, method: str, subject: str) -> None:
        if (position, method) == ("after", "tag_image"):
            raise Unavailable("the connection was reset")

    scene.on_call = lose_the_reply
    with pytest.raises(Unavailable):
        reaper(scene).run()
    assert [each.outcome for each in scene.catalog.intents.list_intents("reap-base/fake")] == ["unknown"]
    assert reaper(scene).run().marked == ()
    assert [each.outcome for each in scene.catalog.intents.list_intents("reap-base/fake")] == ["done"]
