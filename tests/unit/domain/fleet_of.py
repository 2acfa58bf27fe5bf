"""Machines and looks that tests of the planner share."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from phoenix_fleet.domain.fleets import FleetShape, Observed, Target
from phoenix_fleet.domain.models import Backend, BackendStatus, Instance, InstanceState
from phoenix_fleet.domain.windows import Version

NOW = datetime(2026, 11, 20, tzinfo=UTC)
OLD, NEW, NEWER = (Version.parse(text) for text in ("2026.10-1", "2026.11-1", "2026.12-1"))
TARGET = Target(NEW, "sha256:new", {OLD: "sha256:old", NEW: "sha256:new"})
SHAPE = FleetShape("web", ("web-01", "web-02", "web-03", "web-04"), canary=1, waves=(2, 4))
HEALTHY, UNHEALTHY, ABSENT, DRAINING = (
    BackendStatus(word) for word in (Backend.HEALTHY, Backend.UNHEALTHY, Backend.ABSENT, Backend.DRAINING)
)


def machine(slot: str, version: object = OLD, *, name: str = "", days: float = 1, **changes: object) -> Instance:
    made = Instance(
        id=f"i-{name or slot}",
        name=name or slot,
        fleet="web",
        slot=slot,
        version=str(version),
        token="t",
        state=InstanceState.RUNNING,
        launched_at=NOW - timedelta(days=days),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def seen(*instances: Instance, **backends: BackendStatus) -> Observed:
    """All healthy, unless said otherwise by name (with _ for -)."""
    said = {name.replace("_", "-"): status for name, status in backends.items()}
    return Observed(instances, {each.id: said.get(each.name, HEALTHY) for each in instances})


def fleet(version: Version = OLD, **backends: BackendStatus) -> Observed:
    return seen(*(machine(slot, version) for slot in SHAPE.slots), **backends)
