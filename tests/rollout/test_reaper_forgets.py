"""What is gone and left at the balancer: the reaper has it forgotten, once it is gone for certain."""

from __future__ import annotations

from collections.abc import Callable

from phoenix_fleet.domain.models import InstanceState
from phoenix_fleet.domain.steps import Step
from tests.rollout.acts import old_machine, reach
from tests.rollout.reapers import HOUR, hourly, mutations, reaper, terminated
from tests.rollout.scene import Scene

Stage = Callable[..., Scene]


def dies(scene: Scene, slot: str) -> str:
    (machine,) = [each for each in scene.living().values() if each["slot"] == slot]
    scene.platform.set_state(machine["id"], InstanceState.GONE)
    assert machine["name"] in scene.balancer.servers()
    return str(machine["name"])


def test_what_died_by_itself_is_forgotten(scene: Scene) -> None:
    scene.run(scene.open())
    died = dies(scene, "web-02")
    hourly(scene, 1)
    assert died in scene.balancer.servers(), "absence has to last"
    scene.clock.advance(HOUR)
    (found,) = hourly(scene, 1)
    assert (found.trouble, found.told) == ("", ())
    assert died not in scene.balancer.servers()
    assert sorted(scene.balancer.servers()) == scene.serving()
    (intent,) = [each for each in scene.catalog.intents.list_intents() if each.token == "reaper"]
    assert (intent.action, intent.params["name"], intent.outcome) == ("remove", died, "done")
    before = mutations(scene)
    hourly(scene, 2)
    assert mutations(scene) == before


def test_a_look_touches_nothing(scene: Scene) -> None:
    scene.run(scene.open())
    died = dies(scene, "web-02")
    reaper(scene).look()
    assert died in scene.balancer.servers()


def test_where_a_rollout_is_at_work_nothing_is_forgotten(scene: Scene) -> None:
    scene.run(scene.open())
    died = dies(scene, "web-02")
    scene.open("run-2")
    hourly(scene, 2)
    assert died in scene.balancer.servers()
    assert any(died in line and "still knows it" in line for line in scene.story)


def test_what_a_cancelled_rollout_had_told_to_terminate_is_forgotten(stage: Stage) -> None:
    """Its connections were cut, so the balancer would not let go of it before it had gone."""
    scene = stage(drain={"limit": "5s", "policy": "force"})
    engine, ticket = reach(scene, Step.DRAIN)
    old = old_machine(scene)
    scene.balancer.set_connections(old["name"], 3)
    scene.drive(engine, ticket, until=lambda progress: old["id"] in terminated(scene))
    scene.catalog.rollouts.cancel("web", actor="alice", reason="enough")
    assert old["name"] in scene.balancer.servers()
    scene.balancer.set_connections(old["name"], 0)
    hourly(scene, 2)
    assert old["name"] not in scene.balancer.servers()
