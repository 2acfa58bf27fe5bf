"""The reaper on fakes: what a crash left goes, slowly and exactly; whatever is not understood stays."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from phoenix_fleet.domain import reaping
from phoenix_fleet.domain.models import Backend
from tests.rollout.reapers import HOUR, QUICK, gone_as_far_as, hourly, leave, mutations, reaper, terminated, throw
from tests.rollout.scene import NEW, Scene

Stage = Callable[..., Scene]


def test_what_a_cancelled_rollout_left_goes_at_the_third_look(scene: Scene) -> None:
    orphan = leave(scene)
    first, second, third = hourly(scene, 3)
    assert [len(each.found.orphans) for each in (first, second, third)] == [1, 1, 1]
    assert (first.told, second.told) == ((), ())
    assert third.told == (scene.platform.machines()[orphan]["name"],)
    assert terminated(scene) == [orphan]
    assert scene.catalog.reaping.pending("web") == [], "the outcome is written down at once"
    assert len(scene.living()) == len(scene.serving()) == 3
    (last,) = hourly(scene, 1)
    assert last.found == reaping.Reaping()
    scene.check_journals()
    scene.catalog.events.verify()


def test_one_that_the_balancer_knows_is_taken_out_there_first(scene: Scene) -> None:
    orphan = leave(scene, admit=True)
    name = scene.platform.machines()[orphan]["name"]
    assert scene.balancer.servers()[name] is Backend.HEALTHY
    assert hourly(scene, 4)[-1].found.orphans == ()
    scene.balancer.set_health(name, False)
    scene.balancer.set_connections(name, 2)
    *_, third = hourly(scene, 3)
    assert third.spared == ((name, "2 connections are open on it"),)
    assert terminated(scene) == []
    scene.balancer.set_connections(name, 0)
    scene.clock.advance(HOUR)
    assert hourly(scene, 1)[0].told == (name,)
    assert name not in scene.balancer.servers()
    scene.check_journals()


def test_a_dry_run_writes_and_touches_nothing(scene: Scene) -> None:
    leave(scene)
    hourly(scene, 2)
    scene.clock.advance(HOUR)
    before, calls = scene.catalog.events.head(), mutations(scene)
    found = reaper(scene).look()
    assert [each.instance.slot for each in found.found.due] == ["web-01"]
    assert any("due since" in line for line in found.lines())
    assert scene.catalog.events.head() == before
    assert mutations(scene) == calls


def test_a_halted_rollouts_machine_is_its_own(scene: Scene) -> None:
    rollout = scene.open()
    engine = scene.engine(rollout)
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket is not None
    scene.drive(engine, ticket, until=lambda progress: gone_as_far_as(progress, "ready"))
    scene.catalog.rollouts.halt("web", actor="ann", reason="looking")
    assert {each.found for each in hourly(scene, 6)} == {reaping.Reaping()}
    assert terminated(scene) == []


def test_two_hundred_foreign_machines_are_never_called(scene: Scene) -> None:
    """Look-alike names, our marks with another owner, ids of the past: nothing is asked about any of them."""
    orphan = leave(scene)
    token = scene.platform.machines()[orphan]["token"]
    foreign = []
    for number in range(200):
        slot = f"web-{number % 4:02d}"
        marks = {"fleet": "web", "slot": slot, "token": token if number % 2 else "t", "version": str(NEW)}
        owner = {"owner": ("", "Phoenix-Fleet", "phoenix-fleet-2", "someone")[number % 4]}
        foreign.append(scene.platform.add_foreign(f"{slot}-{number:08x}", **marks, **owner))
    hourly(scene, 8)
    assert terminated(scene) == [orphan]
    asked = {call.subject for call in (*scene.platform.calls(), *scene.balancer.calls())}
    names = {scene.platform.machines()[each]["name"] for each in foreign}
    assert not asked & {*foreign, *names}


def test_so_many_an_hour_whoever_asks(stage: Stage) -> None:
    scene = stage(max_surge="2", **QUICK)
    for slot in ("web-01", "web-02"):
        throw(scene, "rollout-90", fleet="web", slot=slot)
    rules = reaping.Rules(per_hour=1)
    *_, third = hourly(scene, 3, rules=rules)
    assert (len(third.told), len(third.spared)) == (1, 1)
    assert "enough for now" in third.spared[0][1]
    again = reaper(scene, rules=rules).run(actor="ann", reason="impatient")
    assert again.told == ()
    scene.clock.advance(HOUR + timedelta(seconds=1))
    assert len(hourly(scene, 1, rules=rules)[0].told) == 1


def test_the_server_of_what_a_cancelled_rollout_had_told_to_terminate_is_forgotten(scene: Scene) -> None:
    before = {each.id: each for each in scene.platform.list_instances("web")}
    rollout = scene.open()
    engine = scene.engine(rollout)
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket is not None
    scene.drive(engine, ticket, until=lambda progress: "told to terminate" in progress.message)
    scene.catalog.rollouts.cancel("web", actor="ann", reason="it hangs")
    (told,) = terminated(scene)
    scene.balancer.admit(before[told])  # as if the balancer had not heard, or had been restored from a backup
    hourly(scene, 3)
    assert told not in scene.balancer.servers()
    so_far = mutations(scene)
    hourly(scene, 2)
    assert mutations(scene) == so_far
