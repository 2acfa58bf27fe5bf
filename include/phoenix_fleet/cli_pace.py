"""What the command line prints of the pacer: verdicts and forecasts, for people and for programs."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from phoenix_fleet.catalog.records import RolloutRecord
from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.domain.feasibility import Verdict
from phoenix_fleet.rollout.pacing import forecast_of
from phoenix_fleet.rollout.planning import frozen_fleet

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog


def verdict_data(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain data."""
    return {
        "feasible": verdict.feasible,
        "standing": verdict.standing,
        "pace": verdict.pace.concurrency,
        "reason": verdict.pace.reason,
        "finish_p50": moment(verdict.forecast.finish_p50),
        "finish_p95": moment(verdict.forecast.finish_p95),
        "shortage": verdict.shortage or None,
        "cures": [str(cure) for cure in verdict.cures],
    }


def forecast_data(catalog: Catalog, rollout: RolloutRecord | None, now: datetime) -> dict[str, Any] | None:
    """How a rollout will end as things stand; None if none is under way, or if nobody paces it."""
    if rollout is None:
        return None
    try:
        return forecast_of(catalog, rollout, frozen_fleet(rollout), now)
    except InvalidConfig:  # how it stands must be shown all the same
        return None


def forecast_row(told: dict[str, Any]) -> tuple[str, str]:
    """A forecast for people: a name and a sentence."""
    ends = [text(told[key]) for key in ("finish_p50", "finish_p95")]
    deadline = f"; deadline {text(told['deadline'])}" if told["deadline"] else ""
    pace = f"; {told['pace']} at once: {told['reason']}"
    return "forecast", f"{told['standing']}: done about {ends[0]}, in 95 of 100 cases by {ends[1]}{deadline}{pace}"


def text(kept: str | None) -> str:
    """A moment as it was kept, for people."""
    return f"{datetime.fromisoformat(kept):%Y-%m-%d %H:%M} UTC" if kept else "never"


def moment(when: datetime | None) -> str | None:
    """A moment as it is kept."""
    return when.isoformat() if when else None
