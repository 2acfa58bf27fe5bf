"""The traps of Airflow, sprung on a real one: each does happen, and each is harmless."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.api import ENDED
from phoenix_fleet.domain.models import InstanceState
from phoenix_fleet.domain.steps import Step
from tests.orchestration import built, project
from tests.orchestration.project import NEXT, NOW, FleetWorld, moment
from tests.orchestration.stack import Stack, until

pytestmark = [pytest.mark.orchestration, pytest.mark.filterwarnings("ignore")]

NEW, BEFORE = "2026.11-1", "2026.10-1"
Fleets = Callable[[str], FleetWorld]


def begin(stack: Stack, fleet: FleetWorld, **conf: Any) -> str:
    """A run of the fleet's DAG, set going by a person."""
    return stack.user.trigger(fleet.dag, {"reason": "a test", "window": str(NOW), **conf})


def at_step(stack: Stack, fleet: FleetWorld, step: Step) -> dict[str, Any]:
    """The canary's task instance, once its replacement stands at that step."""
    run_id = ""

    def there() -> dict[str, Any]:
        nonlocal run_id
        rollout = stack.catalog.rollouts.current(fleet.name)
        if rollout is None:
            return {}
        run_id = rollout.run.split("/", 1)[1]
        if [each.step for each in stack.catalog.rollouts.under_way(rollout.id)] != [step]:
            return {}
        task = stack.user.task(fleet.dag, run_id, "canary.replace", 0)
        return task if task["state"] == "running" and task["pid"] else {}

    return until(there, f"{fleet.name} to be at {step}")


def finish(stack: Stack, fleet: FleetWorld, run_id: str) -> str:
    """The state that the run ended in, with every machine booting at once from now on."""

    def ended() -> str:
        fleet.boot()
        state = stack.user.state(fleet.dag, run_id)
        return state if state in ENDED else ""

    return until(ended, f"{fleet.dag} to end")


def run_again(stack: Stack, fleet: FleetWorld, run_id: str, first: dict[str, Any]) -> dict[str, Any]:
    """The canary's task instance, once Airflow runs it for another time."""

    def again() -> dict[str, Any]:
        task = stack.user.task(fleet.dag, run_id, "canary.replace", 0)
        running = task["state"] == "running" and task["pid"]
        return task if running and task["try_number"] > first["try_number"] else {}

    return until(again, "another try")


def holders(stack: Stack, fleet: FleetWorld, slot: str) -> list[str]:
    """Who drew a ticket for that slot, in order."""
    (rollout,) = stack.catalog.rollouts.list_rollouts(fleet.name)
    subject = f"fleets/{fleet.name}/rollouts/{rollout.id}/{slot}"
    kinds = ("slot.claimed", "slot.reclaimed", "slot.taken_over")
    return [event.actor for event in stack.catalog.events.list_events(subject) if event.kind in kinds]


def all_refreshed(stack: Stack, fleet: FleetWorld) -> None:
    """One set of machines: each slot got exactly one new one, one after another, and the rollout is done."""
    slots = fleet.project.fleet(fleet.name).slots
    assert fleet.running() == {slot: [NEW] for slot in slots}
    assert fleet.born(NEW) == slots
    assert fleet.overlaps(NEW) == []
    (rollout,) = stack.catalog.rollouts.list_rollouts(fleet.name)
    assert rollout.state == "done"
    assert stack.catalog.intents.pending(rollout.purpose) == []


