"""From whatever state it is found in the fleet comes to its target, and then stays as it is (I16, I17).

Each seed makes a state of its own: engines got somewhere and died, people steered, somebody launched, moved, drained
and killed instances by hand. From then on nothing goes wrong any more. ``PHOENIX_MID_STATES=10000`` tries that many,
``PHOENIX_MID_STATES_FROM`` says from which seed on.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from phoenix_fleet.catalog.records import RolloutState
from phoenix_fleet.domain import errors
from phoenix_fleet.domain.models import InstanceState
from phoenix_fleet.rollout.reaping import Reaper
from tests.rollout.acts import mutations
from tests.rollout.chaos import NEWER, Chaos
from tests.rollout.scene import NEW, OLD, Scene

SAMPLE = int(os.environ.get("PHOENIX_MID_STATES", "25"))
FIRST = int(os.environ.get("PHOENIX_MID_STATES_FROM", "0"))
HOUR = timedelta(hours=1)
MOST_RESUMED = 8
"""So often a person resumes one rollout; each resume finds one thing that was changed by hand."""
RECONCILES = 10


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    made = Chaos(tmp_path_factory.mktemp("anywhere"))
    yield made
    made.scene.catalog.close()


class Hands:
    """What somebody does to the fleet by hand, knowing nothing of us."""

    def __init__(self, chaos: Chaos, rnd: random.Random) -> None:
        self.scene, self.rnd, self.made = chaos.scene, rnd, 0

    def launch(self) -> None:
        """An instance of ours in some slot, by somebody's script; like any launch it leaves the others alone."""
        self.made += 1
        version = self.rnd.choice((OLD, NEW, NEWER))
        self.unwatched(
            self.scene,
            lambda: self.scene.seed(
                self.rnd.choice(self.scene.fleet.slots),
                version,
                attempt=1000 + self.made,
                admit=self.rnd.random() < 0.5,
            ),
        )

    def move(self) -> None:
        """It carries the mark of another slot now."""
        if key := self._one():
            self.scene.platform.retag(key, slot=self.rnd.choice(self.scene.fleet.slots))

    def give_away(self) -> None:
        """To another fleet; not all of them, which nobody could tell from a broken view."""
        ours = [key for key, each in self.scene.living().items() if each["fleet"] == "web"]
        if len(ours) > 2 and (key := self._one()):
            self.scene.platform.retag(key, fleet="lab")

    def kill(self) -> None:
        if key := self._one():
            self.scene.platform.set_state(key, self.rnd.choice((InstanceState.GONE, InstanceState.FAILED)))
            self.scene.balancer.set_health(self.scene.platform.machines()[key]["name"], healthy=False)

    def drain(self) -> None:
        if key := self._one():
            self.scene.by_hand.add(self.scene.platform.machines()[key]["name"])
            self.unwatched(self.scene, lambda: self.scene.balancer.drain(self.scene.platform.get_instance(key)))

    def restart_the_balancer(self) -> None:
        self.scene.balancer.forget_all()

    def _one(self) -> str:
        ours = sorted(key for key, each in self.scene.living().items() if each["fleet"] == "web")
        return self.rnd.choice(ours) if ours else ""

    @staticmethod
    def unwatched(scene: Scene, act: Callable[[], object]) -> None:
        """What is done by hand is not held against our promises."""
        scene.raised = scene.strict = False
        try:
            with suppress(errors.PhoenixError):
                act()
        finally:
            scene.raised = scene.strict = True


def make_a_mess(chaos: Chaos, rnd: random.Random) -> None:
    """Somewhere in the middle of things."""
    chaos.begin()
    chaos.open(rnd.choice((NEW, NEWER)))
    hands = Hands(chaos, rnd)
    by_hand = (hands.launch, hands.move, hands.give_away, hands.kill, hands.drain, hands.restart_the_balancer)
    for _ in range(rnd.randrange(2, 14)):
        holder = rnd.randrange(3)
        what = rnd.random()
        if what < 0.45:
            chaos.claim(holder)
            chaos.advance(holder, rnd.randrange(1, 25))
        elif what < 0.6:
            chaos.crash(holder, rnd.randrange(16))
        elif what < 0.8:
            rnd.choice(by_hand)()
        elif what < 0.9:
            rnd.choice((chaos.halt, chaos.resume, chaos.cancel))()
            chaos.open(rnd.choice((NEW, NEWER)))
        else:
            chaos.sleep(rnd.choice((5, 61, 400)))
        chaos.check()


