from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from phoenix_fleet.domain import errors
from phoenix_fleet.domain.models import InstanceState
from phoenix_fleet.rollout.throwaway import FLEET
from tests.rollout.scene import Scene
from tests.rollout.throwaways import Boots, image, poll, pool

Stage = Callable[..., Scene]


@pytest.fixture
def scene(stage: Stage) -> Scene:
    return stage(platform={"boot_seconds": 2, "stop_seconds": 2})


def alive(scene: Scene) -> list[str]:
    return sorted(each["slot"] for each in scene.living().values() if each["fleet"] == FLEET)


def test_from_launch_to_gone(scene: Scene) -> None:
    made = pool(scene).launch(image(scene), "test-fake", poll=poll(scene))
    assert (made.state, made.fleet, made.slot) == (InstanceState.RUNNING, FLEET, "test-fake")
    assert made.host_keys
    assert made.digest == image(scene).artefacts["fake"].digest
    assert pool(scene).hostspec(made) == f"fake://{made.id}"
    pool(scene).retire("test-fake", poll=poll(scene))
    assert alive(scene) == []
    intents = scene.catalog.intents.list_intents("image.base/run-1")
    assert [(each.action, each.outcome) for each in intents] == [("launch", "done"), ("terminate", "done")]
    assert {each.rollout_id for each in intents} == {None}


def test_asking_again_gives_the_same_one_also_in_another_process(scene: Scene) -> None:
    first = pool(scene).launch(image(scene), "test-fake", poll=poll(scene))
    assert pool(scene).launch(image(scene), "test-fake", poll=poll(scene)).id == first.id
    assert pool(scene).launch(image(scene), "certify-app", poll=poll(scene)).id != first.id
    assert pool(scene, "image.base/run-2").launch(image(scene), "test-fake", poll=poll(scene)).id != first.id
    assert alive(scene) == ["certify-app", "test-fake", "test-fake"]
    pool(scene).retire("test-fake", poll=poll(scene))
    assert alive(scene) == ["certify-app", "test-fake"], "only that slot of that purpose"


def test_after_retiring_it_is_a_new_one(scene: Scene) -> None:
    first = pool(scene).launch(image(scene), "test-fake", poll=poll(scene))
    pool(scene).retire("test-fake", poll=poll(scene))
    pool(scene).retire("test-fake", poll=poll(scene))
    again = pool(scene).launch(image(scene), "test-fake", poll=poll(scene))
    assert again.id != first.id
    assert alive(scene) == ["test-fake"]


def test_retiring_what_never_was_is_fine(scene: Scene) -> None:
    pool(scene).retire("test-fake", poll=poll(scene))
    assert not scene.platform.calls("terminate")


@pytest.mark.parametrize("method", ["launch", "get_instance", "list_instances", "terminate"])
def test_replies_may_be_lost(scene: Scene, method: str) -> None:
    made = pool(scene)
    for _ in range(2):
        if method in ("launch", "get_instance"):
            scene.platform.lose_reply(method)
    made.launch(image(scene), "test-fake", poll=poll(scene))
    assert alive(scene) == ["test-fake"]
    if method == "terminate":
        scene.platform.lose_reply(method)
    made.retire("test-fake", poll=poll(scene))
    assert alive(scene) == []


def test_a_crash_after_the_launch_leaves_one_that_is_found_again(scene: Scene) -> None:
    class Crash(BaseException):
        pass

    def crash(position: str, method: str, subject: str) -> None:
        if (position, method) == ("after", "launch"):
            raise Crash

    scene.on_call = crash
    with pytest.raises(Crash):
        pool(scene).launch(image(scene), "test-fake", poll=poll(scene))
    scene.on_call = lambda position, method, subject: None
    assert alive(scene) == ["test-fake"]
    pool(scene).launch(image(scene), "test-fake", poll=poll(scene))
    assert alive(scene) == ["test-fake"]
    pool(scene).retire("test-fake", poll=poll(scene))
    assert alive(scene) == []


def test_one_that_never_boots_is_retired_and_told(scene: Scene) -> None:
    scene.platform.fail_boot("kernel panic")
    with pytest.raises(errors.StepFailed, match="kernel panic"):
        pool(scene).launch(image(scene), "test-fake", poll=poll(scene))
    assert alive(scene) == []
    assert pool(scene).launch(image(scene), "test-fake", poll=poll(scene)).state is InstanceState.RUNNING


def test_one_that_is_another_image_is_retired(scene: Scene) -> None:
    scene.platform.boot_wrong("sha256:evil")
    with pytest.raises(errors.StepFailed, match="sha256:evil"):
        pool(scene).launch(image(scene), "test-fake", poll=poll(scene))
    assert alive(scene) == []


def test_an_impostor_is_refused(scene: Scene) -> None:
    scene.probe = lambda instance: ("ssh-ed25519 SOMEBODYELSE",)
    with pytest.raises(errors.AuthenticationFailed, match="SOMEBODYELSE"):
        pool(scene).launch(image(scene), "test-fake", poll=poll(scene))
    assert alive(scene) == []


def test_silence_ends_after_the_time_for_it(scene: Scene) -> None:
    scene.probe = lambda instance: ()
    began = scene.clock.now()
    with pytest.raises(errors.TimedOut, match="longer than 5 min until it is ready"):
        pool(scene).launch(image(scene), "test-fake", poll=poll(scene))
    assert scene.clock.now() - began < timedelta(minutes=6)
    assert alive(scene) == []


def test_one_that_does_not_go_is_told(scene: Scene) -> None:
    made = pool(scene)
    running = made.launch(image(scene), "test-fake", poll=poll(scene))
    scene.on_call = lambda position, method, subject: (
        scene.platform.set_state(running.id, InstanceState.STOPPING)
        if (position, method) == ("before", "get_instance")
        else None
    )
    with pytest.raises(errors.TimedOut, match="longer than 10 min until it is gone"):
        made.retire("test-fake", poll=poll(scene))


def test_reboot(scene: Scene) -> None:
    boots = Boots(scene)
    made = pool(scene, boots=boots)
    before = made.launch(image(scene), "test-fake", poll=poll(scene))
    after = made.reboot(before, poll=poll(scene))
    assert (after.id, after.host_keys) == (before.id, before.host_keys)
    assert (boots.boot, boots.away) == (2, 0)


def test_a_reboot_that_does_not_happen_is_told(scene: Scene) -> None:
    boots = Boots(scene)
    boots.works = False
    made = pool(scene, boots=boots)
    before = made.launch(image(scene), "test-fake", poll=poll(scene))
    with pytest.raises(errors.TimedOut, match="another boot"):
        made.reboot(before, poll=poll(scene))


def test_sweeping_takes_what_is_old_and_of_that_kind_alone(scene: Scene) -> None:
    pool(scene, "image.base/run-1").launch(image(scene), "test-fake", poll=poll(scene))
    pool(scene, "image.other/run-1").launch(image(scene), "test-other", poll=poll(scene))
    stranger = scene.platform.add_foreign("test-x", fleet=FLEET, slot="test-x", token="t", owner="phoenix-fleet")
    scene.clock.advance(timedelta(hours=3))
    pool(scene, "image.base/run-2").launch(image(scene), "test-young", poll=poll(scene))
    swept = pool(scene, "sweep").sweep("image.base/", timedelta(hours=2), poll=poll(scene))
    assert [name.rsplit("-", 1)[0] for name in swept] == ["test-fake"]
    assert alive(scene) == ["test-other", "test-x", "test-young"]
    assert scene.platform.machines()[stranger]["state"] is InstanceState.RUNNING
