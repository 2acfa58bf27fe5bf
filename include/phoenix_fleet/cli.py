"""The ``phoenix`` command: check the files, look at fleets and releases, and act on them by name and with a reason.

It exits with 0 when all is well, 1 when something was refused, failed or found wrong, and 2 when it was asked wrongly.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from phoenix_fleet import cli_pace, cli_reap, cli_show, cli_simulate
from phoenix_fleet.config import Fleet, Project
from phoenix_fleet.connections import SettingsFile
from phoenix_fleet.domain.errors import InvalidConfig, NotFound, PhoenixError
from phoenix_fleet.domain.windows import Version, Window

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog
    from phoenix_fleet.catalog.records import RolloutRecord
    from phoenix_fleet.domain.models import Image

EXIT_FAILED, EXIT_USAGE = 1, 2


class _Group(TyperGroup):
    """Turns our errors into one message and an exit code; a bug still shows its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PhoenixError as error:
            cli_show.console(stderr=True).print(f"phoenix: {error}", markup=False, style="red")
            raise typer.Exit(EXIT_USAGE if isinstance(error, InvalidConfig) else EXIT_FAILED) from None


app = typer.Typer(cls=_Group, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)
release = typer.Typer(no_args_is_help=True, help="Look at releases, and take one back.", rich_markup_mode=None)
app.add_typer(release, name="release")
app.command()(cli_reap.reap)
app.command("simulate")(cli_simulate.command)

