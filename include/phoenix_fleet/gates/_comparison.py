"""One measure of new against old: the limit, the samples that are needed, and the test. No I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from phoenix_fleet.config import Frozen
from phoenix_fleet.domain.statistics import failures_p_value, greater_p_value
from phoenix_fleet.gates import _promql

FEWEST = 8
"""Below this many samples a side the test's normal approximation is not to be trusted."""


class Query(Frozen):
    """One measure: what to ask Prometheus, and what would be bad."""

    name: str = Field(min_length=1, max_length=60, description="What people call it: failed requests, latency.")
    kind: Literal["failures", "samples"] = Field(
        description="failures: counts of failed and of all requests over the watch, by Fisher's exact test; samples:"
        " a value per step, by the Mann-Whitney U test. Both one-sided."
    )
    query: str = Field(
        description="PromQL with {instances} or {instance} in place of a quoted label value, and {window} for the"
        " length of the watch: failed requests, or the value to sample."
    )
    total: str = Field("", description="PromQL of all requests, failed ones too; for failures, and only there.")
    worse: Literal["higher", "lower"] = Field(
        "higher", description="Which direction is bad. Failures: always higher. Default: higher."
    )
    tolerance: float = Field(
        0,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="How much worse is still no matter, as a share of the old ones' value (samples) or odds (failures):"
        " 0.1 is a tenth. Default 0.",
    )
    minimum_samples: int = Field(
        20, ge=FEWEST, description="Samples, or requests, that new and old need each; fewer: inconclusive. Default 20."
    )
    limit: float | None = Field(
        None,
        allow_inf_nan=False,
        description="Beyond this the new instance fails whatever the old ones do: the median of its samples, or the"
        " share of failed requests (0.01). Default: none.",
    )

    @field_validator("query")
    @classmethod
    def _fillable(cls, value: str) -> str:
        return _promql.check(value)

    @model_validator(mode="after")
    def _whole(self) -> Query:
        if (self.kind == "failures") != bool(self.total):
            raise ValueError("total belongs to kind: failures, which needs it, and to nothing else")
        if self.total:
            _promql.check(self.total)
            if self.worse != "higher":
                raise ValueError("of failures more are always worse: leave out worse")
        return self


@dataclass(frozen=True)
class Finding:
    """What one measure says: ``passed`` is None for inconclusive."""

    passed: bool | None
    told: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rules:
    """What holds for every measure of a gate."""

    alpha: float
    """How likely a good instance may fail by chance in this measure."""
    alone: Literal["limits", "inconclusive"]
    """What to make of it when no old instance serves."""


def compare_failures(
    query: Query, rules: Rules, new: tuple[float, float] | None, old: Sequence[tuple[float, float]] | None
) -> Finding:
    """The finding on (failed, all) of the new instance and of each old one; None for no series, and for nobody old."""
    if new is None:
        return Finding(None, "no series of the new instance")
    if not all(math.isfinite(each) for pair in (new, *(old or ())) for each in pair):
        return Finding(None, "a count is not a number")
    ours = _counts([new])
    theirs = None if old is None else _counts(old)
    details = {"new": ours, "old": theirs}
    if not _possible(ours) or not _possible(theirs or (0, 0)):
        return Finding(None, "more failed requests than requests: the two queries do not belong together", details)
    share = ours[0] / ours[1] if ours[1] else 0.0
    told = f"{ours[0]} of {ours[1]} failed ({share:.2%})"
    if early := _without_test(query, rules, share, ours[1], None if theirs is None else theirs[1]):
        return Finding(early.passed, f"{told}: {early.told}", details)
    against = theirs or (0, 0)
    p_value = failures_p_value(ours, against, query.tolerance)
    return _tested(rules, p_value, f"{told}, old {against[0]} of {against[1]} ({against[0] / against[1]:.2%})", details)


def compare_samples(query: Query, rules: Rules, new: Sequence[float], old: Sequence[float] | None) -> Finding:
    """The finding on the samples of the new instance and of all the old ones; None for nobody old."""
    if any(map(math.isinf, (*new, *(old or ())))):
        return Finding(None, "a sample is infinite")
    ours = [value for value in new if not math.isnan(value)]
    theirs = None if old is None else [value for value in old if not math.isnan(value)]
    details: dict[str, Any] = {
        "new": {"samples": len(ours), "nan": len(new) - len(ours), "median": median(ours) if ours else None},
        "old": theirs and {"samples": len(theirs), "nan": len(old or ()) - len(theirs), "median": median(theirs)},
    }
    if not ours:
        return Finding(None, "no samples of the new instance", details)
    middle = median(ours)
    told = f"median {middle:.4g} of {len(ours)}"
    if early := _without_test(query, rules, middle, len(ours), None if theirs is None else len(theirs)):
        return Finding(early.passed, f"{told}: {early.told}", details)
    against = theirs or []
    sign = 1 if query.worse == "higher" else -1
    tolerated = [sign * value + query.tolerance * abs(value) for value in against]
    p_value = greater_p_value([sign * value for value in ours], tolerated)
    return _tested(rules, p_value, f"{told}, old {median(against):.4g} of {len(against)}", details)


def _without_test(query: Query, rules: Rules, value: float, count: int, count_old: int | None) -> Finding | None:
    """What is known without comparing; None if comparing is what remains."""
    if count < query.minimum_samples:
        return Finding(None, f"{count} samples of the new instance, and {query.minimum_samples} are needed")
    if query.limit is not None and (value > query.limit if query.worse == "higher" else value < query.limit):
        return Finding(False, f"beyond the limit {query.limit:g}")
    if count_old is None:
        if query.limit is None or rules.alone == "inconclusive":
            return Finding(None, "no old instance serves to compare with")
        return Finding(True, f"within the limit {query.limit:g}; no old instance serves to compare with")
    if count_old < query.minimum_samples:
        return Finding(None, f"{count_old} samples of the old instances, and {query.minimum_samples} are needed")
    return None


def _tested(rules: Rules, p_value: float, told: str, details: dict[str, Any]) -> Finding:
    worse = p_value < rules.alpha
    outcome = "worse" if worse else "not shown to be worse"
    return Finding(
        not worse,
        f"{told}: {outcome} (p = {p_value:.2g}, level {rules.alpha:.2g})",
        {**details, "p_value": p_value, "level": rules.alpha},
    )


def _counts(pairs: Sequence[tuple[float, float]]) -> tuple[int, int]:
    """Whole counts: ``increase()`` extrapolates to the ends of its range, so it gives fractions."""
    return round(math.fsum(failed for failed, _ in pairs)), round(math.fsum(total for _, total in pairs))


def _possible(counts: tuple[int, int]) -> bool:
    return 0 <= counts[0] <= counts[1]