def alive(pid: int) -> bool:
    """Whether that process still runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def parent_of(pid: int) -> int:
    """Its parent's pid."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_siblings_of_a_failed_replacement_refuse_until_a_person_resumes(stack: Stack, fleet: Fleets) -> None:
    world = fleet("sibling")
    world.gates.steer(subjects={"sibling-02": "failed"})
    run_id = begin(stack, world)
    assert stack.user.wait(world.dag, run_id) == "failed"
    tasks = [stack.user.task(world.dag, run_id, "wave_1.replace", index) for index in range(3)]
    assert [each["state"] for each in tasks] == ["failed"] * 3
    failed_at = moment(tasks[0]["end_date"])
    assert all(moment(each["start_date"]) > failed_at for each in tasks[1:]), "Airflow started the siblings"
    assert [each["rendered_map_index"] for each in tasks] == ["sibling-02", "sibling-03", "sibling-04"]
    assert "verify failed: " in stack.user.words(tasks[0])
    for each in tasks[1:]:
        assert "waits: halted by sibling-02 at verify" in stack.user.words(each)
    assert stack.user.states(world.dag, run_id, "report") == ["upstream_failed"]
    assert world.running() == {
        "sibling-01": [NEW], "sibling-02": [BEFORE], "sibling-03": [BEFORE], "sibling-04": [BEFORE],
    }  # fmt: skip

    changed = world.changes()
    world.gates.steer(outcome="passed")
    stack.user.clear_failed(world.dag, run_id)
    assert stack.user.wait(world.dag, run_id) == "failed", "to clear is not to resume"
    assert world.changes() == changed

    act = stack.user.trigger("operate", {"fleet": world.name, "action": "resume", "reason": "the gate was wrong"})
    assert stack.user.wait("operate", act) == "success"
    stack.user.clear_failed(world.dag, run_id)
    assert stack.user.wait(world.dag, run_id) == "success"
    assert world.born(NEW) == ["sibling-01", "sibling-02", "sibling-02", "sibling-03", "sibling-04"]
    assert world.running() == {slot: [NEW] for slot in world.project.fleet("sibling").slots}
    (rollout,) = stack.catalog.rollouts.list_rollouts(world.name)
    assert (rollout.state, rollout.resumed_by) == ("done", stack.user.user)


def test_replacements_of_a_wave_go_strictly_one_after_another(stack: Stack, fleet: Fleets) -> None:
    world = fleet("inorder")
    run_id = begin(stack, world)
    assert stack.user.wait(world.dag, run_id) == "success"
    all_refreshed(stack, world)
    labels = [stack.user.task(world.dag, run_id, "wave_1.replace", index)["rendered_map_index"] for index in range(3)]
    assert labels == ["inorder-02", "inorder-03", "inorder-04"]


def test_a_scheduler_killed_and_restarted_runs_a_task_twice_on_one_set_of_machines(stack: Stack, fleet: Fleets) -> None:
    world = fleet("restart")
    run_id = begin(stack, world)
    first = at_step(stack, world, Step.READY)
    stack.freeze_in_transaction("scheduler")
    stack.kill("scheduler")
    assert alive(first["pid"]), "the worker and its task outlive their scheduler"
    stack.revive("scheduler")
    second = run_again(stack, world, run_id, first)
    assert second["pid"] != first["pid"], "Airflow runs it twice, whatever its retries"
    assert finish(stack, world, run_id) == "success"
    until(lambda: not alive(first["pid"]), "the first try to end")
    all_refreshed(stack, world)


def test_a_task_whose_supervisor_was_killed_ends_and_another_goes_on(stack: Stack, fleet: Fleets) -> None:
    world = fleet("orphan")
    run_id = begin(stack, world)
    first = at_step(stack, world, Step.READY)
    os.kill(parent_of(first["pid"]), signal.SIGKILL)
    until(lambda: not alive(first["pid"]), "the orphan to end", seconds=60)
    (slot,) = stack.catalog.rollouts.under_way(stack.catalog.rollouts.current("orphan").id)  # type: ignore[union-attr]
    assert slot.step is Step.READY, "it ended in the middle"
    run_again(stack, world, run_id, first)
    assert finish(stack, world, run_id) == "success"
    assert len(set(holders(stack, world, "orphan-01"))) == 2, "the second try took the first one's slot over"
    all_refreshed(stack, world)


def test_a_running_task_that_is_cleared_goes_on_with_the_same_machine(stack: Stack, fleet: Fleets) -> None:
    world = fleet("cleared")
    run_id = begin(stack, world)
    first = at_step(stack, world, Step.READY)
    stack.user.clear(first)
    until(lambda: not alive(first["pid"]), "the cleared try to end")
    run_again(stack, world, run_id, first)
    assert finish(stack, world, run_id) == "success"
    all_refreshed(stack, world)


def test_a_running_task_that_is_marked_failed_leaves_its_slot_to_whoever_goes_on(stack: Stack, fleet: Fleets) -> None:
    world = fleet("marked")
    run_id = begin(stack, world)
    first = at_step(stack, world, Step.READY)
    stack.user.mark_failed(first)
    until(lambda: not alive(first["pid"]), "the try to end")
    assert stack.user.wait(world.dag, run_id) == "failed"
    assert world.running()["marked-02"] == world.running()["marked-03"] == [BEFORE]
    stack.user.clear_failed(world.dag, run_id)
    assert finish(stack, world, run_id) == "success"
    all_refreshed(stack, world)


