"""Whose clock counts: hosts that share a database share its clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.domain.clock import ManualClock, SystemClock
from phoenix_fleet.domain.errors import Busy
from tests.unit.catalog.helpers import claim, must_claim, open_rollout, slots


def set_this_host_off(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    monkeypatch.setattr(SystemClock, "now", lambda self: datetime.now(UTC) + by)


@pytest.mark.postgres
@pytest.mark.parametrize("by", [timedelta(minutes=5), timedelta(hours=24), timedelta(hours=-24)])
def test_a_host_with_a_wrong_clock_takes_no_lease_away(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, by: timedelta
) -> None:
    with Catalog(postgres_url) as here, Catalog(postgres_url) as there:
        here.migrate()
        rollout = open_rollout(here, slots(2))
        must_claim(here, rollout)
        set_this_host_off(monkeypatch, by)
        with pytest.raises(Busy):
            claim(there, rollout, holder="task-2/try-1")
        before = here.rollouts.get(rollout.id).opened_at
        there.rollouts.halt("web", actor="alice", reason="looks wrong")
        halted_at = there.rollouts.get(rollout.id).halted_at
        assert halted_at is not None
        assert before <= halted_at <= before + timedelta(minutes=4)
        assert before <= there.clock.now() <= before + timedelta(minutes=4)


def test_whoever_brings_a_clock_goes_by_it(migrated_url: str) -> None:
    clock = ManualClock(datetime(2031, 1, 1, tzinfo=UTC))
    with Catalog(migrated_url, clock) as catalog:
        assert catalog.clock.now() == datetime(2031, 1, 1, tzinfo=UTC)
        assert open_rollout(catalog).opened_at == datetime(2031, 1, 1, tzinfo=UTC)


def test_a_moment_is_in_utc_and_never_goes_back_within_a_database(migrated_url: str) -> None:
    with Catalog(migrated_url) as catalog:
        first, second = catalog.clock.now(), catalog.clock.now()
        assert first <= second
        assert first.utcoffset() == timedelta()
