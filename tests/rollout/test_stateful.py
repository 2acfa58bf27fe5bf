"""Fleets with data volumes and a quorum: the data moves with its slot, and nobody goes whom the others need."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from phoenix_fleet.catalog.records import RolloutState
from phoenix_fleet.domain import errors
from phoenix_fleet.domain.models import OWNER, InstanceState
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.gates import fake as fake_gate
from phoenix_fleet.rollout.reaping import Reaper
from tests.rollout.acts import failure, new_machine, old_machine, reach
from tests.rollout.scene import NEW, OLD, Scene, no_connections
from tests.rollout.worlds import NO_SURGE, QUICK

Stage = Callable[..., Scene]
DATA: dict[str, Any] = {**QUICK, **NO_SURGE, "volumes": [{"name": "data", "size": "10g", "mount": "/srv/data"}]}


def calls(scene: Scene, *methods: str) -> list[str]:
    return [each.method for each in scene.platform.calls() if each.method in methods]


def holders(scene: Scene) -> dict[str, str]:
    """The version of who has each slot's volume; empty for nobody."""
    machines = scene.platform.machines()
    found = scene.platform.volumes().values()
    return {each["slot"]: machines[each["attached_to"]]["version"] if each["attached_to"] else "" for each in found}


def test_the_data_moves_to_the_new_instance_after_a_snapshot(stage: Stage) -> None:
    scene = stage(**DATA)
    scene.strict = True
    assert scene.run(scene.open()).state is RolloutState.DONE
    scene.check_at_rest()
    assert set(holders(scene).values()) == {str(NEW)}
    order = ["stop", "snapshot_volume", "detach_volume", "terminate", "launch", "attach_volume"]
    made = calls(scene, *order)[-6:]
    assert made == order


def test_the_configurator_is_told_where_the_data_is(stage: Stage) -> None:
    scene = stage(**DATA)
    told: list[Any] = []
    apply = scene.configurator.apply
    scene.configurator.apply = lambda instance, environment, say: (  # type: ignore[method-assign]
        told.append(environment.variables["phoenix_volumes"]),
        apply(instance, environment, say),
    )
    scene.run(scene.open())
    volume = scene.data["web-01"]
    assert told[0] == [
        {"name": "data", "device": f"/dev/disk/by-id/fake-{volume}", "mount": "/srv/data", "filesystem": "ext4"}
    ]


def test_a_new_instance_that_fails_gives_the_data_to_the_next_one(stage: Stage) -> None:
    scene = stage(**DATA)
    scene.strict = True
    scene.verify.next.append("failed")
    rollout = scene.open()
    with pytest.raises(errors.StepFailed, match=r"web-01.*verify failed"):
        scene.run(rollout)
    assert holders(scene)["web-01"] == ""
    assert "web-01" not in scene.versions()
    scene.check_journals()
    kept = scene.platform.volumes()[scene.data["web-01"]]
    assert [each["holds"] for each in kept["snapshots"]] == [kept["written_by"][:1], kept["written_by"]]

    scene.catalog.rollouts.resume("web", actor="alice", reason="the check was wrong")
    assert scene.run(rollout).state is RolloutState.DONE
    scene.check_at_rest()


def test_without_a_snapshot_nothing_is_detached(stage: Stage) -> None:
    scene = stage(**DATA)
    scene.platform.fail_snapshot("no room for it")
    rollout = scene.open()
    with pytest.raises(errors.StepFailed, match=r"the snapshot .* of web-01/data failed: no room for it"):
        scene.run(rollout)
    assert calls(scene, "detach_volume", "launch") == ["launch"] * scene.fleet.size
    assert holders(scene)["web-01"] == str(OLD)

    with scene.platform.world.transaction() as data:
        data["volumes"][scene.data["web-01"]]["snapshots"].clear()
    scene.catalog.rollouts.resume("web", actor="alice", reason="made room, took the broken one away")
    assert scene.run(rollout).state is RolloutState.DONE
    scene.check_at_rest()


def test_a_volume_that_takes_its_time_is_waited_for(stage: Stage) -> None:
    scene = stage(**{**DATA, "platform": {**QUICK["platform"], "volume_seconds": 40}})
    scene.strict = True
    assert scene.run(scene.open()).state is RolloutState.DONE
    scene.check_at_rest()


