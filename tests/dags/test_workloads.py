"""The DAG of a fleet of workloads: the same stages, and the platform does the rolling."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet.airflow.audit import audit
from phoenix_fleet.catalog.records import RolloutState
from phoenix_fleet.domain.errors import AuthenticationFailed
from phoenix_fleet.rollout.deps import load
from tests.dags.running import NOW, OLD, World, run_dag

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("ignore")]

WORKLOADS = ("east/shop", "west/shop", "west/till")


@pytest.fixture(scope="session", autouse=True)
def airflow_database() -> None:
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Three workloads in two clusters on an old release, and a new one."""
    workload = {"fake": {"state": str(tmp_path / "state" / "workload.json"), "workloads": list(WORKLOADS)}}
    made = World.make(
        tmp_path, monkeypatch, size=3, platform=None, workload=workload, balancer="none", configurator="none"
    )
    made.release(OLD)
    made.release(NOW)
    yield made
    made.catalog.close()


def workloads(world: World) -> Any:
    """The fake, shared through its state file."""
    return load("workloads", world.project.fleet("shop").runs_on, lambda _: None)  # type: ignore[arg-type,return-value]


def versions(world: World) -> dict[str, str]:
    return {name: each["current"]["version"] for name, each in workloads(world).workloads().items()}


def test_canary_and_waves_over_workloads_and_clusters(world: World) -> None:
    run = run_dag("fleet.shop", window=str(NOW))
    assert run.state == "success", run.tasks
    assert versions(world) == dict.fromkeys(WORKLOADS, "2026.11-1")
    (rollout,) = world.catalog.rollouts.list_rollouts("shop")
    assert rollout.state is RolloutState.DONE
    assert [each.slot for each in world.catalog.rollouts.slots(rollout.id)] == ["shop-01", "shop-02", "shop-03"]
    _, findings = audit(world.catalog, world.project.fleet("shop"), datetime.now(UTC))
    assert [each for each in findings if each.subject.startswith("shop-0")] == []
    assert run_dag("fleet.shop", window=str(NOW)).state == "success", "what is up to date is left alone"
    assert len(workloads(world).calls("start")) == 3


def test_a_bad_image_stops_at_the_canary_and_is_undone(world: World) -> None:
    workloads(world).fail_roll("east/shop", "CrashLoopBackOff")
    run = run_dag("fleet.shop", window=str(NOW))
    assert run.state == "failed"
    assert run.tasks["canary.replace"] == ["failed"]
    assert run.tasks["report_halt"] == ["success"]
    assert versions(world) == dict.fromkeys(WORKLOADS, "")
    assert all(each["complete"] and not each["previous"] for each in workloads(world).workloads().values())
    halted = world.catalog.rollouts.current("shop")
    assert halted is not None
    assert (halted.state, halted.halted_slot, halted.halted_step) == ("halted", "shop-01", "ready")


def test_a_dry_run_rehearses_and_touches_nothing(world: World) -> None:
    run = run_dag("fleet.shop", window=str(NOW), dry_run=True)
    assert run.state == "success"
    assert world.catalog.rollouts.list_rollouts("shop") == []
    assert len(workloads(world).calls("rehearse")) == 3
    assert not workloads(world).calls("start")


def test_what_would_be_refused_opens_no_rollout(world: World) -> None:
    workloads(world).fail_next("rehearse", AuthenticationFailed("PATCH of deployments: forbidden."))
    run = run_dag("fleet.shop", window=str(NOW))
    assert run.tasks["plan"] == ["failed"]
    assert world.catalog.rollouts.list_rollouts("shop") == []
    assert not workloads(world).calls("start")
