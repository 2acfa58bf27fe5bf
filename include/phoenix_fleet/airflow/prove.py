"""The test, certify and stage tasks: they launch, measure and record; ``judge`` says what it means."""

from __future__ import annotations

import time
from typing import Any

from airflow.sdk import task

from phoenix_fleet.airflow import world
from phoenix_fleet.airflow.build import Candidate
from phoenix_fleet.airflow.instances import launch, retire, running, subject
from phoenix_fleet.domain.errors import PhoenixError, StepFailed
from phoenix_fleet.domain.ladder import Rung, has_reached
from phoenix_fleet.domain.models import Image, Subject
from phoenix_fleet.domain.verdicts import Measurement, Verdict, judge, worst
from phoenix_fleet.domain.windows import Version


@task(map_index_template=world.LABEL)
def launch_instance(stage: str, platform: str, candidate: Candidate, component: str = "", **context: Any) -> str:
    """Launch a throw-away instance of the candidate and wait until it is ready; returns its id."""
    slot = _slot(stage, platform, component)
    world.mark(label=component or platform)
    family, image = _load(candidate)
    return launch(family, image, platform, slot=slot, context=context).instance.id


@task(map_index_template=world.LABEL)
def retire_instance(stage: str, platform: str, candidate: Candidate, component: str = "", **context: Any) -> None:
    """Terminate the throw-away instance of that slot, and return once it is gone for certain."""
    world.mark(label=component or platform)
    family, image = _load(candidate)
    retire(family, image, platform, slot=_slot(stage, platform, component), context=context)


@task(map_index_template=world.LABEL)
def measure_image(platform: str, gate: int, candidate: Candidate, **context: Any) -> str:
    """Measure the artefact and its fresh instance with one of the family's gates; returns the verdict."""
    family, image = _load(candidate)
    declared = family.test[gate]
    world.mark(label=f"{platform}: {declared.name}")
    here = running(family, image, platform, slot=_slot("test", platform), context=context)
    what = subject(image, f"{image} on {platform}", context, platform=platform, running=here, facts={"stage": "test"})
    return _measure(image, "test", declared, family, what)


@task(map_index_template=world.LABEL)
def measure_reboot(platform: str, candidate: Candidate, **context: Any) -> str:
    """Reboot the fresh instance: it must come back the same (host keys) and pass the checks again."""
    from phoenix_fleet.airflow.instances import reboot

    family, image = _load(candidate)
    world.mark(label=platform)
    here = running(family, image, platform, slot=_slot("test", platform), context=context)
    name = f"{image} on {platform}"
    try:
        back = reboot(family, image, platform, here, context=context)
    except PhoenixError as error:
        return _record(image, "test", "reboot", name, Measurement("it did not come back", False, {"why": str(error)}))
    same = back.instance.host_keys == here.instance.host_keys
    _record(
        image,
        "test",
        "reboot",
        name,
        Measurement("came back with the same host keys" if same else "came back with other host keys", same),
    )
    again = [declared for declared in family.test if declared.name == "testinfra"]
    what = subject(image, f"{name} after reboot", context, running=back, facts={"stage": "test"})
    return str(worst([Verdict[_measure(image, "test", declared, family, what).upper()] for declared in again]))


@task(map_index_template=world.LABEL)
def configure_component(platform: str, component: str, candidate: Candidate, **context: Any) -> None:
    """Apply the component's role to its fresh instance."""
    from phoenix_fleet.airflow.instances import configure

    world.mark(label=component)
    family, image = _load(candidate)
    here = running(family, image, platform, slot=_slot("certify", platform, component), context=context)
    configure(family, image, here, component)


@task(map_index_template=world.LABEL)
def certify_component(platform: str, component: str, candidate: Candidate, **context: Any) -> str:
    """Run the component's own unit tests inside its instance and write the certificate; returns the verdict."""
    world.mark(label=component)
    family, image = _load(candidate)
    part = family.component(component)
    here = running(family, image, platform, slot=_slot("certify", platform, component), context=context)
    what = subject(
        image, f"{component} {part.version} on {image}", context, platform=platform, running=here, component=part
    )
    measurement = _ask(family.certify, family, what)
    verdict = _record(image, "certify", "unit tests", what.name, measurement)
    catalog = world.catalog()
    try:
        catalog.images.get(image.family, image.version)
        catalog.measurements.certify(
            image.family,
            image.version,
            platform,
            image.artefacts[platform].digest,
            component,
            part.version,
            Verdict[verdict.upper()],
            measurement.artefacts,
        )
    finally:
        catalog.close()
    return verdict


