"""Many seeds in several processes: what was counted and what was violated."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.simulator.play import play
from tests.simulator.scenario import BAD_IMAGE

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
