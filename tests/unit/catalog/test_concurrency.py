"""Threads and processes that want the same thing at the same time, on both databases."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.domain.clock import ManualClock
from tests.unit.catalog import workers
from tests.unit.catalog.helpers import kinds, must_claim, open_rollout, slots

COUNT = 8

Run = Callable[[Callable[[str, int], Any], str], list[Any]]


@pytest.fixture(params=["threads", "processes"])
def together(request: pytest.FixtureRequest) -> Run:
    """Run a worker several times at once; what each of them returned."""

    def run(worker: Callable[[str, int], Any], url: str) -> list[Any]:
        with _pool(request.param) as pool:
            return [future.result(timeout=120) for future in [pool.submit(worker, url, n) for n in range(COUNT)]]

    return run


def _pool(kind: str) -> Executor:
    if kind == "threads":
        return ThreadPoolExecutor(COUNT)
    return ProcessPoolExecutor(COUNT, mp_context=multiprocessing.get_context("fork"))


@pytest.fixture
def catalog(migrated_url: str) -> Catalog:
    """Closed after every use, so that no connection is open when processes fork."""
    return Catalog(migrated_url)


def test_of_several_migrations_at_once_one_is_done(url: str, together: Run) -> None:
    assert together(workers.migrate, url) == ["0"] * COUNT
    with Catalog(url) as catalog:
        open_rollout(catalog)
        catalog.events.verify()


def test_every_slot_is_replaced_exactly_once(catalog: Catalog, migrated_url: str, together: Run) -> None:
    planned = slots(16)
    rollout = open_rollout(catalog, planned)
    catalog.close()
    done = [slot for each in together(workers.replace_all, migrated_url) for slot in each]
    assert sorted(done) == [each.slot for each in planned]
    events = list(reversed(catalog.events.list_events("fleets/web/")))
    assert Counter(event.kind for event in events)["slot.claimed"] == 16
    assert [event.subject[-6:] for event in events if event.kind == "slot.claimed"] == [each.slot for each in planned]
    under_way = most = 0
    for event in events:
        under_way += {"slot.claimed": 1, "slot.done": -1}.get(event.kind, 0)
        most = max(most, under_way)
    assert 1 <= most <= 3
    tokens = [event.payload["token"] for event in events if event.kind == "slot.claimed"]
    assert tokens == sorted(set(tokens))
    catalog.rollouts.complete(rollout.id)
    catalog.events.verify()
    catalog.close()


def test_an_expired_lease_is_taken_over_once(catalog: Catalog, migrated_url: str, together: Run) -> None:
    long_ago = ManualClock(datetime.now(UTC) - timedelta(hours=1))
    with Catalog(migrated_url, long_ago) as earlier:
        must_claim(earlier, open_rollout(earlier, slots(3)))
    won = together(workers.claim_one, migrated_url)
    assert won.count("busy") == COUNT - 1
    assert kinds(catalog).count("slot.taken_over") == 1
    assert catalog.rollouts.slot(1, 1).holder in won
    catalog.close()


def test_the_same_run_opens_one_rollout(catalog: Catalog, migrated_url: str, together: Run) -> None:
    assert len(set(together(workers.open_same_run, migrated_url))) == 1
    assert kinds(catalog) == ["rollout.opened"]
    catalog.close()


def test_of_several_runs_one_opens_its_rollout(catalog: Catalog, migrated_url: str, together: Run) -> None:
    opened = together(workers.open_other_run, migrated_url)
    assert opened.count("busy") == COUNT - 1
    assert kinds(catalog) == ["rollout.opened"]
    catalog.close()


def test_the_same_run_opens_one_candidate(catalog: Catalog, migrated_url: str, together: Run) -> None:
    assert together(workers.open_same_candidate, migrated_url) == ["2026.11-1"] * COUNT
    assert kinds(catalog) == ["image.opened"]
    catalog.close()


def test_of_several_runs_one_opens_its_candidate(catalog: Catalog, migrated_url: str, together: Run) -> None:
    assert together(workers.open_other_candidate, migrated_url).count("busy") == COUNT - 1
    assert kinds(catalog) == ["image.opened"]
    catalog.close()


def test_the_same_intent_is_written_down_once(catalog: Catalog, migrated_url: str, together: Run) -> None:
    assert len(set(together(workers.begin_same_intent, migrated_url))) == 1
    assert len(catalog.intents.list_intents()) == 1
    assert sorted(kinds(catalog)) == ["intent.begun"] + ["intent.repeated"] * (COUNT - 1)
    catalog.events.verify()
    catalog.close()
