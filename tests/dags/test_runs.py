"""The DAGs run, on fakes, to success and to each kind of stop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from phoenix_fleet import freshness, packer
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.windows import Window
from tests.dags.running import NOW, OLD, World, answering, run_dag

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


def test_the_chain_releases_an_image_and_the_fleet_follows(world: World) -> None:
    with answering("Approve"):
        run = run_dag("image.mini", window=str(NOW))
    assert run.state == "success", run.tasks
    released = world.catalog.images.newest_released("mini")
    assert str(released.version) == "2026.11-1"
    assert [each.responder for each in world.catalog.measurements.approvals("mini", released.version)] == ["approver"]
    assert set(world.versions("shop-staging").values()) == {"2026.11-1"}
    assert not world.alive("throwaway")

    fleet = run_dag("fleet.shop", window=str(NOW))
    assert fleet.state == "success", fleet.tasks
    assert set(world.versions("shop").values()) == {"2026.11-1"}
    assert len(world.alive("shop")) == 4


def test_a_failed_gate_rejects_the_image_and_ends_red(world: World) -> None:
    world.gates().steer(outcome="failed")
    run = run_dag("image.mini", window=str(NOW))
    assert run.state == "failed"
    assert run.tasks["test.judge"] == ["failed"]
    assert run.tasks["test.retire"] == ["success"]
    assert run.tasks["gate"] == ["success"]
    assert run.tasks["reject"] == ["failed"]
    assert run.tasks["approve"] == ["skipped"]
    (rejected,) = [image for image in world.catalog.images.list_images("mini") if image.version.window == NOW]
    assert rejected.rung == Rung.REJECTED
    assert "told to say failed" in rejected.reason
    assert not world.alive("throwaway")
    assert set(world.versions("shop").values()) == {"2026.10-1"}


def test_what_cannot_be_measured_is_no_rejection(world: World) -> None:
    world.gates().steer(outcome="error")
    run = run_dag("image.mini", window=str(NOW))
    assert run.state == "failed"
    assert run.tasks["gate"] == ["failed"]
    assert run.tasks["reject"] == ["upstream_failed"]
    assert world.catalog.images.in_flight("mini").rung == Rung.CANDIDATE


def test_an_inconclusive_measurement_asks_a_person_who_may_say_no(world: World) -> None:
    world.gates().steer(outcome="passed", next=["inconclusive"])
    with answering("Reject"):
        run = run_dag("image.mini", window=str(NOW))
    assert run.state == "failed"
    assert run.tasks["decide_inconclusive"] == ["failed"]
    assert run.tasks["approve"] == ["upstream_failed"]
    assert world.catalog.images.newest_released("mini").window == OLD


def test_a_newer_release_covers_a_missed_window(world: World) -> None:
    run = run_dag("image.mini", window="2026-09")
    assert run.state == "success"
    assert run.tasks["build.settle"] == ["success"]
    assert run.tasks["build.packer"] == run.tasks["gate"] == ["skipped"]
    assert world.catalog.images.window("mini", Window.parse("2026-09")).how == "covered"


def test_nothing_changed_means_nothing_is_built(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    family = world.project.family("mini")
    world.release(OLD, inputs=packer.inputs_fingerprint(family))
    monkeypatch.setattr(freshness, "pending_upgrades", lambda hostspec: [])
    run = run_dag("image.mini", window=str(NOW))
    assert run.state == "success"
    assert run.tasks["build.open_candidate"] == ["skipped"]
    assert world.catalog.images.window("mini", NOW).how == "unchanged"
    assert world.catalog.images.release_for("mini", NOW) is not None
    assert not world.alive("throwaway")


def test_a_failed_replacement_halts_until_a_person_resumes(world: World) -> None:
    world.release(NOW)
    world.gates().steer(outcome="passed", next=["passed", "failed"])
    run = run_dag("fleet.shop", window=str(NOW))
    assert run.state == "failed"
    assert run.tasks["canary.replace"] == ["success"]
    assert sorted(run.tasks["wave_1.replace"]) == ["failed"]
    assert run.tasks["wave_2.replace"] == ["upstream_failed"]
    assert run.tasks["report"] == ["upstream_failed"]
    assert run.tasks["report_halt"] == ["success"]
    halted = world.catalog.rollouts.current("shop")
    assert (halted.state, halted.halted_slot, halted.halted_step) == ("halted", "shop-02", "verify")
    assert world.versions("shop") == {
        "shop-01": "2026.11-1", "shop-02": "2026.10-1", "shop-03": "2026.10-1", "shop-04": "2026.10-1",
    }  # fmt: skip
    assert len(world.alive("shop")) == 4

    again = run_dag("fleet.shop", window=str(NOW))
    assert again.state == "failed"
    assert again.tasks["plan"] == ["failed"], "no other rollout begins while one is halted"


def test_in_whatever_order_mapped_siblings_run_the_lowest_slot_fails_and_the_others_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World.make(tmp_path, monkeypatch, size=5, waves=["100%"])  # dag.test() runs the four of wave 1 at random
    world.populate(world.release(OLD))
    world.release(NOW)
    world.gates().steer(outcome="passed", next=["passed", "passed", "failed"])
    run = run_dag("fleet.shop", window=str(NOW))
    assert run.state == "failed"
    # Whoever comes last in the wave goes on to its end, so if it is run first nobody else replaces anything.
    assert run.tasks["wave_1.replace"].count("failed") >= 3
    halted = world.catalog.rollouts.current("shop")
    assert (halted.state, halted.halted_slot) == ("halted", "shop-03")
    new = [slot for slot, version in world.versions("shop").items() if version == "2026.11-1"]
    assert sorted(new) == ["shop-01", "shop-02"]
    world.catalog.close()


def test_a_dry_run_touches_nothing(world: World) -> None:
    world.release(NOW)
    before = [call.method for call in world.platform().calls() if call.method in ("launch", "terminate")]
    run = run_dag("fleet.shop", window=str(NOW), dry_run=True)
    assert run.state == "success"
    assert run.tasks["canary.replace"] == ["skipped"]
    assert world.catalog.rollouts.list_rollouts("shop") == []
    assert [call.method for call in world.platform().calls() if call.method in ("launch", "terminate")] == before


def test_only_the_slots_asked_for_are_replaced(world: World) -> None:
    world.release(NOW)
    run = run_dag("fleet.shop", window=str(NOW), slots=["shop-03"])
    assert run.state == "success", run.tasks
    assert world.versions("shop")["shop-03"] == "2026.11-1"
    assert sorted(world.versions("shop").values()) == ["2026.10-1"] * 3 + ["2026.11-1"]


def test_a_manual_run_without_a_reason_is_refused(world: World) -> None:
    world.release(NOW)
    run = run_dag("fleet.shop", window=str(NOW), reason="")
    assert run.tasks["plan"] == ["failed"]
    assert world.catalog.rollouts.list_rollouts("shop") == []


def test_the_reaper_finds_nothing_and_then_calls_for_a_person(world: World) -> None:
    assert run_dag("reap").state == "success"
    before = world.alive("shop")
    stray = world.stray("shop-01")
    run = run_dag("reap")
    assert run.state == "failed"
    assert (run.tasks["fleet.shop"], run.tasks["fleet.shop-staging"]) == (["failed"], ["success"])
    assert (run.tasks["throwaways.mini"], run.tasks["images.mini"]) == (["success"], ["success"])
    assert len(world.alive("shop")) == len(before) + 1
    look = world.catalog.events.list_events("fleets/shop/reaper/")[0]
    assert look.payload["strangers"] == [stray]
    assert run_dag("reap").state == "success", "the same stranger calls nobody twice"
