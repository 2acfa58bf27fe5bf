"""The words of an image DAG: build, test, certify, stage, gate, approve, release; each draws its tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, Label, Param, TaskGroup, chain, task_group

from phoenix_fleet.airflow import build as building
from phoenix_fleet.airflow import prove, release, rollout, world
from phoenix_fleet.airflow.notify import OwnersNotifier
from phoenix_fleet.airflow.replace import ReplaceOperator
from phoenix_fleet.airflow.retries import POLICY, REPLACE_RETRIES, RETRIES, RETRY_DELAY
from phoenix_fleet.airflow.waiting import WaitFor

if TYPE_CHECKING:
    from phoenix_fleet.config import Fleet, ImageFamily


def release_asset(family: str) -> Asset:
    """The asset that every release of the family updates: downstream pipelines schedule on it."""
    return Asset(name=f"release.{family}", uri=f"phoenix://release/{family}")


def defaults(owner: ImageFamily | Fleet) -> dict[str, Any]:
    """Arguments that every task of a family's or a fleet's DAG has."""
    return {"owner": owner.owners.team, "retries": RETRIES, "retry_delay": RETRY_DELAY, "retry_policy": POLICY}


def calls_owners(owner: ImageFamily | Fleet, runbook: str) -> dict[str, Any]:
    """Arguments of the tasks whose failure the owners are told of, with the runbook for it."""
    return {"on_failure_callback": [OwnersNotifier(owner.owners.model_dump(), runbook)]}


def params() -> dict[str, Param]:
    """The trigger form of an image DAG."""
    return {
        "reason": Param(
            "", type="string", title="Reason", description="Required by hand: why this image is built now."
        ),
        "force": Param(False, type="boolean", title="Force", description="Build even if nothing has changed."),
        "window": window_param(),
    }


def window_param() -> Param:
    """The refresh window, for both kinds of DAG."""
    return Param(
        None,
        type=["null", "string"],
        pattern=r"^\d{4}-(0[1-9]|1[0-2])$",
        title="Window",
        description="Refresh window as YYYY-MM. Default: the month of the run.",
    )


def build(family: ImageFamily) -> Any:
    """Build group: wait for one's turn, decide, open a candidate, run Packer once per platform in parallel."""
    with TaskGroup("build", tooltip="Packer, from scratch, once per platform"):
        turn = WaitFor(task_id="turn", question="family_is_free", subject={"family": family.name})
        decide = building.decide.override(task_id="decide")(
            family.name, build_task="build.open_candidate", settle_task="build.settle"
        )
        settle = building.settle.override(task_id="settle")(family.name)
        candidate = building.open_candidate.override(task_id="open_candidate")(family.name)
        packer = building.run_packer.override(
            task_id="packer", pool="phoenix_build", retries=0, **calls_owners(family, "build-failed")
        )
        artefacts = packer.partial(candidate=candidate).expand(platform=family.platforms)
        turn >> decide
        decide >> Label("unchanged or covered") >> settle
        decide >> Label("something changed") >> candidate
    return candidate, artefacts


def test(family: ImageFamily, candidate: Any) -> TaskGroup:
    """Test group: a fresh instance per platform, every gate on it, the reboot check, a verdict."""
    with TaskGroup("test", tooltip="A fresh instance of each artefact, measured") as group:
        where = {"stage": "test", "candidate": candidate}
        launch = prove.launch_instance.override(task_id="launch", **calls_owners(family, "test-failed"))
        launched = launch.partial(**where).expand(platform=family.platforms)
        measured = (
            prove.measure_image.override(task_id="measure")
            .partial(candidate=candidate)
            .expand(platform=family.platforms, gate=list(range(len(family.test))))
        )
        retired = prove.retire_instance.override(task_id="retire").partial(**where).expand(platform=family.platforms)
        expected = len(family.platforms) * len(family.test)
        steps: list[Any] = [launched, measured]
        if family.reboot_check:
            steps.append(
                prove.measure_reboot.override(task_id="reboot")
                .partial(candidate=candidate)
                .expand(platform=family.platforms)
            )
            again = sum(1 for gate in family.test if gate.name == "testinfra")
            expected += len(family.platforms) * (1 + again)
        judged = judge(family, "test", candidate, expected)
        chain(*steps, judged)
        steps[-1] >> retired.as_teardown(setups=launched)  # type: ignore[arg-type]
    return group


