from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from phoenix_fleet.domain.auditing import (
    FleetFacts,
    Kind,
    WaiverFacts,
    audit_fleet,
    audit_forecast,
    audit_throwaways,
    audit_waivers,
    audit_window,
)
from phoenix_fleet.domain.models import Instance, InstanceState
from phoenix_fleet.domain.windows import Version, Window

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def instance(slot: str, version: str = "2026.11-1", days: float = 1, **changes: object) -> Instance:
    fields = {
        "id": f"i-{slot}-{version}",
        "name": f"{slot}-x",
        "fleet": "web",
        "slot": slot,
        "version": version,
        "token": "t",
        "state": InstanceState.RUNNING,
        "launched_at": NOW - timedelta(days=days),
    }
    return Instance(**{**fields, **changes})  # type: ignore[arg-type]


def facts(rolling: bool = False) -> FleetFacts:
    return FleetFacts("web", ["web-01", "web-02"], timedelta(days=35), Version.parse("2026.11-1"), rolling)


def kinds(*instances: Instance, rolling: bool = False) -> list[tuple[Kind, str]]:
    return [(found.kind, found.subject) for found in audit_fleet(facts(rolling), instances, NOW)]


def test_a_fresh_fleet_has_no_findings() -> None:
    assert kinds(instance("web-01"), instance("web-02")) == []


@pytest.mark.parametrize(
    ("odd", "kind"),
    [
        (instance("web-02", "2026.10-1"), Kind.OUTDATED),
        (instance("web-02", "unreadable"), Kind.OUTDATED),
        (instance("web-02", days=36), Kind.OVER_AGE),
        (instance("web-02", days=33), Kind.NEARLY_OVER_AGE),
    ],
)
def test_old_machines_are_found(odd: Instance, kind: Kind) -> None:
    assert kinds(instance("web-01"), odd) == [(kind, "web-02-x")]


def test_newer_than_released_is_not_outdated() -> None:
    assert kinds(instance("web-01"), instance("web-02", "2026.12-1")) == []


def test_empty_slots_and_strangers_are_found() -> None:
    assert kinds(instance("web-01"), instance("web-99")) == [(Kind.EMPTY_SLOT, "web-02"), (Kind.ORPHAN, "web-99-x")]


def test_a_gone_instance_fills_no_slot() -> None:
    assert kinds(instance("web-01"), instance("web-02", state=InstanceState.GONE)) == [(Kind.EMPTY_SLOT, "web-02")]


def test_two_in_a_slot_are_expected_only_while_rolling() -> None:
    pair = (instance("web-01"), instance("web-02"), instance("web-02", "2026.11-2"))
    assert kinds(*pair, rolling=True) == []
    assert kinds(*pair) == [(Kind.ORPHAN, "web-02-x"), (Kind.ORPHAN, "web-02-x")]


def test_left_over_throwaways_are_found() -> None:
    old, new = instance("test-docker", days=1), instance("test-docker", days=0.01)
    assert [found.subject for found in audit_throwaways([old, new], NOW)] == [old.name]


@pytest.mark.parametrize(
    ("met_at", "now", "status"),
    [
        (datetime(2026, 11, 3, tzinfo=UTC), NOW, "met"),
        (datetime(2026, 12, 3, tzinfo=UTC), datetime(2026, 12, 4, tzinfo=UTC), "met late"),
        (None, NOW, "open"),
        (None, datetime(2026, 12, 4, tzinfo=UTC), "missed"),
    ],
)
def test_windows_are_met_met_late_open_or_missed(met_at: datetime | None, now: datetime, status: str) -> None:
    said, found = audit_window("web", Window(2026, 11), met_at, now)
    assert said == status
    assert bool(found) is (status == "missed")


def test_waivers_in_force_are_told_and_excuse_their_slot_and_expired_ones_are_found() -> None:
    waivers = [
        WaiverFacts("web-01", NOW + timedelta(days=3), "waived until 2026-11-26 by alice: dongle"),
        WaiverFacts("web-02", NOW, "waived until 2026-11-23 by bob: migration"),
    ]
    told, found = audit_waivers(waivers, NOW)
    assert told == ["web-01: waived until 2026-11-26 by alice: dongle"]
    assert [(each.kind, each.subject) for each in found] == [(Kind.WAIVER_EXPIRED, "web-02")]
    old = instance("web-01", "2026.09-1", 80), instance("web-02", "2026.09-1", 80)
    excused = audit_fleet(replace(facts(), waived=frozenset({"web-01"})), old, NOW)
    assert {each.subject for each in audit_fleet(facts(), old, NOW)} == {"web-01-x", "web-02-x"}
    assert {each.subject for each in excused} == {"web-02-x"}


def test_a_forecast_that_misses_the_deadline_is_found() -> None:
    (found,) = audit_forecast("web", "at risk", "2026-12-03")
    assert (found.kind, found.message) == (Kind.DEADLINE_AT_RISK, "its rollout will be late: done about 2026-12-03")
    assert audit_forecast("web", "tight", "2026-11-30") == audit_forecast("web", "", "") == []
