"""The DAGs read like the diagram, and keep the house's policies."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.serialization.serialized_objects import DagSerialization

from tests.dags.conftest import ROOT, load_dags
from tests.dags.fakeworld_project import write_project

IMAGE_CHAIN = [
    "build.decide", "build.packer", "test.judge", "certify.judge", "stage.judge", "gate", "approve", "release.publish",
]  # fmt: skip


def test_each_family_and_fleet_has_its_dag(bag: Any) -> None:
    assert not bag.import_errors
    assert set(bag.dags) == {"image.mini", "fleet.shop", "fleet.shop-staging", "audit", "operate", "reap"}


def test_the_projects_own_files_draw_without_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHOENIX_INCLUDE", raising=False)
    own = load_dags()
    assert not own.import_errors
    assert {f"image.{family}" for family in ("debian-base", "ubuntu-base")} <= set(own.dags)
    assert {f"fleet.{fleet}" for fleet in ("web", "web-staging", "web-ubuntu-staging")} <= set(own.dags)


def test_dags_survive_serialization(bag: Any) -> None:
    for dag in bag.dags.values():
        again = DagSerialization.from_dict(DagSerialization.to_dict(dag))
        assert sorted(again.task_ids) == sorted(dag.task_ids)


@pytest.mark.parametrize(("before", "after"), list(pairwise(IMAGE_CHAIN)))
def test_image_stages_follow_the_diagram(bag: Any, before: str, after: str) -> None:
    dag = bag.dags["image.mini"]
    assert before in {task.task_id for task in dag.get_task(after).get_flat_relatives(upstream=True)}


def test_fleet_waves_follow_one_another(bag: Any) -> None:
    dag = bag.dags["fleet.shop"]
    order = ["release", "plan", "canary.replace", "wave_1.replace", "wave_2.replace", "report"]
    for before, after in pairwise(order):
        assert before in {task.task_id for task in dag.get_task(after).get_flat_relatives(upstream=True)}


def test_gate_edges_are_labelled(bag: Any) -> None:
    dag = bag.dags["image.mini"]
    labels = {after: dag.edge_info["gate"][after]["label"] for after in ("approve", "decide_inconclusive", "reject")}
    assert labels == {"approve": "passed", "decide_inconclusive": "inconclusive: a person decides", "reject": "failed"}


def test_one_replacement_is_one_task_instance_and_never_a_mapped_group(bag: Any) -> None:
    for dag in (bag.dags["fleet.shop"], bag.dags["fleet.shop-staging"]):
        for task in dag.tasks:
            if task.task_id.endswith(".replace"):
                assert task.is_mapped
                assert task.max_active_tis_per_dagrun == 1
                assert task.get_closest_mapped_task_group() is None


def test_waits_never_reschedule_and_never_start_from_the_trigger(bag: Any) -> None:
    for dag in bag.dags.values():
        for task in dag.tasks:
            assert getattr(task, "mode", "poke") != "reschedule", task.task_id
            assert not getattr(task, "start_from_trigger", False), task.task_id


def test_no_dag_fails_fast_or_catches_up(bag: Any) -> None:
    for dag in bag.dags.values():
        assert not dag.fail_fast
        assert not dag.catchup
        assert dag.doc_md
        assert "phoenix" in dag.tags


def test_approvals_have_no_default_and_fail_on_reject(bag: Any) -> None:
    approvals = [task for task in bag.dags["image.mini"].tasks if isinstance(task, ApprovalOperator)]
    assert {task.task_id for task in approvals} == {"approve", "decide_inconclusive"}
    for task in approvals:
        assert task.defaults is None
        assert task.fail_on_reject
        assert task.response_timeout


def test_every_leaf_of_a_fleet_dag_keeps_a_failure_red(bag: Any) -> None:
    dag = bag.dags["fleet.shop"]
    assert {task.task_id for task in dag.leaves} == {"report", "report_halt"}
    assert dag.get_task("report").trigger_rule == "none_failed"


def test_the_reaper_looks_at_every_fleet_and_family_and_tells_its_owners(bag: Any) -> None:
    dag = bag.dags["reap"]
    assert set(dag.task_ids) == {"fleet.shop", "fleet.shop-staging", "throwaways.mini", "images.mini"}
    assert all(task.on_failure_callback for task in dag.tasks)


def test_throwaway_instances_are_set_up_and_torn_down(bag: Any) -> None:
    dag = bag.dags["image.mini"]
    for group in ("test", "certify.fake"):
        assert dag.get_task(f"{group}.launch").is_setup
        assert dag.get_task(f"{group}.retire").is_teardown


def test_tasks_try_again_only_what_may_help(bag: Any) -> None:
    for dag in bag.dags.values():
        for task in dag.tasks:
            if task.retries:
                assert task.retry_policy is not None, task.task_id


def test_a_broken_fleet_costs_its_own_dag_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    include = write_project(tmp_path)
    broken = include / "fleets" / "broken.yaml"
    broken.write_text("fleet: broken\nfamily: mini\nsice: 3\n")
    monkeypatch.setenv("PHOENIX_INCLUDE", str(include))
    found = load_dags()
    assert set(found.dags) == {"image.mini", "fleet.shop", "fleet.shop-staging", "audit", "operate", "reap"}
    ((file, message),) = found.import_errors.items()
    assert file.endswith("config_errors.py")
    assert f"{broken}:3: sice: unknown key" in message
    assert "Did you mean 'size'?" in message


def test_a_task_parses_only_its_own_dag(shape_project: Path) -> None:
    code = (
        "import os; os.environ['_AIRFLOW_PARSING_CONTEXT_DAG_ID'] = 'fleet.shop'\n"
        "from airflow.dag_processing.dagbag import DagBag\n"
        f"print(sorted(DagBag({str(ROOT / 'dags')!r}).dags))"
    )
    env = {**os.environ, "PHOENIX_INCLUDE": str(shape_project), "PYTHONPATH": str(ROOT / "include")}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "['audit', 'fleet.shop', 'operate', 'reap']"
