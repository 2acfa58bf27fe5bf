"""The build stage: decide whether there is anything to build, open a candidate, and run Packer per platform."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import task

from phoenix_fleet.airflow import world
from phoenix_fleet.domain.errors import BuildFailed, NotFound
from phoenix_fleet.domain.windows import Version

if TYPE_CHECKING:
    from phoenix_fleet.catalog.records import Settled

Candidate = dict[str, str]
"""What travels between tasks: ``{"family": …, "version": …}``. Everything else is asked of the catalog."""


@task.branch
def decide(family: str, build_task: str, settle_task: str, **context: Any) -> str:
    """Whether to build for this window: the id of the task to go on with; the reason is in the log."""
    reason = reason_to_build(family, context)
    world.log.info("%s: %s", family, reason or "nothing to build")
    context["ti"].xcom_push(key="reason", value=reason or "")
    return build_task if reason else settle_task


def reason_to_build(family_name: str, context: Any) -> str:
    """Why an image must be built for the run's window; empty if a release covers it or nothing has changed."""
    family, window = world.project().family(family_name), world.window_of(context)
    catalog = world.catalog()
    try:
        last = catalog.images.newest_released(family_name)
        in_flight = catalog.images.in_flight(family_name)
    finally:
        catalog.close()
    if in_flight is not None and in_flight.run == world.run_key(context):
        return f"this run's candidate {in_flight.version} is under way"
    if (context.get("params") or {}).get("force"):
        return f"forced: {world.reason_of(context)}"
    if last is None:
        return "the family has no release yet"
    if last.window > window:
        return ""
    from phoenix_fleet import packer

    if packer.inputs_fingerprint(family) != last.inputs:
        return f"the family's files have changed since {last.version}"
    upgrades = _pending_upgrades(family, last, context)
    if upgrades:
        return f"{len(upgrades)} packages have newer versions than in {last.version}: {', '.join(upgrades[:5])}"
    return ""


def _pending_upgrades(family: Any, last: Any, context: Any) -> list[str]:
    from phoenix_fleet import freshness
    from phoenix_fleet.airflow.instances import throwaway

    with throwaway(family, last, family.platforms[0], slot="freshness", context=context) as running:
        return freshness.pending_upgrades(running.hostspec)


@task
def settle(family: str, **context: Any) -> str:
    """Record that the window needs no image of its own, and why; returns the version that serves it."""
    window = world.window_of(context)
    catalog = world.catalog()
    try:
        last = catalog.images.newest_released(family)
        if last is None:
            raise NotFound(f"{family} has no release that could serve window {window}.")
        how: Settled = "covered" if last.window > window else "unchanged"
        reason = (
            f"the newer release {last.version} covers it"
            if how == "covered"
            else f"neither the family's files nor any package has changed since {last.version}"
        )
        catalog.images.settle_window(family, window, last.version, how, actor=world.actor_of(context), reason=reason)
    finally:
        catalog.close()
    world.log.info("Window %s of %s: %s.", window, family, reason)
    return str(last.version)


@task
def open_candidate(family: str, **context: Any) -> Candidate:
    """A new candidate for the run's window, with the next build number; the same one when asked again."""
    from phoenix_fleet import packer

    reason = world.reason_of(context)
    declared = world.project().family(family)
    catalog = world.catalog()
    try:
        image = catalog.images.open_candidate(
            family,
            world.window_of(context),
            packer.inputs_fingerprint(declared),
            actor=world.actor_of(context),
            run=world.run_key(context),
        )
    finally:
        catalog.close()
    world.log.info("Candidate %s: %s", image, reason)
    if declared.left_out:
        world.log.warning(
            "Built for %s; PHOENIX_TARGETS leaves out %s.", ", ".join(declared.platforms), ", ".join(declared.left_out)
        )
    return {"family": family, "version": str(image.version)}


@task(map_index_template=world.LABEL)
def run_packer(platform: str, candidate: Candidate, **context: Any) -> dict[str, str]:
    """Build one platform's artefact and record it; returns its reference and digest."""
    from phoenix_fleet import drivers, packer

    world.mark(label=platform)
    family, version = world.project().family(candidate["family"]), Version.parse(candidate["version"])
    target = family.target(platform)
    made = packer.build(family, target, version, world.connections, workdir=world.workdir(context), log=world.log.info)
    driver_class = drivers.load("platforms", platform)
    driver = driver_class(driver_class.Settings.model_validate(target.platform.settings), world.connections)
    listed = [artefact for artefact, marks in driver.list_images(family.name) if marks.get("version") == str(version)]
    # A build that was repeated may have left an earlier one of the same version: what counts is what was made now.
    found = [artefact for artefact in listed if not made or artefact.reference == made]
    if not found:
        raise BuildFailed(
            f"Packer ended well, but {platform} shows no artefact of {family.name} {version}.",
            remedy="See docs/runbooks/build-failed.md: look at the template's post-processors.",
        )
    catalog = world.catalog()
    try:
        catalog.images.add_artefact(family.name, version, found[0])
    finally:
        catalog.close()
    world.log.info("%s %s on %s: %s", family.name, version, platform, found[0].reference)
    return {"platform": platform, "reference": found[0].reference, "digest": found[0].digest}
