"""What happens while the reaper is at it: rollouts, people, another reaper, and its own death at any call."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from phoenix_fleet.domain import reaping
from phoenix_fleet.domain.models import InstanceState
from phoenix_fleet.rollout.reaping import Reaped
from tests.rollout.reapers import HOUR, QUICK, Crash, gone_as_far_as, hourly, leave, reaper, terminated
from tests.rollout.scene import Scene

Stage = Callable[..., Scene]


def test_one_born_between_the_two_listings_is_no_orphan(scene: Scene) -> None:
    """The race that breaks collectors which read the inventory first."""
    rollout = scene.open()
    engine = scene.engine(rollout)
    born: list[str] = []

    def launch_meanwhile(position: str, method: str, subject: str) -> None:
        if (position, method) == ("before", "list_instances") and not born:
            born.append("")
            ticket = scene.claim(engine, 0, scene.holder())
            assert ticket is not None
            scene.drive(engine, ticket, until=lambda progress: gone_as_far_as(progress, "ready"))

    scene.on_call = launch_meanwhile
    found = reaper(scene, rules=reaping.Rules(grace=timedelta())).run(actor="airflow", reason="hourly")
    assert born
    assert found.found == reaping.Reaping()
    assert len(scene.living()) == 4


def test_a_rollout_that_opens_after_the_look_keeps_the_reaper_out(scene: Scene) -> None:
    orphan = leave(scene)
    hourly(scene, 2)
    scene.clock.advance(HOUR)

    def open_meanwhile(position: str, method: str, subject: str) -> None:
        if (position, method, subject) == ("before", "get_instance", orphan):
            scene.on_call = lambda position, method, subject: None
            scene.open("run-2")

    scene.on_call = open_meanwhile
    (found,) = hourly(scene, 1)
    assert found.told == ()
    assert "what stands there is its own" in found.spared[0][1]
    assert terminated(scene) == []


@pytest.mark.parametrize("budget", [("1", "0"), ("0", "1")], ids=["surge", "no surge"])
def test_beside_a_running_rollout_at_every_step(stage: Stage, budget: tuple[str, str]) -> None:
    """A reaper without any patience, before and after every call of a whole rollout: it finds nothing to do."""
    scene = stage(**QUICK, max_surge=budget[0], max_unavailable=budget[1])
    rules = reaping.Rules(grace=timedelta())
    looks = 0

    def reap(position: str, method: str, subject: str) -> None:
        nonlocal looks
        if method not in ("launch", "terminate", "admit", "drain", "remove"):
            return
        scene.on_call = lambda position, method, subject: None
        looks += 1
        found = reaper(scene, rules=rules).run(actor="airflow", reason="hourly")
        assert (found.found.orphans, found.told) == ((), ())
        scene.on_call = reap

    scene.on_call = reap
    scene.run(scene.open())
    assert looks >= 24
    scene.check_at_rest()


def swap_identity(scene: Scene, orphan: str) -> None:
    with scene.platform.world.transaction() as data:
        data["machines"][orphan]["token"] = "another"


def put_into_service(scene: Scene, orphan: str) -> None:
    scene.balancer.admit(scene.platform.get_instance(orphan))
    scene.clock.advance(timedelta(minutes=1))


def lose_the_witness(scene: Scene, orphan: str) -> None:
    slot = scene.platform.machines()[orphan]["slot"]
    (witness,) = [key for key, each in scene.living().items() if each["slot"] == slot and key != orphan]
    scene.platform.set_state(witness, InstanceState.FAILED)


def sicken_the_witness(scene: Scene, orphan: str) -> None:
    slot = scene.platform.machines()[orphan]["slot"]
    (name,) = [each["name"] for key, each in scene.living().items() if each["slot"] == slot and key != orphan]
    scene.balancer.set_health(name, False)


def end_it(scene: Scene, orphan: str) -> None:
    scene.platform.set_state(orphan, InstanceState.GONE)


@pytest.mark.parametrize("happens", [swap_identity, put_into_service, lose_the_witness, sicken_the_witness, end_it])
def test_what_changes_between_the_look_and_the_call_is_seen(
    scene: Scene, happens: Callable[[Scene, str], None]
) -> None:
    orphan = leave(scene)
    hourly(scene, 2)
    scene.clock.advance(HOUR)

    def meanwhile(position: str, method: str, subject: str) -> None:
        if (position, method, subject) == ("before", "get_instance", orphan):
            scene.on_call = lambda position, method, subject: None
            happens(scene, orphan)

    scene.on_call = meanwhile
    (found,) = hourly(scene, 1)
    assert len(found.spared) == 1
    assert terminated(scene) == []


@pytest.mark.parametrize("known", [False, True], ids=["absent", "at the balancer"])
def test_dying_before_or_after_any_call_is_harmless(stage: Stage, known: bool) -> None:
    """Every call of the decisive run, before and after; the runs after it end the work and settle every intent."""
    scene = stage(**QUICK)
    orphan = leave(scene, admit=known)
    if known:
        scene.balancer.set_health(scene.platform.machines()[orphan]["name"], False)
    hourly(scene, 2)
    scene.clock.advance(HOUR)
    ready, points = scene.snapshot(), count_points(scene)
    assert points >= 10
    for number in range(points):
        scene.restore(ready)
        die_at(scene, number)
        with pytest.raises(Crash):
            reaper(scene).run(actor="airflow", reason="hourly")
        scene.on_call = lambda position, method, subject: None
        for _ in range(3):
            scene.clock.advance(HOUR)
            reaper(scene).run(actor="airflow", reason="hourly")
        assert set(terminated(scene)) == {orphan}, number
        assert len(scene.living()) == len(scene.serving()) == len(scene.balancer.servers()) == 3, number
        scene.check_journals()
        assert scene.catalog.reaping.pending("web") == [], number


def count_points(scene: Scene) -> int:
    points = 0

    def count(*_: str) -> None:
        nonlocal points
        points += 1

    scene.on_call = count
    reaper(scene).run(actor="airflow", reason="hourly")
    return points


def die_at(scene: Scene, number: int) -> None:
    left = number

    def die(*_: str) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            raise Crash

    scene.on_call = die


def test_a_lost_reply_is_settled_by_the_next_run(scene: Scene) -> None:
    orphan = leave(scene)
    hourly(scene, 2)
    scene.clock.advance(HOUR)
    scene.platform.lose_reply("terminate")
    (found,) = hourly(scene, 1)
    assert "the connection broke" in found.trouble
    assert found.alarm == found.trouble
    assert [each.outcome for each in scene.catalog.reaping.pending("web")] == ["unknown"]
    scene.clock.advance(HOUR)
    hourly(scene, 2)
    assert scene.catalog.reaping.pending("web") == []
    assert terminated(scene) == [orphan]


def test_two_reapers_at_once_take_each_one_once(scene: Scene) -> None:
    orphan = leave(scene)
    hourly(scene, 2)
    scene.clock.advance(HOUR)
    others: list[Reaped] = []

    def second(position: str, method: str, subject: str) -> None:
        if (position, method) == ("before", "terminate"):
            scene.on_call = lambda position, method, subject: None
            others.append(reaper(scene).run(actor="ann", reason="impatient"))

    scene.on_call = second
    found = reaper(scene).run(actor="airflow", reason="hourly")
    assert len(others) == 1
    assert set(terminated(scene)) == {orphan}
    assert [*found.told, *(name for name, _ in found.spared)]
    assert len(scene.living()) == len(scene.serving()) == 3
    scene.check_journals()
