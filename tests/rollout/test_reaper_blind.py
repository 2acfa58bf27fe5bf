"""The reaper does not believe a view that cannot be whole, and a view that it does not believe costs no machine."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.domain import reaping
from phoenix_fleet.domain.errors import Blind, PhoenixError, Throttled, Unavailable
from tests.rollout.reapers import HOUR, hourly, leave, mutations, reaper, terminated
from tests.rollout.scene import Scene


def test_machines_with_all_our_marks_and_no_intent_stop_it(scene: Scene) -> None:
    leave(scene)
    for number in range(3):
        slot = f"web-0{number + 1}"
        marks = {"owner": "phoenix-fleet", "fleet": "web", "slot": slot, "token": f"t-{number}", "fingerprint": "f"}
        scene.platform.add_foreign(f"{slot}-stray", **marks)
    first, *rest = hourly(scene, 5)
    assert terminated(scene) == []
    assert len(first.news) == 3
    assert all("are believed" in each.alarm for each in (first, *rest))
    assert {each.news for each in rest} == {()}


def test_a_lost_catalog_reaps_nothing(scene: Scene) -> None:
    leave(scene)
    hourly(scene, 3 - 1)
    with Catalog(f"sqlite:///{scene.folder}/fresh.db", scene.clock) as fresh:
        fresh.migrate()
        lost, scene.catalog = scene.catalog, fresh
        found = hourly(scene, 6)
        scene.catalog = lost
    assert terminated(scene) == []
    assert found[0].news
    assert found[-1].found.orphans == ()


@pytest.mark.parametrize(
    "error",
    [Unavailable("page 2 of 3 did not come"), Throttled("slow down"), Blind("no view")],
    ids=lambda e: type(e).__name__,
)
def test_a_listing_that_fails_touches_and_forgets_nothing(scene: Scene, error: PhoenixError) -> None:
    leave(scene)
    hourly(scene, 2)
    scene.clock.advance(HOUR)
    head, calls = scene.catalog.events.head(), mutations(scene)
    scene.platform.fail_next("list_instances", error)
    with pytest.raises(Blind):
        reaper(scene).run(actor="airflow", reason="hourly")
    assert (scene.catalog.events.head(), mutations(scene)) == (head, calls)
    assert len(hourly(scene, 1)[0].told) == 1


def test_a_balancer_that_does_not_answer_touches_nothing(scene: Scene) -> None:
    leave(scene)
    hourly(scene, 2)
    scene.clock.advance(HOUR)
    scene.balancer.fail_next("state", Unavailable("no answer"))
    with pytest.raises(Blind):
        reaper(scene).run(actor="airflow", reason="hourly")
    assert terminated(scene) == []


@pytest.mark.parametrize("answer", ["nothing", "everything", "twice"])
def test_an_answer_that_cannot_be_true_touches_nothing(
    scene: Scene, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.run(scene.open("run-before"))
    honest = scene.platform.list_instances
    other = replace(honest("web")[0], id="i-other", fleet="shop")
    said = {"nothing": lambda true: [], "everything": lambda true: [*true, other], "twice": lambda true: [*true, *true]}
    monkeypatch.setattr(scene.platform, "list_instances", lambda fleet: said[answer](honest(fleet)))
    calls = mutations(scene)
    with pytest.raises(Blind):
        reaper(scene, rules=reaping.Rules(grace=timedelta())).run(actor="airflow", reason="hourly")
    assert mutations(scene) == calls


@pytest.mark.parametrize("lag", [30, 300])
def test_reads_that_lag_never_cost_a_machine_that_serves(scene: Scene, lag: float) -> None:
    orphan = leave(scene)
    scene.platform.lag(lag)
    scene.balancer.lag(lag)
    hourly(scene, 5)
    assert terminated(scene) == [orphan]
    assert len(scene.serving()) == 3
