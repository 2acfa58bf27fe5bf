"""What a run of a fleet DAG is told while it waits for its turn."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from phoenix_fleet.airflow.questions import fleet_is_free
from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.records import RolloutKind, RolloutRecord
from phoenix_fleet.domain.planner import PlannedSlot
from phoenix_fleet.domain.windows import Version, Window

OLD, NEW = Version.parse("2026.10-1"), Version.parse("2026.11-1")


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(f"sqlite:///{tmp_path}/catalog.db") as found:
        found.migrate()
        yield found


def opened(catalog: Catalog) -> RolloutRecord:
    slots = [PlannedSlot("web-01", 0, "outdated")]
    return catalog.rollouts.open(
        "web", "base", OLD, Window(2026, 10), "first", slots, settings={}, actor="ann", reason="monthly"
    )


def ask(catalog: Catalog, run: str = "second") -> tuple[bool, str]:
    return fleet_is_free(catalog, fleet="web", run=run)


def test_it_waits_for_an_open_rollout_and_says_which(catalog: Catalog) -> None:
    assert ask(catalog) == (True, "no other rollout of web is open")
    opened(catalog)
    assert ask(catalog, "first")[0]
    assert ask(catalog) == (False, "rollout 1 of web to 2026.10-1 is open (by first)")
    catalog.rollouts.pause("web", actor="bob", reason="quiet, please")
    assert ask(catalog) == (False, "rollout 1 of web to 2026.10-1 is open (by first), paused by bob: quiet, please")


def test_a_halted_one_is_for_the_plan_to_tell_once_nobody_is_at_it(catalog: Catalog) -> None:
    ticket = catalog.rollouts.claim(opened(catalog).id, 0, "worker", lease=timedelta(hours=1), max_in_flight=1)
    assert ticket is not None
    catalog.rollouts.halt("web", actor="bob", reason="smoke")
    assert ask(catalog) == (False, "rollout 1 of web to 2026.10-1 is halted, and worker has not let go of web-01 yet")
    catalog.rollouts.give_back(ticket)
    assert ask(catalog)[0]


def test_who_is_superseded_need_not_wait(catalog: Catalog) -> None:
    opened(catalog)
    catalog.queue.ask("web", "second", OLD, RolloutKind.REFRESH, whole=True)
    assert not ask(catalog)[0]
    catalog.queue.ask("web", "third", NEW, RolloutKind.REFRESH, whole=True)
    assert ask(catalog) == (True, "superseded by 2026.11-1, which third waits with")
    assert not ask(catalog, "third")[0]


def test_going_back_goes_first(catalog: Catalog) -> None:
    catalog.queue.ask("web", "second", NEW, RolloutKind.REFRESH, whole=True)
    for run in ("back", "again"):
        catalog.queue.ask("web", run, OLD, RolloutKind.ROLLBACK, whole=False)
    assert ask(catalog) == (False, "the rollback of back to 2026.10-1 goes first")
    assert ask(catalog, "back")[0]
    assert not ask(catalog, "again")[0], "two that go back go one after another"
