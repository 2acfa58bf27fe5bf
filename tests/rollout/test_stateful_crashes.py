"""A crash at any call or commit of a move of data, and any request or reply of it lost: the next run finishes the move.

The checks at every call (``tests/rollout/strict.py``) say what holds meanwhile: a volume leaves a machine that is down,
after a snapshot of all that it wrote, and nobody is admitted or terminated without its data being where it should.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from phoenix_fleet.catalog.records import RolloutRecord, RolloutState
from phoenix_fleet.domain.errors import Halted, StepFailed, Unavailable
from phoenix_fleet.domain.models import InstanceState
from phoenix_fleet.gates import fake as fake_gate
from tests.rollout.scene import Scene, no_connections
from tests.rollout.strict import check_kept
from tests.rollout.worlds import DATA, Exploration, Tracer
from tests.sampling import WHOLE

pytestmark = pytest.mark.slow

Stage = Callable[..., Scene]
SAMPLE = 45
SEED = 2026


def stateful(stage: Stage, size: int) -> tuple[Scene, RolloutRecord]:
    """A fleet with data. One machine alone never goes first, so of one machine it is dead, and its data is left."""
    changes = {**DATA, "brake": {"share": "100%"}} if size == 1 else DATA
    scene = stage(size=size, **changes)
    scene.strict = True
    if size == 1:
        (machine,) = scene.living()
        scene.platform.set_state(machine, InstanceState.GONE)
        scene.balancer.forget_all()
    return scene, scene.open()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_crash_at_any_point_of_a_move(stage: Stage, size: int) -> None:
    scene, rollout = stateful(stage, size)
    sampled = {} if WHOLE or size == 1 else {"sample": SAMPLE, "seed": SEED}
    counts = Exploration(scene, crashes=1).explore(rollout, **sampled)
    print(f"\n{counts}")
    assert counts.points[0] > 90 * size


def test_a_lost_request_or_reply_of_any_call_of_a_filling_and_then_a_crash(stage: Stage) -> None:
    scene, rollout = stateful(stage, 1)
    exploration = Exploration(scene, crashes=1)
    counts = exploration.explore(rollout, sample=SAMPLE // 3, seed=SEED, lost=True)
    print(f"\n{counts}, {exploration.lost} requests and replies lost")
    assert exploration.lost > 60


@pytest.mark.parametrize("position", ["before", "after"])
@pytest.mark.parametrize(
    "lost",
    [
        "stop",
        "snapshot_volume",
        "detach_volume",
        "terminate",
        "launch",
        "attach_volume",
        "list_volumes",
        "list_snapshots",
    ],
)
def test_a_lost_request_or_reply_of_a_move(stage: Stage, lost: str, position: str) -> None:
    """Of the first machine's calls on its data each one in turn; the same holder goes on."""
    scene, rollout = stateful(stage, 2)
    beginning = scene.snapshot()
    most = 12 if lost.startswith("list") else 1
    for number in range(most):
        scene.restore(beginning)
        left = [number]

        def lose(at: str, method: str, subject: str, left: list[int] = left) -> None:
            if (at, method) == (position, lost):
                left[0] -= 1
                if left[0] == -1:
                    raise Unavailable(f"{method}({subject}): the connection broke.")

        scene.on_call = lose
        scene.replace_next(rollout)
        assert left[0] < 0, "it was never called so often"
        scene.on_call = lambda *_: None
        scene.check_between()


@pytest.mark.parametrize("failing", ["verify", "watch", "snapshot"])
def test_a_crash_at_any_point_of_a_failed_move_and_its_clean_up(stage: Stage, failing: str) -> None:
    """However often holders die, it ends halted with the data whole; and resumed, it comes to its end."""
    scenes = [stage(size=2, **DATA), stage(size=2, **DATA)]
    scene, again = scenes
    for each in scenes:
        each.strict = True
    worlds: dict[str, Any] = {}
    if failing == "snapshot":
        scene.platform.fail_snapshot("no room")
    rollout = scene.open()
    _break(scene, failing)
    tracer = Tracer(scene, lambda name, snapshot: worlds.setdefault(snapshot.key, (name, snapshot)))
    with tracer.tracing(), pytest.raises(StepFailed):
        scene.run(rollout)
    chosen = list(worlds.values())
    for number, (name, snapshot) in enumerate(chosen if WHOLE else chosen[:: max(1, len(chosen) // 40)]):
        again.restore(snapshot)
        again.data = dict(scene.data)
        _break(again, failing)
        try:
            with pytest.raises((StepFailed, Halted)):
                again.replace_next(again.catalog.rollouts.get(1))
            assert again.state(rollout) is RolloutState.HALTED
            again.check_journals()
            _mend(again, failing)
            assert again.run(again.catalog.rollouts.get(1)).state is RolloutState.DONE
            again.check_at_rest()
            check_kept(again)
        except Exception as error:
            raise AssertionError(f"crash {number} ({name}): {error}\n" + "\n".join(again.story)) from error


def _break(scene: Scene, failing: str) -> None:
    gate = fake_gate.Driver(fake_gate.Settings(verdict="failed"), no_connections, scene.folder)
    if failing == "verify":
        scene.verify = gate
    elif failing == "watch":
        scene.watch = gate


def _mend(scene: Scene, failing: str) -> None:
    """What a person does before it goes on."""
    passing = fake_gate.Driver(fake_gate.Settings(), no_connections, scene.folder)
    scene.verify = scene.watch = passing
    with scene.platform.world.transaction() as data:
        for volume in data["volumes"].values():
            volume["snapshots"] = [each for each in volume["snapshots"] if not each["failed"]]
    if scene.catalog.rollouts.current("web") is not None:
        scene.catalog.rollouts.resume("web", actor="alice", reason=f"looked into {failing}")
