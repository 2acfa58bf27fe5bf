"""The fleet's own gates on a new instance: measured, recorded and judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from phoenix_fleet.domain.errors import TransientError
from phoenix_fleet.domain.models import Instance, Subject
from phoenix_fleet.domain.verdicts import Measurement, Verdict, judge
from phoenix_fleet.rollout.deps import NamedGate
from phoenix_fleet.rollout.progress import Failing
from phoenix_fleet.rollout.replacement import Replacement

STAGE = "rollout"
"""The stage under which a rollout's measurements are recorded."""


def measure_all(
    work: Replacement, gates: Sequence[NamedGate], instance: Instance, watch: Mapping[str, Any] | None = None
) -> str:
    """One line on what passed, after every gate was measured and recorded.

    :param watch: what gates need to know of the watch that is over
    :raises Failing: one or more did not pass: failed, could not be measured, or need a person's decision.
    """
    if not gates:
        return "no gates are declared"
    told, bad = [], []
    for named in gates:
        measurement = _measure(work, named, instance, watch or {})
        _record(work, named, instance, measurement)
        verdict = judge(measurement)
        line = f"{named.name}: {verdict}: {measurement.error or measurement.value}"
        work.say(line)
        told.append(f"{named.name}: {measurement.value}")
        if verdict is not Verdict.PASSED:
            bad.append(line)
    if bad:
        raise Failing("; ".join(bad))
    return "; ".join(told)


def look_early(work: Replacement, gates: Sequence[NamedGate], instance: Instance, watch: Mapping[str, Any]) -> None:
    """Return if nothing is known to be bad before the watch is over; what else was seen then decides nothing.

    :raises Failing: a gate that watches has failed, which is recorded.
    """
    for named in gates:
        measurement = _measure(work, named, instance, watch)
        line = f"{named.name}: {judge(measurement)}: {measurement.error or measurement.value}"
        if judge(measurement) is Verdict.FAILED:
            _record(work, named, instance, measurement)
            raise Failing(line)
        if measurement.error:
            work.say(line)


def find_bad(work: Replacement, gates: Sequence[NamedGate], instance: Instance) -> str:
    """The first gate that does not pass on that instance now, in words; empty, with all recorded, if every one does."""
    found = []
    for named in gates:
        measurement = _measure(work, named, instance, {})
        if judge(measurement) is not Verdict.PASSED:
            return f"{named.name} on {instance.name}: {judge(measurement)}: {measurement.error or measurement.value}"
        found.append((named, measurement))
    for named, measurement in found:
        _record(work, named, instance, measurement)
    return ""


def _measure(work: Replacement, named: NamedGate, instance: Instance, watch: Mapping[str, Any]) -> Measurement:
    try:
        return named.gate.measure(subject_of(work, instance, watch))
    except TransientError:
        raise
    except Exception as error:  # a gate's bug is "could not be measured", and no reason to lose the instance's record
        return Measurement("not measured", None, error=f"{type(error).__name__}: {error}")


def _record(work: Replacement, named: NamedGate, instance: Instance, found: Measurement) -> None:
    image = work.image
    work.deps.catalog.measurements.record(image.family, image.version, STAGE, named.name, instance.name, found)


def subject_of(work: Replacement, instance: Instance, watch: Mapping[str, Any] = MappingProxyType({})) -> Subject:
    """The new instance as gates see it."""
    environment = work.deps.environment
    folder = work.deps.workdir / instance.name / str(work.step)
    folder.mkdir(parents=True, exist_ok=True)
    return Subject(
        name=instance.name,
        workdir=str(folder),
        artefact=work.artefact,
        instance=instance,
        hostspec=work.deps.platform.hostspec(instance),
        facts={
            "stage": STAGE,
            "family": work.image.family,
            "version": str(work.image.version),
            "digest": work.artefact.digest,
            "fleet": work.fleet.name,
            "slot": work.name,
            "size": work.shape.size,
            "rollout": work.rollout.id,
            "environment": environment.name,
            "values": dict(environment.variables),
            "components": {part.name: part.version for part in environment.components},
            "dataset": environment.variables.get("dataset", ""),
            **watch,
        },
    )
