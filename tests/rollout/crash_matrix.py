"""Plays all single crashes and all pairs of crashes, and writes down what that came to.

    scripts/crash-matrix [--minutes N] [--report FILE]

One generation after another, so that what was played within the minutes is said exactly.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.rollout.scene import Scene
from tests.rollout.worlds import DATA, NO_SURGE, QUICK, SURGE, Counts, Exploration

REPORT = Path(__file__).resolve().parents[2] / "docs" / "reports" / "crash-matrix.md"


@dataclass(frozen=True)
class Matrix:
    """One fleet, and how many holders die one after another."""

    size: int
    budget: str
    crashes: int
    lost: bool = False

    @property
    def name(self) -> str:
        died = {1: "every crash", 2: "all pairs of crashes"}[self.crashes]
        machines = "machine" if self.size == 1 else "machines"
        return f"{self.size} {machines}, {self.budget}: {died}" + (", lost replies" if self.lost else "")


MATRICES = (
    Matrix(1, "surge", 1),
    Matrix(3, "surge", 1),
    Matrix(3, "no surge", 1),
    Matrix(5, "surge", 1),
    Matrix(5, "no surge", 1),
    Matrix(1, "surge", 2),
    Matrix(3, "surge", 2),
    Matrix(3, "no surge", 2),
    Matrix(1, "surge", 1, lost=True),
    Matrix(3, "surge", 1, lost=True),
    Matrix(3, "no surge", 1, lost=True),
    Matrix(2, "data", 1),
    Matrix(3, "data", 1),
)


def play(matrix: Matrix, folder: Path, console: Console, give_up: float) -> tuple[Counts, str]:
    """What it came to, and what went wrong; empty if nothing did."""
    budget: dict[str, Any] = {"surge": {**QUICK, **SURGE}, "no surge": {**QUICK, **NO_SURGE}, "data": DATA}[
        matrix.budget
    ]
    scene = Scene(folder, size=matrix.size, **budget).prepare()
    scene.strict = True
    exploration = Exploration(scene, matrix.crashes, give_up=give_up)
    try:
        exploration.explore(
            scene.open(), lost=matrix.lost, told=lambda line: console.print(f"{matrix.name}: {line}", highlight=False)
        )
    except AssertionError as error:
        return exploration.counts, str(error)
    finally:
        scene.catalog.close()
    return exploration.counts, ""


def current_commit() -> str:
    """What is checked out, asked before anything is played."""
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"


def report(commit: str, rows: list[tuple[Matrix, Counts, str, float]]) -> str:
    """The page."""
    lines = [
        "# Crash matrix",
        "",
        f"Commit {commit}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}. Nothing in it is drawn at random. Written by `scripts/crash-matrix`.",
        "",
        "A point is a moment before or after a call to the platform or the balancer, or before or after a commit. "
        "Points that leave the same world behind have the same sequel, which is played once, by another holder, under "
        "all the checks. Numbers separated by / are those after no, one and two crashes.",
        "",
        "| Fleet | Points | Distinct worlds | Played | Slowest recovery (virtual) | Violations | Took |",
        "|---|---|---|---|---|---|---|",
    ]
    for matrix, counts, wrong, seconds in rows:
        points, worlds, played = (" / ".join(map(str, each)) for each in (counts.points, counts.worlds, counts.played))
        cells = (matrix.name, points, worlds, played, str(counts.slowest), "1" if wrong else "0", f"{seconds:.0f} s")
        lines.append(f"| {' | '.join(cells)} |")
    short = [matrix.name for matrix, counts, _, _ in rows if counts.played != counts.worlds]
    lines += ["", f"Not played whole, for lack of time: {'; '.join(short)}." if short else "All were played whole."]
    for matrix, _, wrong, _ in rows:
        if wrong:
            lines += ["", f"## {matrix.name}", "", "```", wrong, "```"]
    return "\n".join(lines) + "\n"


def main() -> int:
    """0 if everything that was played held."""
    parser = argparse.ArgumentParser(description="Play every crash, and every pair of crashes.")
    parser.add_argument("--minutes", type=float, default=0, help="stop after about so many minutes; default: when done")
    parser.add_argument("--report", type=Path, default=REPORT, help="where to write the page")
    asked = parser.parse_args()
    console = Console(stderr=True)
    give_up = time.monotonic() + asked.minutes * 60 if asked.minutes else float("inf")
    memory = Path("/dev/shm")  # noqa: S108
    folder = Path(tempfile.mkdtemp(prefix="phoenix-crashes-", dir=memory if memory.is_dir() else None))
    commit = current_commit()
    rows: list[tuple[Matrix, Counts, str, float]] = []
    try:
        for number, matrix in enumerate(MATRICES):
            began = time.monotonic()
            counts, wrong = play(matrix, folder / str(number), console, give_up)
            rows.append((matrix, counts, wrong, time.monotonic() - began))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    asked.report.parent.mkdir(parents=True, exist_ok=True)
    asked.report.write_text(report(commit, rows), encoding="utf-8")
    console.print(f"written: {asked.report}", highlight=False)
    return 1 if any(wrong for _, _, wrong, _ in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