def test_a_manual_run_over_a_backfill_of_four_months_replaces_each_machine_once(stack: Stack, fleet: Fleets) -> None:
    world = fleet("backfilled")
    body = {
        "dag_id": world.dag,
        "from_date": "2026-08-01T00:00:00Z",
        "to_date": "2026-11-02T00:00:00Z",
        "max_active_runs": 10,
        "reprocess_behavior": "none",
        "run_backwards": False,
        "dag_run_conf": {},
    }
    stack.user.send("POST", "backfills", body)
    manual = begin(stack, world)
    runs = until(lambda: _ended(stack, world, 5), "all runs to end")
    assert {run["state"] for run in runs} == {"success"}
    months = [run for run in runs if run["dag_run_id"] != manual]
    spans = sorted((moment(run["start_date"]), moment(run["end_date"])) for run in months)
    assert spans[1][0] < spans[0][1], "Airflow ran months at once although max_active_runs is 1"

    rollouts = sorted(stack.catalog.rollouts.list_rollouts(world.name), key=lambda each: each.id)
    assert [each.state for each in rollouts] == ["done"] * 5
    for earlier, later in itertools.pairwise(rollouts):
        assert earlier.closed_at is not None
        assert earlier.closed_at <= later.opened_at, "one rollout after another"
    assert {str(each.version) for each in rollouts} == {NEW}, "a past window brings nothing older"
    slots = world.project.fleet(world.name).slots
    assert world.born(NEW) == slots
    assert world.overlaps(NEW) == []
    assert world.running() == {slot: [NEW] for slot in slots}


def test_a_rejected_release_is_no_release_and_ends_red(stack: Stack) -> None:
    before = stack.catalog.images.newest_released("mini")
    run_id = stack.user.trigger("image.mini", {"reason": "a test", "window": str(NEXT), "force": True})
    (question,) = until(lambda: _questions(stack, "image.mini", run_id), "the approval to be asked for")
    stack.approver.answer(question["task_instance"], "Reject", "not today")
    assert stack.user.wait("image.mini", run_id) == "failed"
    assert stack.user.states("image.mini", run_id, "approve") == ["failed"]
    for task_id in ("release.record_approval", "release.promote", "release.publish"):
        assert set(stack.user.states("image.mini", run_id, task_id)) == {"upstream_failed"}
    assert stack.catalog.images.newest_released("mini") == before


def test_a_deferred_replacement_keeps_its_place_through_the_death_of_the_triggerer(stack: Stack, fleet: Fleets) -> None:
    world, neighbour = fleet("dependent"), fleet("neighbour")
    (machine,) = neighbour.platform.machines()
    neighbour.platform.set_state(machine, InstanceState.FAILED)
    run_id = begin(stack, world)
    until(lambda: _state(stack, world, run_id) == "deferred", "the canary to be deferred")
    stack.kill("triggerer")
    stack.revive("triggerer")
    neighbour.platform.set_state(machine, InstanceState.RUNNING)
    assert world.born(NEW) == []
    assert stack.user.wait(world.dag, run_id) == "success"
    all_refreshed(stack, world)


def test_a_wait_for_a_release_outlives_the_triggerer_and_takes_what_then_is_released(
    stack: Stack, fleet: Fleets
) -> None:
    world = fleet("awaiting")
    run_id = begin(stack, world)
    until(lambda: stack.user.states(world.dag, run_id, "release") == ["deferred"], "the wait to be deferred")
    stack.kill("triggerer")
    version = project.release(stack.catalog, "late", NOW)
    world.platform.add_image(built.artefact_of("late", version), "late", str(version))
    stack.revive("triggerer")
    assert stack.user.wait(world.dag, run_id) == "success"
    all_refreshed(stack, world)


def _state(stack: Stack, world: FleetWorld, run_id: str) -> str:
    return str(stack.user.task(world.dag, run_id, "canary.replace", 0).get("state"))


def _ended(stack: Stack, world: FleetWorld, count: int) -> list[dict[str, Any]]:
    runs = list(stack.user.get(f"dags/{world.dag}/dagRuns", limit=100)["dag_runs"])
    return runs if len(runs) == count and all(run["state"] in ENDED for run in runs) else []


def _questions(stack: Stack, dag_id: str, run_id: str) -> list[dict[str, Any]]:
    assert stack.user.state(dag_id, run_id) not in ENDED, stack.user.tasks(dag_id, run_id)
    return stack.user.questions(dag_id, run_id)