def finish(chaos: Chaos, run: str) -> None:
    """Whatever rollout is open, or one to the newest, to its end; whatever halts it a person looks into."""
    scene = chaos.scene
    rollout = scene.catalog.rollouts.current("web") or scene.open(run=run, version=NEWER)
    for _ in range(MOST_RESUMED):
        if scene.state(rollout) is RolloutState.HALTED:
            look_into(chaos, scene.catalog.rollouts.get(rollout.id).halted_reason)
        if scene.state(rollout) is RolloutState.CANCELLED:
            rollout = scene.open(run=f"{run}, anew {scene.holder()}", version=NEWER)
        try:
            assert scene.run(rollout).state is RolloutState.DONE
        except (errors.StepFailed, errors.Halted):
            continue
        return
    raise AssertionError(f"{run} never ends: {scene.catalog.rollouts.get(rollout.id).halted_reason}")


def look_into(chaos: Chaos, why: str) -> None:
    """What the runbooks say: mend the cause of a meltdown, plan anew where the plan fits no more, else go on."""
    scene = chaos.scene
    rollout = scene.catalog.rollouts.current("web")
    assert rollout is not None
    if "the brake of web" in why:
        for key, machine in scene.living().items():
            if machine["fleet"] == "web" and machine["state"] is InstanceState.RUNNING:
                scene.by_hand.add(machine["name"])
                Hands.unwatched(scene, lambda key=key: scene.balancer.admit(scene.platform.get_instance(key)))
        scene.clock.advance(timedelta(minutes=1))
        if not scene.serving():
            # Replacing the machines is the cure itself.
            brake = type(scene.fleet.brake).model_validate({"share": "100%"})
            scene.fleet = scene.fleet.model_copy(update={"brake": brake})
            scene.catalog.rollouts.cancel("web", actor="alice", reason=why)
            return
    crowded = "no room for another instance" in why
    if crowded and rollout.version == NEWER:
        remove_twin(chaos)
    if "never a downgrade" in why or "has to stay for now" in why or (crowded and rollout.version != NEWER):
        # A newer one stands in the way, or what is missing is none of this rollout's.
        scene.catalog.rollouts.cancel("web", actor="alice", reason=why)
    else:
        scene.catalog.rollouts.resume("web", actor="alice", reason="looked into it")


def remove_twin(chaos: Chaos) -> None:
    """Of two that somebody put into one slot, both on the release, only a person may take one away (I13).

    The one that does not serve, if one of them does not: the other may be all that the floor has left.
    """
    scene, seen, serving = chaos.scene, set(), set(chaos.scene.serving())
    for key, machine in sorted(scene.living().items(), key=lambda each: (each[1]["name"] not in serving, each[0])):
        if (machine["fleet"], machine["version"]) != ("web", str(NEWER)):
            continue
        if machine["slot"] in seen:
            scene.by_hand.add(machine["name"])
            Hands.unwatched(scene, lambda key=key: scene.balancer.remove(scene.platform.get_instance(key)))
            scene.platform.set_state(key, InstanceState.GONE)
            return
        seen.add(machine["slot"])


def reap(chaos: Chaos) -> None:
    scene = chaos.scene
    given = {"slots": scene.fleet.slots, "balancer": scene.front, "log": scene.story.append, "clock": scene.clock}
    Reaper(scene.platform, scene.catalog, "web", **given).run(actor="airflow", reason="hourly")  # type: ignore[arg-type]


def play(chaos: Chaos, seed: int) -> None:
    scene = chaos.scene
    make_a_mess(chaos, random.Random(seed))  # noqa: S311
    for driver in (scene.platform, scene.balancer):
        with driver.world.transaction() as data:
            data.update(faults=[], throttle=0, lag=0.0)
    scene.clock.advance(timedelta(minutes=20))
    finish(chaos, "open-one")  # may bring the release before the newest
    finish(chaos, "the-last")
    for _ in range(6):
        scene.clock.advance(HOUR)
        reap(chaos)
    chaos.check()
    scene.check_journals()
    ours: dict[str, set[str]] = {}
    for machine in scene.living().values():
        if machine["fleet"] == "web":
            ours.setdefault(machine["slot"], set()).add(machine["version"])
    assert set(ours) == set(scene.fleet.slots)
    assert all(found == {str(NEWER)} for found in ours.values()), ours
    assert len(scene.serving()) >= scene.fleet.size
    before = mutations(scene)
    for number in range(RECONCILES):
        finish(chaos, f"again-{number}")
        scene.clock.advance(HOUR)
        reap(chaos)
    assert mutations(scene) == before, "at the target nothing is touched any more"
    chaos.end()


@pytest.mark.slow
@pytest.mark.timeout(24 * 3600)
def test_from_anywhere_to_the_target(chaos: Chaos, tmp_path: Path) -> None:
    """Some 0.7 s of one core each."""
    broken = {}
    for seed in range(FIRST, FIRST + SAMPLE):
        try:
            play(chaos, seed)
        except (AssertionError, errors.PhoenixError) as error:
            broken[seed] = f"{type(error).__name__}: {error}"
            print(f"seed {seed}: {broken[seed]}\n" + "\n".join(chaos.scene.story[-12:]))
    assert not broken, broken
