"""Many seeds in several processes: what was counted, what was violated, and the report about it."""

from __future__ import annotations

import multiprocessing
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.simulator.play import play
from tests.simulator.scenario import BAD_IMAGE

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "docs" / "reports" / "simulator.md"
CHUNK = 4
"""So many seeds are handed to a process at a time."""


@dataclass(frozen=True)
class Result:
    """One seed, as little of it as has to travel between processes."""

    seed: int
    size: int
    troubles: tuple[str, ...]
    violation: str
    hash: str
    tail: tuple[str, ...]
    """The story's last lines, if a law was broken."""
    counts: dict[str, int]


@dataclass
class Tally:
    """A campaign in numbers."""

    seeds: int = 0
    first: int = 0
    seconds: float = 0.0
    machines: int = 0
    rollouts: int = 0
    by_trouble: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    broken: list[Result] = field(default_factory=list)
    largest: int = 0

    def add(self, result: Result) -> None:
        """One more seed."""
        self.seeds += 1
        self.machines += result.size
        self.rollouts += result.counts.get("rollouts", 0)
        self.largest = max(self.largest, result.size)
        self.by_trouble.update(result.troubles)
        self.struck.update(result.counts)
        if result.violation:
            self.broken.append(result)


def one(seed: int) -> Result:
    """That seed, played."""
    outcome = play(seed)
    return Result(
        seed,
        outcome.scenario.size,
        outcome.scenario.troubles,
        outcome.violation,
        outcome.hash,
        tuple(outcome.story[-12:]) if outcome.violation else (),
        dict(outcome.counts),
    )


def results(first: int, seeds: int, processes: int) -> Iterator[Result]:
    """Every seed from ``first`` on, as they come to their end."""
    numbers = range(first, first + seeds)
    if processes == 1:
        yield from map(one, numbers)
        return
    # Spawned: a fork of a process with threads (Airflow's, in a test run) may inherit a lock that nobody frees.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(one, numbers, chunksize=CHUNK)


def campaign(first: int, seeds: int, processes: int, told: Callable[[Result], None] = lambda result: None) -> Tally:
    """All of them, counted; ``told`` hears of each."""
    tally, began = Tally(first=first), time.monotonic()
    for result in results(first, seeds, processes):
        tally.add(result)
        told(result)
    tally.seconds = time.monotonic() - began
    return tally


def explain(result: Result) -> str:
    """A violation with all that is needed to see it again."""
    return "\n".join(
        [
            f"seed {result.seed}: {result.violation}",
            *(f"  {line}" for line in result.tail),
            f"  again: python -m tests.simulator {result.seed}",
        ]
    )


def commit() -> str:
    """The commit that was tried, and whether anything was changed since."""
    git = ["git", "-C", str(ROOT)]
    try:
        told = subprocess.run([*git, "describe", "--always", "--dirty"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return told.stdout.strip()


def report(tally: Tally) -> str:
    """The campaign as a page."""
    rate = tally.seeds / tally.seconds if tally.seconds else 0.0
    lines = [
        "# The last campaign of the simulator",
        "",
        "Written by `scripts/simulator`. Each seed is one fleet replaced by the real engine over the real SQL, with",
        "the invariants judged by the truth of the fake world after every step and at every call.",
        "",
        "| What | Figure |",
        "|---|---|",
        f"| commit | {commit()} |",
        f"| seeds | {tally.seeds} ({tally.first} to {tally.first + tally.seeds - 1}) |",
        f"| rollouts opened | {tally.rollouts} |",
        f"| machines in all, largest fleet | {tally.machines}, {tally.largest} |",
        f"| steps of the engine | {tally.struck['steps']} |",
        f"| calls that change something, each held against the laws | {tally.struck['calls that change something']} |",
        f"| violations | {len(tally.broken)} |",
        f"| seeds per second | {rate:.2f} |",
        "",
        "Each trouble, the seeds that had it drawn, and how often it struck where that is counted:",
        "",
        "| Trouble | Seeds | Strikes |",
        "|---|---|---|",
    ]
    for kind in sorted(tally.by_trouble):
        lines.append(f"| {kind} | {tally.by_trouble[kind]} | {tally.struck.get(kind, '') or ''} |")
    if tally.broken:
        lines += ["", "## Violations", ""]
        lines += [f"- seed {each.seed}: {each.violation}" for each in sorted(tally.broken, key=lambda each: each.seed)]
    return "\n".join(lines) + "\n"


def bad_seeds(first: int, count: int) -> list[int]:
    """So many seeds from ``first`` on whose release is bad."""
    import random

    from tests.simulator.scenario import draw

    found: list[int] = []
    seed = first
    while len(found) < count:
        if BAD_IMAGE in draw(seed, random.Random(seed)).troubles:  # noqa: S311
            found.append(seed)
        seed += 1
    return found
