"""The daily audit: every fleet as its platform lists it now, against the releases and windows of the catalog."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import task

from phoenix_fleet.airflow import world
from phoenix_fleet.domain import auditing
from phoenix_fleet.domain.errors import InvalidConfig, StepFailed
from phoenix_fleet.domain.windows import Window

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog
    from phoenix_fleet.config import Fleet


@task(map_index_template=world.LABEL)
def inspect(fleet: str, **context: Any) -> list[str]:
    """One fleet's findings, a line each, logged and kept as an event.

    :raises StepFailed: if there is any, so that the grid shows it and the owners are called.
    """
    world.mark(label=fleet, machine=fleet, step="audit")
    catalog = world.catalog()
    try:
        config = world.project().fleet(fleet)
        now = datetime.now(UTC)
        status, found = audit(catalog, config, now)
        lines = [f"{entry.kind}: {entry.subject}: {entry.message}" for entry in found]
        waived, _ = auditing.audit_waivers(waivers_of(config), now)
        payload = {"window": status, "findings": lines, "waived": waived}
        catalog.events.append("audit", f"fleet/{fleet}", world.actor_of(context), payload)
    finally:
        catalog.close()
    world.log.info("%s: this window is %s; %d findings; %d waivers in force", fleet, status, len(lines), len(waived))
    for line in waived:
        world.log.info("%s: waiver: %s", fleet, line)
    for line in lines:
        world.log.warning("%s: %s", fleet, line)
    if lines:
        raise StepFailed(
            f"{fleet}: {'; '.join(lines[:10])}{' …' if len(lines) > 10 else ''}.",
            remedy="docs/runbooks/audit-findings.md",
        )
    return lines


def audit(catalog: Catalog, fleet: Fleet, now: datetime) -> tuple[str, list[auditing.Finding]]:
    """How the fleet's current window stands, and all findings about the fleet and what was left beside it."""
    from phoenix_fleet.rollout.deps import seen_through

    platform, _ = seen_through(world.project(), fleet, world.connections)
    released = catalog.blocks.newest_good(fleet.name, fleet.family)
    rollouts = catalog.rollouts.list_rollouts(fleet.name)
    facts = auditing.FleetFacts(
        name=fleet.name,
        slots=fleet.slots,
        max_age=fleet.max_age,
        released=released.version if released else None,
        rolling=catalog.rollouts.current(fleet.name) is not None,
        waived=frozenset(each.slot for each in waivers_of(fleet) if now < each.ends),
    )
    found = auditing.audit_fleet(facts, platform.list_instances(fleet.name), now)
    found += auditing.audit_throwaways(platform.list_instances("throwaway"), now)
    found += auditing.audit_waivers(waivers_of(fleet), now)[1]
    found += _late(catalog, fleet, now)
    window = Window.of(now)
    status, _ = auditing.audit_window(fleet.name, window, _met_at(rollouts, window), now)
    if rollouts:
        missed = window.previous()
        found += auditing.audit_window(fleet.name, missed, _met_at(rollouts, missed), now)[1]
    return status, found


def waivers_of(fleet: Fleet) -> list[auditing.WaiverFacts]:
    """The waivers of the fleet's file."""
    return [auditing.WaiverFacts(each.slot, each.ends, str(each)) for each in fleet.waivers]


def _late(catalog: Catalog, fleet: Fleet, now: datetime) -> list[auditing.Finding]:
    """Whether the rollout under way, open or halted, will be late."""
    from phoenix_fleet.rollout.pacing import forecast_of
    from phoenix_fleet.rollout.planning import frozen_fleet

    current = catalog.rollouts.current(fleet.name)
    try:
        told = forecast_of(catalog, current, frozen_fleet(current, fleet), now) if current else None
    except InvalidConfig:  # kept by another version of ours; everything else can be audited all the same
        told = None
    if told is None:
        return []
    return auditing.audit_forecast(fleet.name, told["standing"], told["finish_p50"] or "never, as things stand")


def _met_at(rollouts: Any, window: Window) -> datetime | None:
    done = [entry.closed_at for entry in rollouts if entry.state == "done" and entry.window >= window]
    return min(done, default=None)
