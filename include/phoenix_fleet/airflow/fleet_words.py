"""The words of a fleet DAG: wait for the release, plan, canary and waves, report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import Param, TaskGroup

from phoenix_fleet.airflow import rollout
from phoenix_fleet.airflow.image_words import calls_owners, replace, window_param
from phoenix_fleet.airflow.waiting import WaitFor

if TYPE_CHECKING:
    from phoenix_fleet.config import Fleet


def params(fleet: Fleet) -> dict[str, Param]:
    """The trigger form of a fleet DAG."""
    return {
        "reason": Param(
            "", type="string", title="Reason", description="Required by hand: why this fleet is refreshed now."
        ),
        "release": Param(
            None,
            type=["null", "string"],
            pattern=r"^\d{4}\.(0[1-9]|1[0-2])-[1-9]\d*$",
            title="Release",
            description="Version such as 2026.11-1. Default: the newest released one.",
        ),
        "slots": Param(
            None,
            type=["null", "array"],
            items={"type": "string"},
            examples=fleet.slots[:200],
            title="Only these slots",
            description="Default: every slot that needs it.",
        ),
        "force": Param(
            False,
            type="boolean",
            title="Force",
            description="Replace the slots named above even if they are up to date.",
        ),
        "rollback_of": Param(
            None,
            type=["null", "integer"],
            title="Roll back",
            section="Going back",
            description="Number of the rollout to undo: what it replaced goes back to what ran before, or to Release.",
        ),
        "emergency": Param(
            None,
            type=["null", "string"],
            pattern=r"^\d{4}\.(0[1-9]|1[0-2])-[1-9]\d*$",
            title="Emergency",
            section="Going back",
            description="The revoked version to get away from, at once: its instances are replaced, no others.",
        ),
        "dry_run": Param(
            False, type="boolean", title="Dry run", description="Show the plan in the log; touch nothing."
        ),
        "window": window_param(),
    }


def await_release(fleet: Fleet) -> WaitFor:
    """Deferrable wait for a release of this window, or a newer one."""
    return WaitFor(task_id="release", question="release_of_window", subject={"family": fleet.family})


def plan(fleet: Fleet) -> Any:
    """Which machines are replaced in which wave, and why; opens the rollout in the catalog."""
    return rollout.PlanOperator(task_id="plan", fleet=fleet.name, **calls_owners(fleet, "plan-failed"))


def waves(fleet: Fleet, planned: Any) -> list[Any]:
    """Canary and waves, drawn at parse time; returns the mapped replacement task of each."""
    drawn: list[Any] = []
    for wave, name in enumerate(["canary", *(f"wave_{number}" for number in range(1, len(fleet.waves) + 1))]):
        with TaskGroup(name):
            slots = rollout.slots_of_wave.override(task_id="slots")(planned.output, wave)
            replaced = replace(fleet, wave, slots)
            if drawn:
                drawn[-1] >> slots
            slots >> replaced
        drawn.append(replaced)
    return drawn


def report(fleet: Fleet, planned: Any, replaced: list[Any]) -> Any:
    """Close the rollout and report, or report the halt; no failure ends green."""
    done = rollout.close_rollout.override(task_id="report", trigger_rule="none_failed")(planned.output)
    halted = rollout.report_halt.override(task_id="report_halt")(fleet.name, planned.output)
    replaced[-1] >> done
    for wave in replaced:
        wave >> halted
    return done
