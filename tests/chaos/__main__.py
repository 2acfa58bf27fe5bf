"""``python -m tests.chaos`` strikes real processes while a fleet is refreshed under traffic, and judges the outcome."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lab.places import REPOSITORY
from phoenix_fleet.airflow.process import LEASE
from tests.chaos.blows import draw
from tests.chaos.campaign import Campaign
from tests.chaos.judging import RECOVERY_LIMIT
from tests.chaos.report import render, versions
from tests.chaos.world import standing

REPORT = REPOSITORY / "docs" / "reports" / "chaos.md"
console = Console(stderr=True, soft_wrap=True)


def main(
    blows: Annotated[int, typer.Option(min=1, help="How many blows.")] = 170,
    seed: Annotated[int, typer.Option(help="What they are drawn from.")] = 1,
    minutes: Annotated[float, typer.Option(min=0, help="Begin no rollout after so many minutes. Default: any.")] = 0,
    limit: Annotated[float, typer.Option(min=1, help="Seconds that the fleet may stand still.")] = RECOVERY_LIMIT,
    report: Annotated[bool, typer.Option("--report", help=f"Write {REPORT.relative_to(REPOSITORY)}.")] = False,
    result: Annotated[Path | None, typer.Option(help="Write what came of it here, as JSON.")] = None,
) -> None:
    """Deal that many blows; the exit status is 0 if every promise held."""
    began = time.monotonic()

    def log(line: str) -> None:
        console.print(f"{time.monotonic() - began:6.0f} s  {line}", markup=False, highlight=False)

    parts = versions()
    with standing(log) as lab:
        outcome = Campaign(lab, seed, draw(seed, blows, lease=LEASE.total_seconds()), minutes, limit).play()
    page = render(outcome, parts)
    if report:
        REPORT.write_text(page, encoding="utf-8")
    if result:
        result.write_text(json.dumps({"page": page, "broken": outcome.broken}), encoding="utf-8")
    print(page)
    sys.exit(1 if outcome.broken else 0)


if __name__ == "__main__":
    typer.run(main)
