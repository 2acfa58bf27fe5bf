"""The life of a rollout through Airflow: going back, getting away, waiting, and one slot by order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet.catalog.records import RolloutKind
from phoenix_fleet.domain.windows import Version
from tests.dags.running import NOW, OLD, World, run_dag

# Running Airflow warns of its own dependencies; ours are strict everywhere else.
pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="session", autouse=True)
def airflow_database() -> None:
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World.make(tmp_path, monkeypatch)
    made.populate(made.release(OLD))
    yield made
    made.catalog.close()


def test_a_failed_rollout_is_rolled_back_and_stays_back(world: World) -> None:
    world.release(NOW)
    world.gates().steer(outcome="passed", next=["passed", "failed"])
    assert run_dag("fleet.shop", window=str(NOW)).state == "failed"
    bad = world.catalog.rollouts.current("shop")

    back = run_dag("fleet.shop", window=str(NOW), rollback_of=bad.id)
    assert back.state == "success", back.tasks
    assert set(world.versions("shop").values()) == {"2026.10-1"}
    assert len(world.alive("shop")) == 4
    done = world.catalog.rollouts.list_rollouts("shop")[0]
    assert (done.kind, done.undoes, done.state) == ("rollback", bad.id, "done")
    assert world.catalog.rollouts.get(bad.id).state == "superseded"

    after = run_dag("fleet.shop", window=str(NOW))
    assert after.state == "success"
    assert set(world.versions("shop").values()) == {"2026.10-1"}, "the next run must not bring it again"

    (block,) = world.catalog.blocks.list_blocks("shop")
    world.catalog.blocks.lift("shop", "mini", block.version, actor="ann", reason="the gate was wrong")
    assert run_dag("fleet.shop", window=str(NOW)).state == "success"
    assert set(world.versions("shop").values()) == {"2026.11-1"}


def test_an_emergency_gets_away_from_a_revoked_release(world: World) -> None:
    world.release(NOW)
    assert run_dag("fleet.shop", window=str(NOW), slots=["shop-02"]).state == "success"
    world.catalog.lifecycle.revoke("mini", Version.parse("2026.11-1"), actor="carol", reason="CVE-2026-1")
    before = {each.id for each in world.alive("shop") if each.version == "2026.10-1"}
    run = run_dag("fleet.shop", window=str(NOW), emergency="2026.11-1")
    assert run.state == "success", run.tasks
    assert set(world.versions("shop").values()) == {"2026.10-1"}
    assert before <= {each.id for each in world.alive("shop")}
    away = world.catalog.rollouts.list_rollouts("shop")[0]
    assert (away.kind, away.deadline is not None) == (RolloutKind.EMERGENCY, True)


def test_a_slot_is_replaced_by_order_alone(world: World) -> None:
    before = {each.slot: each.id for each in world.alive("shop")}
    run = run_dag("fleet.shop", window=str(OLD), slots=["shop-03"], force=True)
    assert run.state == "success", run.tasks
    after = {each.slot: each.id for each in world.alive("shop")}
    assert {slot for slot in before if before[slot] != after[slot]} == {"shop-03"}


def test_an_older_run_ends_when_a_newer_release_queues(world: World) -> None:
    """It is green and has done nothing: whoever waits with the newer release does it all."""
    world.release(NOW)
    newer = world.release(NOW)
    world.catalog.queue.ask("shop", "fleet.shop/other", newer, RolloutKind.REFRESH, whole=True)
    run = run_dag("fleet.shop", window=str(NOW), release="2026.11-1")
    assert run.state == "success", run.tasks
    assert run.tasks["canary.replace"] == ["skipped"]
    assert world.catalog.rollouts.list_rollouts("shop") == []


@pytest.mark.parametrize(
    ("conf", "halted"),
    [({"rollback_of": 7}, False), ({"force": True}, False), ({"emergency": "2026.10-1"}, False)],
)
def test_orders_that_make_no_sense_are_refused(world: World, conf: dict[str, Any], halted: bool) -> None:
    run = run_dag("fleet.shop", window=str(OLD), **conf)
    assert run.tasks["plan"] == ["failed"]
    assert world.catalog.rollouts.list_rollouts("shop") == []
    assert world.catalog.queue.waiting("shop") == [], "a failed run holds up nobody"


class Person:
    """The trigger form, filled in by a named user, without the server around it."""

    def __init__(self, **params: str) -> None:
        self.triggering_user_name = "alice"
        self.dag_id, self.run_id, self.run_type = "operate", "by-hand", "manual"
        self.context = {"params": {"release": None, "reason": "a test", "fleet": "shop", **params}, "dag_run": self}


def operates(action: str, **params: str) -> tuple[str, list[dict[str, Any]]]:
    from phoenix_fleet.airflow import operate

    context = Person(action=action, **params).context
    return operate.act.function(**context), operate.runs.function(**context)


def test_a_person_operates_by_name(world: World) -> None:
    world.release(NOW)
    world.gates().steer(outcome="passed", next=["passed", "failed"])
    run_dag("fleet.shop", window=str(NOW))
    bad = world.catalog.rollouts.current("shop")

    told, runs = operates("resume")
    assert "Clear run, only failed" in told
    assert runs == []
    for action in ("pause", "halt"):
        assert operates(action)[1] == []
    halted = world.catalog.rollouts.current("shop")
    assert (halted.state, halted.halted_by, halted.paused_by) == ("halted", "alice", "alice")

    told, runs = operates("rollback")
    assert told.endswith("2 slots that 2026.11-1 reached are to run 2026.10-1.")
    conf = {"rollback_of": bad.id, "release": "2026.10-1", "reason": "a test (asked for by alice)"}
    assert runs == [{"trigger_dag_id": "fleet.shop", "conf": conf}]

    told, runs = operates("revoke", release="2026.11-1")
    assert "halted: shop" in told
    assert {each["trigger_dag_id"] for each in runs} == {"fleet.shop", "fleet.shop-staging"}
    assert runs[0]["conf"]["emergency"] == "2026.11-1"

    operates("unblock", release="2026.11-1")
    assert world.catalog.blocks.list_blocks("shop") == []
    operates("cancel")
    assert world.catalog.rollouts.current("shop") is None


def test_the_operate_dag_starts_the_runs_that_get_away(world: World) -> None:
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    world.release(NOW)
    run = run_dag("operate", fleet="shop", action="revoke", release="2026.11-1", reason="CVE-2026-1")
    assert (run.state, run.tasks["start"]) == ("success", ["success", "success"])
    assert world.catalog.images.get("mini", Version.parse("2026.11-1")).rung == "revoked"
    with create_session() as session:
        asked = select(DagRun).where(DagRun.run_type == "operator_triggered", DagRun.state == "queued")
        started = {each.dag_id: each.conf for each in session.scalars(asked)}
    reason = "CVE-2026-1 (asked for by dag_test)"
    conf = {"emergency": "2026.11-1", "reason": reason}
    assert started == {"fleet.shop": conf, "fleet.shop-staging": conf}


def test_the_operate_dag_acts_and_then_starts_runs(bag: Any) -> None:
    dag = bag.dags["operate"]
    assert dag.get_task("runs").upstream_task_ids == {"act"}
    assert dag.get_task("start").upstream_task_ids == {"runs"}
    assert dag.get_task("start").is_mapped