@task(map_index_template=world.LABEL)
def measure_staging(gate: int, candidate: Candidate, **context: Any) -> str:
    """Run one of the stage's suites from outside against the staging fleet's front; returns the verdict."""
    family, image = _load(candidate)
    declared = family.stage.gates[gate]
    label = str(declared.settings.get("label") or declared.name)
    world.mark(label=label)
    front = world.connections(family.stage.endpoint)
    fleet = world.project().fleet(family.stage.fleet)
    environment = family.environment(fleet.environment)
    what = subject(
        image,
        f"{image} in {fleet.name}: {label}",
        context,
        endpoint=f"{front.extra.get('scheme', 'http')}://{front.host}:{front.port}",
        facts={
            "stage": "stage",
            "environment": fleet.environment,
            "values": dict(environment.variables),
            "components": {part.name: part.version for part in environment.components},
            "dataset": family.stage.dataset,
            "fleet": fleet.name,
            "size": fleet.size,
        },
    )
    return _measure(image, "stage", declared, family, what)


@task(retries=0)
def judge_stage(stage: str, candidate: Candidate, expected: int, **context: Any) -> str:
    """The stage's verdict on the candidate, which climbs a rung unless something failed or was not measured.

    :raises StepFailed: naming each measurement that failed, or that is missing.
    """
    rung = {"test": Rung.TESTED, "certify": Rung.CERTIFIED, "stage": Rung.STAGED}[stage]
    _, image = _load(candidate)
    world.mark(machine="", step=stage)
    catalog = world.catalog()
    try:
        measured = catalog.measurements.latest(image.family, image.version, stage)
        verdict = worst(record.verdict for record in measured)
        bad = [record for record in measured if record.verdict in (Verdict.FAILED, Verdict.ERROR)]
        for record in measured:
            world.log.info("%s: %s: %s: %s", record.verdict, record.gate, record.subject, record.measurement.value)
        if bad or len(measured) < expected:
            told = "; ".join(f"{r.gate} of {r.subject}: {r.measurement.error or r.measurement.value}" for r in bad)
            raise StepFailed(
                f"{image} did not pass {stage}: {told or f'{len(measured)} of {expected} measurements are there'}.",
                remedy=f"docs/runbooks/{stage}-failed.md",
            )
        if not has_reached(image.rung, rung):
            catalog.images.move(
                image.family, image.version, rung, actor=world.actor_of(context), reason=f"{stage}: {verdict}"
            )
    finally:
        catalog.close()
    return str(verdict)


def _load(candidate: Candidate) -> tuple[Any, Image]:
    family = world.project().family(candidate["family"])
    catalog = world.catalog()
    try:
        return family, catalog.images.get(family.name, Version.parse(candidate["version"]))
    finally:
        catalog.close()


def _slot(stage: str, platform: str, component: str = "") -> str:
    return "-".join(part for part in (stage, platform, component) if part)


def _ask(declared: Any, family: Any, what: Subject) -> Measurement:
    """One measurement; what could not be measured for a reason that we know is an error, never a pass."""
    from phoenix_fleet import drivers
    from phoenix_fleet.rollout import deps, looking_into

    def platform() -> Any:
        name = what.artefact.platform if what.artefact else ""
        return deps.load("platforms", family.target(name).platform, world.connections)

    driver = drivers.load("gates", declared.name)
    gate = driver(driver.Settings.model_validate(declared.settings), world.connections, family.home)
    started = time.monotonic()
    try:
        found = looking_into.measured(gate, what, platform)
    except PhoenixError as error:
        found = Measurement("not measured", None, error=str(error))
    world.log.info("%s: %s (%.1f s) %s", declared.name, found.value, time.monotonic() - started, found.error)
    return found


def _measure(image: Image, stage: str, declared: Any, family: Any, what: Subject) -> str:
    label = str(declared.settings.get("label") or declared.name)
    return _record(image, stage, label, what.name, _ask(declared, family, what))


def _record(image: Image, stage: str, gate: str, name: str, measurement: Measurement) -> str:
    catalog = world.catalog()
    try:
        catalog.measurements.record(image.family, image.version, stage, gate, name, measurement)
    finally:
        catalog.close()
    return str(judge(measurement))