def test_reads_that_lag_behind_lose_no_data(stage: Stage) -> None:
    scene = stage(**{**DATA, "platform": {**QUICK["platform"], "volume_seconds": 5}})
    scene.platform.lag(20)
    assert scene.run(scene.open()).state is RolloutState.DONE
    scene.platform.lag(0)
    scene.check_at_rest()


@pytest.mark.parametrize("method", ["stop", "snapshot_volume", "list_snapshots", "detach_volume", "attach_volume"])
def test_what_is_not_to_be_seen_for_a_moment_is_looked_for_again(stage: Stage, method: str) -> None:
    scene = stage(**DATA)
    scene.strict = True
    scene.platform.fail_next(method, errors.NotFound("it is not to be seen"))
    assert scene.run(scene.open()).state is RolloutState.DONE
    scene.check_at_rest()


def test_what_another_machine_has_is_never_taken_from_it(stage: Stage) -> None:
    """Somebody attached the volume elsewhere while it was free: a person has to look."""
    scene = stage(**{**DATA, "timeouts": {"volumes": "1m"}})
    volume, thief = scene.data["web-01"], old_machine(scene, "web-03")["id"]
    engine, ticket = reach(scene, Step.LAUNCH)
    with scene.platform.world.transaction() as data:
        data["volumes"][volume]["timeline"].append([scene.clock.now().timestamp(), ["attached", thief]])
    said = failure(scene, engine, ticket)
    assert f"web-01/data is attached at {thief}" in said
    assert scene.platform.volumes()[volume]["attached_to"] == thief


def test_no_blank_one_takes_the_place_of_one_that_is_not_to_be_seen(stage: Stage) -> None:
    scene = stage(**DATA)
    assert scene.run(scene.open()).state is RolloutState.DONE
    with scene.platform.world.transaction() as data:
        data["volumes"][scene.data["web-01"]]["owner"] = "somebody"
    scene.platform.set_state(new_machine(scene)["id"], InstanceState.GONE)
    scene.balancer.forget_all()
    for key, machine in scene.living().items():
        scene.by_hand.add(machine["name"])
        scene.balancer.admit(scene.platform.get_instance(key))
    scene.clock.advance(timedelta(minutes=1))
    with pytest.raises(errors.StepFailed, match="web-01/data was there before and is not to be seen"):
        scene.run(scene.open("again"))
    assert not scene.platform.calls("create_volume")


def test_a_volume_that_never_was_is_made_once(stage: Stage) -> None:
    scene = stage(**DATA)
    with scene.platform.world.transaction() as data:
        data["volumes"].clear()
    scene.data.clear()
    scene.platform.lose_reply("create_volume")
    assert scene.run(scene.open()).state is RolloutState.DONE
    scene.check_at_rest()
    assert len(scene.platform.volumes()) == scene.fleet.size


def test_of_two_that_claim_one_place_none_is_taken(stage: Stage) -> None:
    scene = stage(**DATA)
    twin = scene.platform.add_volume("data", owner=OWNER, fleet="web", slot="web-01")
    with pytest.raises(errors.StepFailed, match="web-01/data is there 2 times"):
        scene.run(scene.open())
    assert holders(scene)["web-01"] == ""
    assert scene.platform.volumes()[twin]["attached_to"] == ""


def test_look_alikes_of_others_are_no_data_of_ours(stage: Stage) -> None:
    scene = stage(**DATA)
    foreign = scene.platform.add_volume("data", owner="somebody", fleet="web", slot="web-01")
    assert scene.run(scene.open()).state is RolloutState.DONE
    assert foreign not in [each.subject for each in scene.platform.calls("attach_volume")]


def test_the_new_instance_stands_where_its_data_is(stage: Stage) -> None:
    """Its old one is gone, so only the volume says where; nobody would be put there by chance."""
    scene = stage(**{**DATA, "platform": {**QUICK["platform"], "zones": ["a", "b"]}, "size": 4})
    with scene.platform.world.transaction() as data:
        for slot, volume in scene.data.items():
            zone = "c" if slot == "web-02" else old_machine(scene, slot)["zone"]
            data["volumes"][volume]["zone"] = zone
    scene.platform.set_state(old_machine(scene, "web-02")["id"], InstanceState.GONE)
    assert scene.run(scene.open()).state is RolloutState.DONE
    assert next(each["zone"] for each in scene.living().values() if each["slot"] == "web-02") == "c"


