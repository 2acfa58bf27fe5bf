"""``phoenix reap``: terminate what was left behind, or show what would be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phoenix_fleet import cli_show
from phoenix_fleet.config import Project
from phoenix_fleet.connections import Connections, SettingsFile
from phoenix_fleet.domain.errors import InvalidConfig

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog


def reap(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A fleet, or an image family.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what is due; touch and write nothing.")] = False,
    actor: Annotated[str, typer.Option("--actor", help="Your name; required without --dry-run.")] = "",
    reason: Annotated[str, typer.Option("--reason", help="Why; required without --dry-run.")] = "",
    include: Annotated[
        Path | None, typer.Option("--include", help="The project's include/ folder. Default: PHOENIX_INCLUDE, or ours.")
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option("--settings", help="Connections in the Astro CLI's format. Default: airflow_settings.yaml."),
    ] = None,
) -> None:
    """Terminate what crashes left of a fleet, or of a family's throw-away instances and dead images.

    Of a fleet with data volumes the snapshots go, too, that are older than those which are kept.

    A few at a time, and only what was an orphan at looks hours apart. It exits with 1 if a person must look.
    """
    from phoenix_fleet.catalog import Catalog

    for option, value in (("--actor", actor), ("--reason", reason)):
        if not dry_run and not value.strip():
            raise InvalidConfig(f"{option} is empty.", remedy="It is recorded for good; or use --dry-run.")
    project = Project(include) if include else Project.find()
    connections = SettingsFile(settings or project.include.parent / "airflow_settings.yaml")
    who = None if dry_run else (actor.strip(), reason.strip())
    families = [path.parent.name for path in project.family_files()]
    is_fleet = name in [path.stem for path in project.fleet_files()] or name not in families
    with Catalog.from_environment() as catalog:
        look = _fleet if is_fleet else _family
        lines, alarms = look(project, name, catalog, connections, who)
    for line in lines or [f"Nothing of {name} was left behind."]:
        typer.echo(cli_show.clean(line))
    if alarms:
        raise typer.Exit(1)


_Lines = tuple[list[str], list[str]]


def _fleet(
    project: Project, name: str, catalog: Catalog, connections: Connections, who: tuple[str, str] | None
) -> _Lines:
    from phoenix_fleet.rollout.reaping import reaper_for
    from phoenix_fleet.rollout.reaping_snapshots import snapshot_reaper_for

    fleet = project.fleet(name)
    reaper = reaper_for(fleet, catalog, connections, log=_quiet)
    found = reaper.run(actor=who[0], reason=who[1]) if who else reaper.look()
    lines = found.lines()
    if (snapshots := snapshot_reaper_for(fleet, catalog, connections, log=_quiet)) is not None:
        lines += (snapshots.run() if who else snapshots.look()).lines()
    return lines, [found.alarm] if found.alarm else []


def _family(
    project: Project, name: str, catalog: Catalog, connections: Connections, who: tuple[str, str] | None
) -> _Lines:
    from phoenix_fleet.rollout.reaping import image_reaper_for, throwaway_reaper_for

    family = project.family(name)
    lines: list[str] = []
    alarms: list[str] = []
    for platform in family.platforms:
        reaper = throwaway_reaper_for(family, platform, catalog, connections, log=_quiet)
        found = reaper.run(actor=who[0], reason=who[1]) if who else reaper.look()
        images = image_reaper_for(project, name, platform, catalog, connections, log=_quiet)
        lines += [*found.lines(), *(images.run() if who else images.look()).lines()]
        alarms += [found.alarm] if found.alarm else []
    return lines, alarms


def _quiet(line: str) -> None:
    """What is found is printed at the end, in one piece."""
