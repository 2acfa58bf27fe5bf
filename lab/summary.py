"""What happened, for people, and as a file that tests read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from lab.failure import Failure
from lab.progress import STAGES, clock

ENOUGH = 10_000
"""Requests from which the figure of failed ones means something."""


@dataclass
class Result:
    """What a demo did."""

    ok: bool = False
    told: str = ""
    """How it ended, in one sentence."""
    release: str = ""
    digest: str = ""
    approved_by: str = ""
    tests: dict[str, int] = field(default_factory=dict)
    """Checks and tests run, by stage."""
    machines: list[dict[str, Any]] = field(default_factory=list)
    """``slot``, ``seconds``, ``old``, ``new``, in the order of their replacement."""
    serving: dict[str, str] = field(default_factory=dict)
    """Version by instance of the fleet ``web``, in the end."""
    traffic: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None
    reports: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each part of the demo took."""

    def write(self, file: Path) -> None:
        """Keep it as JSON."""
        file.write_text(json.dumps(asdict(self), indent=1))


def count_tests(measurements: Sequence[Any]) -> dict[str, int]:
    """Checks and tests by stage, from what gates say that they ran (``details.tests``); a gate without one counts 1."""
    found: dict[str, int] = {}
    for record in sorted(measurements, key=lambda record: (*STAGES, record.stage).index(record.stage)):
        details: Mapping[str, Any] = record.measurement.details
        ran = details.get("tests")
        found[record.stage] = found.get(record.stage, 0) + (int(ran) if isinstance(ran, int) else 1)
    return found


def show(console: Console, result: Result, ui: str) -> None:
    """The last thing on the terminal."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # a cut digest or address helps nobody
    for name, value in _rows(result, ui):
        table.add_row(Text(name, style="dim"), Text(value))
    as_it_should = "The chain stopped as it should" if result.failure else "The chain ended as it should"
    title = as_it_should if result.ok else "Something is not as it should be"
    console.print(Panel(table, title=title, border_style="green" if result.ok else "red", subtitle=result.told))


def _rows(result: Result, ui: str) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    if result.release:
        rows.append(("release", f"{result.release}, {result.digest}"))
    if result.approved_by:
        rows.append(("approved by", result.approved_by))
    if result.tests:
        told = ", ".join(f"{count} in {stage}" for stage, count in result.tests.items())
        rows.append(("tests run", f"{sum(result.tests.values())} ({told})"))
    for machine in result.machines:
        rows.append((f"  {machine['slot']}", f"{machine['state']}, {clock(machine['seconds'] or 0)}"))
    if result.failure:
        rows += _failure_rows(result.failure)
    rows.append(("in service", ", ".join(f"{name}: {release}" for name, release in sorted(result.serving.items()))))
    rows += _traffic_rows(result.traffic)
    rows += [("report", path) for path in result.reports]
    rows.append(("took", ", ".join(f"{name} {clock(seconds)}" for name, seconds in result.seconds.items())))
    if ui:
        rows.append(("Airflow", ui))
    return rows


def _failure_rows(failure: Failure) -> list[tuple[str, str]]:
    return [
        ("stopped at", f"{failure.machine} ({failure.stage})" if failure.machine else failure.stage),
        ("step", failure.step),
        ("reason", failure.reason[:1000]),
        ("runbook", failure.runbook or "none is named"),
        ("look", failure.link),
    ]


def _traffic_rows(traffic: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not traffic:
        return []
    by_release = ", ".join(f"{count} by {release}" for release, count in sorted(traffic["releases"].items()))
    rows = [
        ("requests", f"{traffic['sent']} sent, {traffic['failed']} failed ({by_release})"),
        ("latency", f"p50 {traffic['p50_ms']} ms, p99 {traffic['p99_ms']} ms"),
    ]
    rows += [("  failed", f"{count} times {reason}") for reason, count in traffic["reasons"].items()]
    if traffic["starved_seconds"]:
        told = f"{traffic['starved_seconds']} s, {traffic['late']} requests late, {traffic['missed']} never sent"
        rows.append(("sender starved", told))
    return rows
