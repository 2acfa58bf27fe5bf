"""A crash before and after every call to the outside and every commit of a rollout; another holder goes on.

What a killed process leaves behind is a snapshot of the catalog and of the outside world, so one traced run gives
every crash. Points that leave the very same world behind have the very same sequel, which is then played once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from phoenix_fleet.catalog.records import RolloutRecord, RolloutState
from phoenix_fleet.domain.errors import Halted, StepFailed
from phoenix_fleet.gates import fake as fake_gate
from tests.rollout.acts import mutations
from tests.rollout.scene import LEASE, Scene, no_connections
from tests.rollout.snapshots import Snapshot
from tests.rollout.worlds import NO_SURGE, QUICK, SURGE, Exploration, Tracer, watch_commits
from tests.sampling import WHOLE

pytestmark = pytest.mark.slow

Stage = Callable[..., Scene]

SAMPLE = 25
"""Of every generation so many worlds are played where playing all would take too long."""
SEED = 2026
LARGE, OF_LARGE = 5, 120
"""From that size on a sample of so many worlds is played, unless the whole is asked for."""


class Crash(BaseException):
    """The process is gone: nothing of ours may catch this."""


def trace(
    scene: Scene, rollout: RolloutRecord, ends: type[Exception] | None = None
) -> tuple[int, dict[str, tuple[str, Snapshot]]]:
    """How many points a run without crashes has, and the distinct worlds that a crash there leaves, by key."""
    worlds: dict[str, tuple[str, Snapshot]] = {}
    tracer = Tracer(scene, lambda name, snapshot: worlds.setdefault(snapshot.key, (name, snapshot)))
    with tracer.tracing():
        _play(scene, rollout, ends)
    return tracer.points, worlds


def _play(scene: Scene, rollout: RolloutRecord, ends: type[Exception] | None) -> None:
    if ends is None:
        assert scene.run(rollout).state is RolloutState.DONE
        scene.check_at_rest()
    else:
        with pytest.raises(ends):
            scene.run(rollout)


@pytest.mark.parametrize(("size", "budget"), [(1, SURGE), (3, SURGE), (3, NO_SURGE), (5, SURGE), (5, NO_SURGE)])
def test_a_crash_at_any_point(stage: Stage, budget: dict[str, str], size: int) -> None:
    """Whoever goes on: the fleet ends complete within the hour, without a machine too many at any moment.

    One machine alone is never taken out before another serves, so without surge there is no fleet of one.
    """
    scene = stage(size=size, **QUICK, **budget)
    scene.strict = True
    whole = WHOLE or size < LARGE
    sampled = {} if whole else {"sample": OF_LARGE, "seed": SEED}
    counts = Exploration(scene, crashes=1).explore(scene.open(), **sampled)
    print(f"\n{counts}")
    assert counts.points[0] > 100 * size
    assert counts.played == (counts.worlds if whole else [1, OF_LARGE])
    assert counts.slowest > LEASE, "nobody had to wait for the dead one's lease"


@pytest.mark.parametrize("budget", [SURGE, NO_SURGE], ids=["surge", "no-surge"])
def test_a_lost_request_or_reply_of_any_call_and_then_a_crash(stage: Stage, budget: dict[str, str]) -> None:
    scene = stage(size=2, **QUICK, **budget)
    scene.strict = True
    exploration = Exploration(scene, crashes=1)
    counts = exploration.explore(scene.open(), sample=SAMPLE, seed=SEED, lost=True)
    print(f"\n{counts}, {exploration.lost} requests and replies lost")
    assert exploration.lost > 90


def test_pairs_of_crashes_on_three_machines_in_a_sample(stage: Stage) -> None:
    """``scripts/crash-matrix`` plays all of them."""
    scene = stage(size=3, **QUICK, **SURGE)
    scene.strict = True
    counts = Exploration(scene, crashes=2).explore(scene.open(), sample=SAMPLE, seed=SEED)
    print(f"\nseed {SEED}: {counts}")
    assert counts.played == [1, SAMPLE, SAMPLE]
    assert counts.points[1] > 4 * counts.points[0]


def test_at_the_target_nothing_changes_any_more(stage: Stage) -> None:
    scene = stage(**QUICK)
    rollout = scene.open()
    assert scene.run(rollout).state is RolloutState.DONE
    before = mutations(scene)
    for number in range(100):
        assert scene.run(rollout).state is RolloutState.DONE
        again = scene.open(run=f"again-{number}")
        assert scene.run(again).state is RolloutState.DONE
    assert mutations(scene) == before
    scene.check_at_rest()


def test_an_exception_thrown_anywhere_leaves_what_a_kill_leaves(stage: Stage) -> None:
    """Nothing on the way out of the engine may act: no handler that "quickly" tidies up or writes something down."""
    scene = stage(size=1, **QUICK)
    left = -1

    def point(*_: str) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            raise Crash

    rollout = scene.open()
    beginning = scene.snapshot()
    points, worlds = trace(scene, rollout)
    watch_commits(scene, point, point)
    for number in range(0, points, 3):
        scene.restore(beginning)
        scene.on_call, scene.holders, left = point, 0, number
        with pytest.raises(Crash):
            scene.run(rollout)
        left = -1
        assert scene.snapshot().key in worlds, f"point {number} of {points}"


@pytest.mark.parametrize("failing", ["watch", "drain"])
@pytest.mark.parametrize("budget", [SURGE, NO_SURGE], ids=["surge", "no-surge"])
def test_a_crash_at_any_point_of_a_failure_and_its_clean_up(stage: Stage, budget: dict[str, str], failing: str) -> None:
    """However often holders die, it ends halted, and the fleet serves without a trace of the failed attempt."""
    changes: dict[str, Any] = {**QUICK, **budget, "drain": {"limit": "2s", "policy": "fail"}}
    scene, again = stage(**changes), stage(**changes)
    for each in (scene, again):
        if failing == "watch":
            each.watch = fake_gate.Driver(fake_gate.Settings(verdict="failed"), no_connections, each.folder)
    if failing == "drain":
        scene.balancer.set_connections(scene.serving()[0], 3)
    rollout = scene.open()
    before = scene.versions()
    _, worlds = trace(scene, rollout, ends=StepFailed)
    kept = {"web-01"} if failing == "watch" and budget is NO_SURGE else set()
    for number, (name, snapshot) in enumerate(worlds.values()):
        again.restore(snapshot)
        try:
            with pytest.raises((StepFailed, Halted)):
                again.replace_next(again.catalog.rollouts.get(1))
            assert again.state(rollout) is RolloutState.HALTED
            assert again.versions() == {slot: found for slot, found in before.items() if slot not in kept}
            assert len(again.serving()) == len(again.living()) == len(again.balancer.servers()) == 3 - len(kept)
            again.check_journals()
        except Exception as error:
            raise AssertionError(f"crash {number} ({name}): {error}\n" + "\n".join(again.story)) from error