def test_what_a_cancelled_rollout_left_without_its_data_is_replaced(stage: Stage) -> None:
    """Without a balancer running would be serving; but nobody serves without the data that there is."""
    scene = stage(**DATA, balanced=False)
    engine, ticket = reach(scene, Step.READY)
    scene.drive(
        engine, ticket, until=lambda progress: "is being attached" in progress.message or bool(new_machine(scene))
    )
    scene.catalog.rollouts.cancel("web", actor="alice", reason="never mind")
    scene.clock.advance(timedelta(minutes=20))
    assert holders(scene)["web-01"] == ""
    assert scene.run(scene.open("again")).state is RolloutState.DONE
    scene.check_at_rest()


def test_the_reaper_leaves_alone_what_has_data(stage: Stage) -> None:
    scene = stage(**DATA)
    orphan = scene.living()[next(iter(scene.living()))]
    reaper = Reaper(
        scene.platform,
        scene.catalog,
        "web",
        slots=scene.fleet.slots,
        balancer=scene.front,
        volumes=scene.platform,
        log=scene.story.append,
        clock=scene.clock,
    )
    from phoenix_fleet.rollout.forgetting import Spared

    with pytest.raises(Spared, match="the data volume web-01/data is at it"):
        reaper._check_data(scene.platform.get_instance(orphan["id"]))


# Quorum

QUORUM: dict[str, Any] = {**QUICK, **NO_SURGE, "quorum": ["fake"]}


def test_the_others_are_asked_before_and_after_each(stage: Stage) -> None:
    scene = stage(**QUORUM)
    assert scene.run(scene.open()).state is RolloutState.DONE
    asked = [(each.instance.slot, each.facts["slot"]) for each in scene.quorum.calls if each.instance]
    assert asked[:4] == [("web-02", "web-01"), ("web-03", "web-01")] * 2
    assert all(witness != slot for witness, slot in asked)
    assert len(asked) == 4 * scene.fleet.size


def test_nothing_begins_while_the_quorum_does_not_hold(stage: Stage) -> None:
    scene = stage(**QUORUM)
    scene.quorum.next += ["failed", "error", "inconclusive"]
    scene.run(scene.open())
    waits = [line for line in scene.story if "has to stay for now: the quorum does not hold" in line]
    assert len(waits) == 3
    assert not [line for line in scene.story[: scene.story.index(waits[-1])] if "drain" in line]


def test_one_that_was_drained_comes_back_if_the_quorum_is_lost_meanwhile(stage: Stage) -> None:
    scene = stage(**QUORUM)
    name = old_machine(scene)["name"]
    scene.balancer.set_connections(name, 2)
    engine, ticket = reach(scene, Step.DRAIN)
    scene.drive(engine, ticket, until=lambda progress: progress.state == "waiting")
    scene.clock.advance(timedelta(seconds=70))
    scene.catalog.rollouts.renew(ticket, timedelta(minutes=5))
    scene.balancer.set_connections(name, 0)
    scene.quorum.next += ["failed"]
    assert "has to stay: the quorum does not hold" in failure(scene, engine, ticket)
    assert name in scene.serving()


def test_a_quorum_that_does_not_come_back_halts_and_the_new_one_stays(stage: Stage) -> None:
    scene = stage(**{**QUORUM, "timeouts": {"quorum": "1m"}})
    engine, ticket = reach(scene, Step.WATCH)
    never, scene.quorum = (
        scene.quorum,
        fake_gate.Driver(fake_gate.Settings(verdict="failed"), no_connections, scene.folder),
    )
    engine = scene.engine(engine.rollout)
    assert "1 min after the replacement the quorum does not hold" in failure(scene, engine, ticket)
    assert new_machine(scene)["name"] in scene.serving()

    scene.quorum = never
    scene.catalog.rollouts.resume("web", actor="alice", reason="the third member had to catch up")
    asked = len(never.calls)
    assert scene.run(engine.rollout).state is RolloutState.DONE
    assert never.calls[asked].facts["slot"] == "web-01", "it was asked once more before the next one"
    scene.check_at_rest()


def test_a_new_fleet_is_filled_before_there_is_a_quorum(stage: Stage) -> None:
    scene = stage(**QUORUM)
    for key in list(scene.living()):
        scene.platform.set_state(key, InstanceState.GONE)
    scene.balancer.forget_all()
    assert scene.run(scene.open()).state is RolloutState.DONE
    assert not scene.quorum.calls