Include = Annotated[
    Path | None, typer.Option("--include", help="The project's include/ folder. Default: PHOENIX_INCLUDE, or ours.")
]
Settings = Annotated[
    Path | None,
    typer.Option("--settings", help="Connections in the Astro CLI's format. Default: airflow_settings.yaml beside it."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the catalog's event chain.")]
Actor = Annotated[
    str,
    typer.Option("--actor", help="Your name. There is no default: a shared login is nobody, and the act is recorded."),
]


@app.command()
def validate(include: Include = None, settings: Settings = None, as_json: AsJson = False) -> None:
    """Check every file below include/, one line for each mistake: file:line: field: what. Remedy: what to do."""
    from phoenix_fleet import cli_validate

    project = _project(include)
    found = cli_validate.inspect(project, settings or project.include.parent / "airflow_settings.yaml")
    if as_json:
        typer.echo(json.dumps({"mistakes": found.mistakes, "warnings": found.warnings}, indent=2, ensure_ascii=False))
    else:
        out = cli_show.console(stderr=True)
        for line in found.mistakes:
            out.print(cli_show.clean(line), markup=False, style="red")
        for line in found.warnings:
            out.print(f"warning: {cli_show.clean(line)}", markup=False, style="yellow")
        told = f"{len(found.mistakes)} mistakes" if found.mistakes else "no mistakes"
        typer.echo(f"Image families: {found.families} sound. Fleets: {found.fleets} sound. In all: {told}.")
    if found.mistakes:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def schema(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if a schema is stale.")] = False,
    folder: Annotated[Path | None, typer.Option("--folder", help="Default: docs/schemas beside include/.")] = None,
) -> None:
    """Write the JSON Schemas of the configuration files, which editors read."""
    from phoenix_fleet import cli_schema

    target = folder or _project(None).include.parent / "docs" / "schemas"
    found = cli_schema.stale(target) if check else cli_schema.write(target)
    for path in found:
        typer.echo(f"{'stale' if check else 'written'}: {path}")
    if check and found:
        typer.echo("Run `phoenix schema`.", err=True)
        raise typer.Exit(EXIT_FAILED)


@app.command()
def migrate() -> None:
    """Make the catalog's tables, or bring them up to date. Safe to repeat, also by two at once."""
    with _catalog() as catalog:
        catalog.migrate()
    typer.echo("The catalog is up to date.")


@app.command()
def status(
    fleet: Annotated[str | None, typer.Argument(help="Default: all fleets.")] = None,
    include: Include = None,
    as_json: AsJson = False,
) -> None:
    """Show where fleets stand by the catalog: release, rollout, every replacement with its step and reason."""
    project = _project(include)
    names = [fleet] if fleet else [path.stem for path in project.fleet_files()]
    found = []
    with _catalog() as catalog:
        for name in names:
            try:
                found.append(cli_show.fleet_status(catalog, name, _readable_fleet(project, name), datetime.now(UTC)))
            except NotFound:
                if fleet:
                    project.fleet(name)  # says better what is wrong, where there is such a file
                    raise
                typer.echo(f"{name}: its file is wrong and it had no rollout yet: see `phoenix validate`.", err=True)
    if as_json:
        _print_json(found[0] if fleet else found)
        return
    for each in found:
        for part in cli_show.status_tables(each):
            cli_show.console().print(part)


@app.command()
def plan(
    fleet: Annotated[str, typer.Argument(help="The fleet.")],
    version: Annotated[str, typer.Option("--release", help="Image version. Default: the newest it may take.")] = "",
    slots: Annotated[list[str] | None, typer.Option("--slot", help="Only this slot; may be repeated.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace those slots even if they are up to date.")] = False,
    include: Include = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Dry run: look at the fleet now and show what a rollout would do to each slot, and why. Touches nothing."""
    from phoenix_fleet.rollout.deps import deps_for
    from phoenix_fleet.rollout.pacing import verdict_of_plan
    from phoenix_fleet.rollout.planning import draw_plan
    from phoenix_fleet.rollout.waits import waits_of_plan

    project = _project(include)
    wanted = project.fleet(fleet)
    connections = SettingsFile(settings or project.include.parent / "airflow_settings.yaml")
    with _catalog() as catalog, tempfile.TemporaryDirectory(prefix="phoenix-plan-") as folder:
        image = _image_for(catalog, wanted, version)
        deps = deps_for(project, wanted, catalog, connections, log=lambda line: None, workdir=Path(folder))
        drawn = draw_plan(deps, wanted, image, only=tuple(slots or ()), force=force)
        now = deps.clock.now()
        data = cli_show.plan_data(fleet, image, drawn, waits_of_plan(catalog, wanted, drawn, now))
        verdict = verdict_of_plan(catalog, wanted, drawn, Window.of(now), now) if drawn.slots else None
        data["verdict"] = cli_pace.verdict_data(verdict) if verdict else None
    if as_json:
        _print_json(data)
        return
    cli_show.console().print(cli_show.plan_table(data))
    for line in verdict.lines() if verdict else ():
        cli_show.console().print(cli_show.clean(line), markup=False)
    if slots:
        conf = {"slots": slots, "force": force, "release": str(image.version), "reason": "why, in your words"}
        typer.echo(cli_show.trigger_command(fleet, conf))


@app.command()
def halt(fleet: str, reason: Reason, actor: Actor) -> None:
    """Stop a fleet's rollout before its next step; nothing goes on until a person resumes it."""
    _act("halt", fleet, actor, reason)


@app.command()
def pause(fleet: str, reason: Reason, actor: Actor) -> None:
    """Begin no further replacement in a fleet; what has begun is finished. Nothing begins until a person resumes it."""
    _act("pause", fleet, actor, reason)


@app.command()
def resume(fleet: str, reason: Reason, actor: Actor) -> None:
    """Lift the halt or the pause of a fleet's rollout; what had failed may be tried again."""
    rollout = _act("resume", fleet, actor, reason)
    typer.echo(f"Now clear the failed tasks of run {cli_show.clean(rollout.run)} of the DAG fleet.{fleet}.")


@app.command()
def cancel(fleet: str, reason: Reason, actor: Actor) -> None:
    """End a fleet's rollout as it stands, for good. Machines that were replaced already stay as they are."""
    _act("cancel", fleet, actor, reason)


@app.command()
def rollback(
    fleet: str,
    reason: Reason,
    actor: Actor,
    to: Annotated[str, typer.Option("--to", help="Version to go back to. Default: what ran before.")] = "",
) -> None:
    """Halt a fleet's last rollout, keep its release from the fleet, and say how to start the run that goes back."""
    who = _who(actor, reason)
    with _catalog() as catalog:
        found = catalog.lifecycle.roll_back(fleet, to=Version.parse(to) if to else None, **who)
    reached = f"{len(found.slots)} slots that it reached are to run {found.version}"
    typer.echo(f"{found.family} {found.undone} is blocked for {fleet}; {reached}.")
    conf = {"rollback_of": found.undoes, "release": str(found.version), "reason": who["reason"]}
    typer.echo(cli_show.trigger_command(fleet, conf))


@app.command()
def unblock(
    fleet: str,
    version: Annotated[str, typer.Argument(help="The release that a rollback has blocked.")],
    reason: Reason,
    actor: Actor,
    include: Include = None,
) -> None:
    """Let a fleet have a release again that it was rolled back from."""
    family, who = _project(include).fleet(fleet).family, _who(actor, reason)
    with _catalog() as catalog:
        block = catalog.blocks.lift(fleet, family, Version.parse(version), **who)
    typer.echo(f"{family} {block.version} is no longer blocked for {fleet}; the next run may bring it.")


@app.command()
def report(
    rollout: Annotated[int, typer.Argument(help="The rollout's number, as `phoenix status` shows it.")],
    folder: Annotated[Path | None, typer.Option("--folder", help="Default: PHOENIX_REPORTS.")] = None,
) -> None:
    """Write a rollout's report (HTML, Markdown, JSON) and print its path."""
    from phoenix_fleet.evidence import report as reports

    with _catalog() as catalog:
        typer.echo(reports.write(catalog, rollout, folder=folder))


@release.command()
def revoke(family: str, version: str, reason: Reason, actor: Actor, include: Include = None) -> None:
    """Take a release back: its rollouts halt at once. Says how to start the runs that get away from it."""
    who = _who(actor, reason)
    with _catalog() as catalog:
        image, halted = catalog.lifecycle.revoke(family, Version.parse(version), **who)
    typer.echo(f"{image} is revoked. Halted: {', '.join(halted) or 'nothing'}.")
    project = _project(include)
    for path in project.fleet_files():
        fleet = _readable_fleet(project, path.stem)
        if fleet is None or fleet.family == family:
            typer.echo(cli_show.trigger_command(path.stem, {"emergency": str(image.version), "reason": who["reason"]}))


@release.command("list")
def list_releases(family: str, as_json: AsJson = False) -> None:
    """List a family's images, newest first: version, rung, digests, and why they stand there."""
    with _catalog() as catalog:
        found = cli_show.images(catalog.images.list_images(family))
    if not found and family not in [path.parent.name for path in _project(None).family_files()]:
        raise NotFound(f"There is no image family '{family}': no file and no image has that name.")
    if as_json:
        _print_json(found)
    else:
        cli_show.console().print(cli_show.image_table(family, found))


def _act(verb: str, fleet: str, actor: str, reason: str) -> RolloutRecord:
    who = _who(actor, reason)
    with _catalog() as catalog:
        acts = {each.__name__: each for each in (catalog.rollouts.halt, catalog.rollouts.pause, catalog.rollouts.resume,
                                                 catalog.rollouts.cancel)}  # fmt: skip
        rollout = acts[verb](fleet, **who)
    paused = ", and paused" if rollout.paused_by else ""
    typer.echo(f"Rollout {rollout.id} of {fleet} is {rollout.state}{paused}.")
    return rollout


def _who(actor: str, reason: str) -> dict[str, str]:
    for name, value in (("--actor", actor), ("--reason", reason)):
        if not value.strip():
            raise InvalidConfig(
                f"{name} is empty.", remedy="It is recorded for good: write what others can understand."
            )
    return {"actor": actor.strip(), "reason": reason.strip()}


def _image_for(catalog: Catalog, fleet: Fleet, version: str) -> Image:
    from phoenix_fleet.rollout.planning import good_enough

    if version:
        return catalog.images.get(fleet.family, Version.parse(version))
    for image in catalog.images.list_images(fleet.family):
        if good_enough(image, fleet) and catalog.blocks.find(fleet.name, fleet.family, image.version) is None:
            return image
    raise NotFound(f"{fleet.family} has no {fleet.requires} image.", remedy=f"Run the DAG image.{fleet.family} first.")


def _project(include: Path | None) -> Project:
    return Project(include) if include else Project.find()


def _readable_fleet(project: Project, name: str) -> Fleet | None:
    """The fleet's file, or None: a wrong file must not hide how the fleet stands."""
    try:
        return project.fleet(name)
    except InvalidConfig:
        return None


@contextmanager
def _catalog() -> Iterator[Catalog]:
    from phoenix_fleet.catalog import Catalog

    with Catalog.from_environment() as catalog:
        yield catalog


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    app(prog_name="phoenix")
