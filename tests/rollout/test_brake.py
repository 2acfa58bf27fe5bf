"""The brake in whole rollouts: too much is out of service, or there is no view of it; nothing is touched any more."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from phoenix_fleet.catalog.records import RolloutRecord, RolloutState
from phoenix_fleet.domain import errors
from phoenix_fleet.domain.models import InstanceState
from phoenix_fleet.domain.steps import Step
from tests.rollout.acts import begin, mutations, reach
from tests.rollout.scene import NEW, OLD, Scene
from tests.rollout.test_golden import resumes, tell

Stage = Callable[..., Scene]


def sicken(scene: Scene, *slots: str, healthy: bool = False) -> None:
    for machine in scene.living().values():
        if machine["slot"] in slots:
            scene.balancer.set_health(machine["name"], healthy=healthy)


def halts(scene: Scene, rollout: RolloutRecord) -> str:
    with pytest.raises(errors.StepFailed) as caught:
        scene.run(rollout)
    scene.story.append(f"{scene.at()} {caught.value}")
    assert scene.state(rollout) is RolloutState.HALTED
    scene.check_journals()
    return str(caught.value)


MANY = [f"web-{number:02d}" for number in range(4, 9)]


def test_a_meltdown_halts_and_nothing_more_is_touched(stage: Stage) -> None:
    scene = stage(size=8, max_unavailable="8")
    rollout = scene.open()
    scene.replace_next(rollout)
    sicken(scene, *MANY)
    scene.story.append(f"{scene.at()} five machines fall sick at once")
    before = mutations(scene)
    error = halts(scene, rollout)
    assert "5 of 8 are out of service (web-04, web-05, web-06, web-07, web-08)" in error
    assert "docs/runbooks/rollout-meltdown.md" in error
    assert mutations(scene) == before, "no call that changes anything"
    assert "5 of 8 are out of service" in scene.catalog.rollouts.get(rollout.id).halted_reason
    scene.story.append(f"{scene.at()} they are healthy again")
    sicken(scene, *MANY, healthy=True)
    resumes(scene, rollout)
    tell(scene, "meltdown")


@pytest.mark.parametrize("step", [Step.LAUNCH, Step.DRAIN, Step.TERMINATE])
def test_a_meltdown_at_any_step_that_takes_or_gives(stage: Stage, step: Step) -> None:
    scene = stage(size=8, max_unavailable="8")
    engine, ticket = reach(scene, step)
    sicken(scene, *MANY)
    launched, gone = len(scene.platform.calls("launch")), len(scene.platform.calls("terminate"))
    with pytest.raises(errors.StepFailed, match="5 of 8 are out of service"):
        scene.drive(engine, ticket)
    assert (len(scene.platform.calls("launch")), len(scene.platform.calls("terminate"))) == (launched, gone)
    scene.check_journals()


def test_what_was_being_drained_serves_again(stage: Stage) -> None:
    scene = stage(size=8, max_unavailable="8", drain={"limit": "5m", "policy": "fail"})
    engine, ticket = reach(scene, Step.DRAIN)
    old = next(m["name"] for m in scene.living().values() if m["slot"] == "web-01" and m["version"] == str(OLD))
    scene.balancer.set_connections(old, 3)
    scene.drive(engine, ticket, until=lambda progress: old not in scene.serving())
    scene.story.append(f"{scene.at()} five machines fall sick at once")
    sicken(scene, *MANY)
    with pytest.raises(errors.StepFailed, match="5 of 8") as caught:
        scene.drive(engine, ticket)
    scene.story.append(f"{scene.at()} {caught.value}")
    assert old in scene.serving(), "the old one is back"
    assert sorted(scene.versions()["web-01"]) == [str(OLD), str(NEW)], "and the new one was left alone"
    sicken(scene, *MANY, healthy=True)
    scene.balancer.set_connections(old, 0)
    scene.story.append(f"{scene.at()} they are healthy again")
    resumes(scene, engine.rollout)
    tell(scene, "meltdown-in-a-drain")


def test_a_small_fleet_stops_only_when_all_of_it_is_dark(stage: Stage) -> None:
    scene = stage(size=3, max_unavailable="3")
    engine, ticket = begin(scene)
    sicken(scene, "web-02", "web-03")
    assert engine.advance(ticket).state == "moved", "two of three: the floor is what protects"
    sicken(scene, "web-01")
    with pytest.raises(errors.StepFailed, match="3 of 3 are out of service"):
        scene.drive(engine, ticket)


def test_the_file_says_how_much_is_borne(stage: Stage) -> None:
    scene = stage(size=8, max_unavailable="8", brake={"share": "100%"})
    rollout = scene.open()
    sicken(scene, *MANY)
    assert scene.run(rollout).state is RolloutState.DONE
    strict = stage(size=8, max_unavailable="8", brake={"share": "0", "at_least": 1})
    rollout = strict.open()
    sicken(strict, "web-08")
    assert "1 of 8 are out of service (web-08)" in halts(strict, rollout)


@pytest.mark.parametrize("surge", ["1", "0"])
def test_filling_a_new_fleet_is_no_meltdown(stage: Stage, surge: str) -> None:
    scene = stage(size=8, max_surge=surge, max_unavailable="2", max_in_flight=2)
    for key in scene.living():
        scene.platform.set_state(key, InstanceState.GONE)
    scene.balancer.forget_all()
    rollout = scene.open()
    assert {each.reason for each in scene.catalog.rollouts.slots(rollout.id)} == {"empty slot"}
    assert scene.run(rollout).state is RolloutState.DONE


def test_without_surge_what_is_in_hand_is_not_sick(stage: Stage) -> None:
    scene = stage(size=8, max_surge="0", max_unavailable="1", brake={"share": "0", "at_least": 1})
    assert scene.run(scene.open()).state is RolloutState.DONE
    scene.check_at_rest()


# Our own view


def break_view(scene: Scene, *broken: tuple[str, errors.PhoenixError]) -> dict[str, bool]:
    """From now on these reads fail, until ``on`` is taken away."""
    switch = {"on": True}

    def fail(position: str, method: str, subject: str) -> None:
        for name, error in broken:
            if switch["on"] and position == "before" and method == name:
                raise type(error)(*error.args)

    scene.on_call = fail
    return switch


VIEWS = [
    ("list_instances", errors.Unavailable("the platform does not answer.")),
    ("list_instances", errors.AuthenticationFailed("the token has expired.")),
    ("list_instances", errors.Throttled("slow down.")),
    ("state", errors.Unavailable("the balancer does not answer.")),
    ("state", errors.AuthenticationFailed("the balancer does not know us any more.")),
]


@pytest.mark.parametrize(("method", "error"), VIEWS)
@pytest.mark.parametrize("step", [Step.CHECK, Step.DRAIN])
def test_without_a_view_nothing_is_touched_and_then_it_halts(
    stage: Stage, method: str, error: errors.PhoenixError, step: Step
) -> None:
    scene = stage(brake={"blind_for": "7m"})
    engine, ticket = reach(scene, step)
    before, began = mutations(scene), scene.clock.now()
    break_view(scene, (method, error))
    with pytest.raises(errors.StepFailed) as caught:
        scene.drive(engine, ticket)
    told = str(error.args[0]).removesuffix(".")
    assert f"our own view is broken: no complete view of web for 7 min: {told}" in str(caught.value)
    assert "docs/runbooks/rollout-blind.md" in str(caught.value)
    assert mutations(scene) == before
    assert 420 <= (scene.clock.now() - began).total_seconds() < 430
    assert scene.state(engine.rollout) is RolloutState.HALTED


@pytest.mark.parametrize(("method", "error"), VIEWS)
def test_a_view_that_comes_back_is_gone_on_with(stage: Stage, method: str, error: errors.PhoenixError) -> None:
    scene = stage(size=2, timeouts={"admit": "1m"})
    engine, ticket = reach(scene, Step.DRAIN)
    switch = break_view(scene, (method, error))
    until = scene.clock.now() + engine.fleet.brake.blind_for * 0.9
    scene.drive(engine, ticket, until=lambda progress: scene.clock.now() >= until)
    switch["on"] = False
    scene.drive(engine, ticket)
    assert scene.run(engine.rollout).state is RolloutState.DONE
    scene.check_at_rest()


def test_an_empty_listing_is_a_broken_view_and_launches_nothing(stage: Stage) -> None:
    scene = stage(size=3)
    rollout = scene.open()
    scene.replace_next(rollout)
    before = mutations(scene)
    with scene.platform.world.transaction() as data:
        machines = data["machines"]
        hidden = {key: machine["fleet"] for key, machine in machines.items()}
        for machine in machines.values():
            machine["fleet"] = "elsewhere"
    scene.story.append(f"{scene.at()} from here on the platform lists nothing")
    error = halts(scene, rollout)
    assert "our own view is broken: no complete view of web for 10 min: nothing is listed of web" in error
    assert mutations(scene) == before
    with scene.platform.world.transaction() as data:
        for key, fleet in hidden.items():
            data["machines"][key]["fleet"] = fleet
    scene.story.append(f"{scene.at()} it lists them again")
    resumes(scene, rollout)
    tell(scene, "view-broken")


def test_a_listing_that_leaves_out_what_stands_there_launches_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = stage()
    engine, ticket = begin(scene)
    old = next(key for key, each in scene.living().items() if each["slot"] == "web-01")
    whole = scene.platform.list_instances
    monkeypatch.setattr(scene.platform, "list_instances", lambda fleet: [i for i in whole(fleet) if i.id != old])
    before = mutations(scene)
    progress = engine.advance(ticket)
    assert progress.state == "waiting"
    assert "was left out of the listing of web" in progress.message
    assert mutations(scene) == before


def test_drawing_a_ticket_needs_no_view(stage: Stage) -> None:
    scene = stage(max_in_flight=2, max_surge="2")
    engine = scene.engine(scene.open())
    break_view(scene, ("list_instances", errors.AuthenticationFailed("the token has expired.")))
    assert engine.in_flight_limit() == (1, "there is no complete view of the fleet: the token has expired")
