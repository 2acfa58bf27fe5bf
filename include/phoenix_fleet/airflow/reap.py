"""The hourly reaper: what crashes and cancelled rollouts left of fleets, of throw-away instances and of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import task

from phoenix_fleet.airflow import world
from phoenix_fleet.domain.errors import StepFailed

if TYPE_CHECKING:
    from phoenix_fleet.rollout.reaping import Reaped

RUNBOOK = "docs/runbooks/orphan-instances.md"


@task
def reap_fleet(fleet: str, **context: Any) -> list[str]:
    """A line for each instance of the fleet that belongs to nobody, and for what was done about it.

    :raises StepFailed: if a person must look, so that the grid shows it and the owners are called.
    """
    from phoenix_fleet.rollout.reaping import reaper_for

    world.mark(machine=fleet, step="reap")
    with world.catalog() as catalog:
        reaper = reaper_for(world.project().fleet(fleet), catalog, world.connections, log=world.log.info)
        return _told(fleet, reaper.run(actor=world.actor_of(context), reason=_reason(context)))


@task
def reap_snapshots(fleet: str) -> list[str]:
    """A line for each snapshot of the fleet's data volumes that was deleted, being older than those that are kept."""
    from phoenix_fleet.rollout.reaping_snapshots import snapshot_reaper_for

    world.mark(machine=fleet, step="reap")
    with world.catalog() as catalog:
        reaper = snapshot_reaper_for(world.project().fleet(fleet), catalog, world.connections, log=world.log.info)
        return reaper.run().lines() if reaper is not None else []


@task
def reap_throwaways(family: str, **context: Any) -> list[str]:
    """The same of the family's throw-away instances, on each of its platforms."""
    from phoenix_fleet.rollout.reaping import throwaway_reaper_for

    world.mark(machine=family, step="reap")
    image_family, found = world.project().family(family), []
    with world.catalog() as catalog:
        for platform in image_family.platforms:
            reaper = throwaway_reaper_for(image_family, platform, catalog, world.connections, log=world.log.info)
            found.append(reaper.run(actor=world.actor_of(context), reason=_reason(context)))
    return _told(family, *found)


@task
def reap_images(family: str, **context: Any) -> list[str]:
    """A line for each artefact that was deleted, because its image is rejected or retired, or spared.

    What killed builds left on the family's platforms goes, too.
    """
    from phoenix_fleet import packer
    from phoenix_fleet.rollout.reaping import image_reaper_for

    world.mark(machine=family, step="reap")
    project, lines = world.project(), []
    with world.catalog() as catalog:
        for platform in project.family(family).platforms:
            reaper = image_reaper_for(project, family, platform, catalog, world.connections, log=world.log.info)
            lines += reaper.run().lines()
            packer.sweep(project.family(family).target(platform), world.connections, lines.append)
    return lines


def _reason(context: Any) -> str:
    return ((context.get("params") or {}).get("reason") or "").strip() or "hourly look for what was left behind"


def _told(subject: str, *reaped: Reaped) -> list[str]:
    if alarms := [each.alarm for each in reaped if each.alarm]:
        raise StepFailed(f"{subject}: {'; '.join(alarms)}.", remedy=RUNBOOK)
    return [line for each in reaped for line in each.lines()]