def certify(family: ImageFamily, candidate: Any) -> TaskGroup:
    """Certify group: for each component a fresh instance, its role, its own unit tests; in parallel."""
    with TaskGroup("certify", tooltip="Every component of the product, on a fresh instance") as group:
        judged = judge(family, "certify", candidate, len(family.platforms) * len(family.components))
        for platform in family.platforms:

            @task_group(group_id=platform)
            def proven(component: str, platform: str = platform) -> None:
                where = {"platform": platform, "candidate": candidate, "component": component}
                launched = prove.launch_instance.override(task_id="launch")(stage="certify", **where)
                configured = prove.configure_component.override(task_id="configure")(**where)
                certified = prove.certify_component.override(task_id="unit_tests")(**where)
                retired = prove.retire_instance.override(task_id="retire")(stage="certify", **where)
                chain(launched, configured, certified)
                certified >> retired.as_teardown(setups=launched)  # type: ignore[arg-type]

            proven.expand(component=list(family.components)) >> judged
    return group


def stage(family: ImageFamily, staging: Fleet, candidate: Any) -> TaskGroup:
    """Stage group: the staging fleet is refreshed by the same engine as production, then tested from outside."""
    with TaskGroup("stage", tooltip="The staging fleet, refreshed and tested from outside") as group:
        opened: Any = rollout.open_staging.override(task_id="open", **calls_owners(family, "stage-failed"))(
            staging.name, candidate
        )
        slots = rollout.slots_of_wave.override(task_id="slots")(opened, 0)
        replaced = replace(staging, 0, slots)
        closed = rollout.close_rollout.override(task_id="close", trigger_rule="none_failed")(opened)
        measured = (
            prove.measure_staging.override(task_id="measure", max_active_tis_per_dagrun=1)
            .partial(candidate=candidate)
            .expand(gate=list(range(len(family.stage.gates))))
        )
        judged = judge(family, "stage", candidate, len(family.stage.gates))
        chain(replaced, closed, measured, judged)
    return group


def judge(family: ImageFamily, stage_name: str, candidate: Any, expected: int) -> Any:
    """The stage's verdict, told to the owners if it is bad."""
    judging = prove.judge_stage.override(task_id="judge", **calls_owners(family, f"{stage_name}-failed"))
    return judging(stage_name, candidate, expected)


def replace(fleet: Fleet, wave: int, slots: Any) -> Any:
    """The mapped task of a wave: one task instance per replacement, labelled with the machine's name."""
    return ReplaceOperator.partial(
        task_id="replace",
        fleet=fleet.name,
        wave=wave,
        max_active_tis_per_dagrun=fleet.max_in_flight,
        map_index_template=world.LABEL,
        do_xcom_push=False,  # what it did is in the catalog; each call to Airflow's API costs a task 10 ms and more
        pool="phoenix_instances",
        retries=REPLACE_RETRIES,
        **calls_owners(fleet, "rollout-halted"),
    ).expand(batch=slots)


def gate(family: ImageFamily, candidate: Any, proven: list[Any]) -> tuple[Any, Any]:
    """The branching gate: passed goes to approval, inconclusive asks a person first, failed rejects."""
    judged = release.gate.override(task_id="gate")(
        candidate, passed="approve", inconclusive="decide_inconclusive", failed="reject"
    )
    person = release.approval("decide_inconclusive", family, "Is an inconclusive measurement good enough?")
    approve = release.approval("approve", family, "Release", trigger_rule="none_failed_min_one_success")
    rejected = release.reject.override(task_id="reject")(candidate)
    for stage_done in (candidate, *proven):
        stage_done >> judged
    judged >> Label("passed") >> approve
    judged >> Label("inconclusive: a person decides") >> person >> approve
    judged >> Label("failed") >> rejected
    return judged, approve


def publish(family: ImageFamily, candidate: Any, approve: Any) -> Any:
    """Release group: record the approval, tag on every platform, publish."""
    with TaskGroup("release", tooltip="Signed off, tagged, published"):
        recorded = release.record_approval.override(task_id="record_approval")(candidate, approve.output)
        promoted = (
            release.promote.override(task_id="promote").partial(candidate=candidate).expand(platform=family.platforms)
        )
        published = release.publish.override(task_id="publish", outlets=[release_asset(family.name)])(candidate)
        chain(recorded, promoted, published)
    return published
