"""``python -m tests.simulator SEED`` tells one seed's story; ``--seeds N`` plays a campaign and writes its report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.simulator.campaign import Result, campaign, explain
from tests.simulator.play import play
from tests.simulator.reporting import REPORT, add, commit, leg_of

app = typer.Typer(add_completion=False)
console = Console(stderr=True)


@app.command()
def main(
    seed: Annotated[int | None, typer.Argument(help="Tell the story of this seed.")] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds to play.")] = 200_000,
    first: Annotated[int, typer.Option("--from", help="The first of them.")] = 0,
    processes: Annotated[int, typer.Option(min=1, help="How many at once.")] = 2,
    leg: Annotated[int, typer.Option(min=1, help="So many seeds are played between two reports.")] = 200,
    output: Annotated[Path, typer.Option(help="Where the report goes, and what it is made of.")] = REPORT,
) -> None:
    """Play seeds: one as a story, or many as a campaign."""
    if seed is not None:
        outcome = play(seed)
        typer.echo("\n".join([*outcome.story, f"sha256 {outcome.hash}"]))
        raise typer.Exit(1 if outcome.violation else 0)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("seeds", total=seeds)

        def told(result: Result) -> None:
            progress.advance(task)
            if result.violation:
                progress.console.print(explain(result), markup=False, highlight=False)

        tried, broken = commit(), 0
        for start in range(first, first + seeds, leg):
            tally = campaign(start, min(leg, first + seeds - start), processes, told)
            broken += len(tally.broken)
            add(leg_of(tally, tried), output)
    console.print(f"{seeds} seeds, {broken} violations: {output}", highlight=False)
    raise typer.Exit(1 if broken else 0)


if __name__ == "__main__":
    app()
