"""A gate measures; this judges: ``PASSED < INCONCLUSIVE < ERROR < FAILED``, and the worst wins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any


class Verdict(IntEnum):
    """What measurements mean, ordered from best to worst so that ``max`` is "worst wins"."""

    PASSED = 0
    INCONCLUSIVE = 1
    """Measured, and neither good nor bad: a person decides."""
    ERROR = 2
    """Could not be measured: never passed, and never the image's fault either."""
    FAILED = 3

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Measurement:
    """What one gate saw of one subject. It carries no judgement beyond ``passed``."""

    value: str
    """The result in one line, for people: ``17 checks, 0 failed``."""
    passed: bool | None
    """True or False where the gate's own criterion says so; None where it does not (inconclusive)."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able facts: counts, names of failed checks, versions of scanners."""
    artefacts: tuple[str, ...] = ()
    """Paths of the files kept as proof (JUnit, reports)."""
    error: str = ""
    """Why it could not be measured, when it could not."""


def judge(measurement: Measurement) -> Verdict:
    """The verdict on one measurement; an ``error`` wins over whatever ``passed`` says."""
    if measurement.error:
        return Verdict.ERROR
    if measurement.passed is None:
        return Verdict.INCONCLUSIVE
    return Verdict.PASSED if measurement.passed else Verdict.FAILED


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of several verdicts; of none it is ERROR, because nothing measured is nothing proven."""
    return max(verdicts, default=Verdict.ERROR)
