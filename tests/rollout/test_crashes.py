"""A crash before and after every call to the outside and every commit of a rollout; another holder goes on.

What a killed process leaves behind is a snapshot of the catalog and of the outside world, so one traced run gives
every crash. Points that leave the very same world behind have the very same sequel, which is then played once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from phoenix_fleet.catalog.database import Transaction
from phoenix_fleet.catalog.records import RolloutRecord, RolloutState, SlotState
from phoenix_fleet.domain.errors import Halted, StepFailed
from phoenix_fleet.gates import fake as fake_gate
from tests.rollout.scene import Scene, Snapshot, no_connections

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {
    "platform": {"boot_reads": 0, "boot_seconds": 1, "stop_reads": 0, "stop_seconds": 1},
    "balancer": {"start_reads": 0, "start_seconds": 1},
    "watch_time": "1s",
}
SURGE = {"max_surge": "1", "max_unavailable": "0"}
NO_SURGE = {"max_surge": "0", "max_unavailable": "1"}


EVERY = 12
"""The interrupted replacement is always played to its end; every so many, the rest of the rollout is too."""


class Crash(BaseException):
    """The process is gone: nothing of ours may catch this."""


def watch_commits(scene: Scene, before: Callable[[], object], after: Callable[[], object]) -> Callable[[], None]:
    """Call these two around every commit of the scene's catalog, until the function that comes back is called."""
    database = scene.catalog._database
    original = database.write

    @contextmanager
    def write() -> Iterator[Transaction]:
        with original() as transaction:
            yield transaction
            before()
        after()

    database.write = write  # type: ignore[method-assign]

    def undo() -> None:
        database.write = original  # type: ignore[method-assign]

    return undo


def trace(
    scene: Scene, rollout: RolloutRecord, ends: type[Exception] | None = None
) -> tuple[int, dict[str, tuple[str, Snapshot]]]:
    """How many points a run without crashes has, and the distinct worlds that a crash there leaves, by key."""
    catalog = scene.read_catalog()
    points = 0
    worlds: dict[str, tuple[str, Snapshot]] = {}

    def point(name: str) -> None:
        nonlocal points
        points += 1
        snapshot = scene.snapshot(catalog)
        worlds.setdefault(snapshot.key, (name, snapshot))

    def committed() -> None:
        nonlocal catalog
        catalog = scene.read_catalog()
        point("after a commit")

    scene.on_call = lambda position, method, subject: point(f"{position} {method} {subject}")
    undo = watch_commits(scene, lambda: point("before a commit"), committed)
    if ends is None:
        assert scene.run(rollout).state is RolloutState.DONE
        scene.check_at_rest()
    else:
        with pytest.raises(ends):
            scene.run(rollout)
    undo()
    return points, worlds


@pytest.mark.parametrize("budget", [SURGE, NO_SURGE], ids=["surge", "no-surge"])
def test_a_crash_at_any_point_of_three_replacements(stage: Callable[..., Scene], budget: dict[str, str]) -> None:
    scene = stage(**QUICK, **budget)
    points, worlds = trace(scene, scene.open())
    assert points > 500
    print(f"\n{points} crash points leave {len(worlds)} different worlds")
    scene = stage(**QUICK, **budget)
    for number, (name, snapshot) in enumerate(worlds.values()):
        scene.restore(snapshot)
        try:
            rollout = scene.catalog.rollouts.get(1)
            scene.replace_next(rollout)
            scene.check_between()
            done = [each.slot for each in scene.catalog.rollouts.slots(1) if each.state is SlotState.DONE]
            launched = {call.subject for call in scene.platform.calls("launch")}
            assert len(launched) == scene.fleet.size + len(done), "a machine too many was launched"
            if number % EVERY == 0:
                assert scene.run(rollout).state is RolloutState.DONE
                scene.check_at_rest()
        except Exception as error:
            raise AssertionError(f"crash {number} ({name}): {error}\n" + "\n".join(scene.story)) from error


def test_an_exception_thrown_anywhere_leaves_what_a_kill_leaves(stage: Callable[..., Scene]) -> None:
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
def test_a_crash_at_any_point_of_a_failure_and_its_clean_up(
    stage: Callable[..., Scene], budget: dict[str, str], failing: str
) -> None:
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
