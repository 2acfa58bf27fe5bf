"""The report of a campaign, kept leg by leg, so that one may be cut short and gone on with on another day."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.simulator.campaign import Tally

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "docs" / "reports" / "simulator.md"


@dataclass
class Leg:
    """So many seeds in a row on one commit."""

    commit: str
    first: int
    seeds: int
    seconds: float
    rollouts: int
    machines: int
    largest: int
    by_trouble: dict[str, int]
    struck: dict[str, int]
    broken: dict[str, str]
    """What was violated, by seed."""

    @property
    def end(self) -> int:
        """The seed after the last one."""
        return self.first + self.seeds

    def follows(self, other: Leg) -> bool:
        """Whether this one goes on where that one stopped, on the same commit."""
        return self.commit == other.commit and self.first == other.end

    def joined(self, after: Leg) -> Leg:
        """The two as one."""
        return Leg(
            self.commit,
            self.first,
            self.seeds + after.seeds,
            self.seconds + after.seconds,
            self.rollouts + after.rollouts,
            self.machines + after.machines,
            max(self.largest, after.largest),
            dict(Counter(self.by_trouble) + Counter(after.by_trouble)),
            dict(Counter(self.struck) + Counter(after.struck)),
            {**self.broken, **after.broken},
        )


def commit() -> str:
    """The commit that is tried, and whether anything was changed since."""
    git = ["git", "-C", str(ROOT)]
    try:
        told = subprocess.run([*git, "describe", "--always", "--dirty"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return told.stdout.strip()


def leg_of(tally: Tally, tried: str) -> Leg:
    """A finished campaign as a leg."""
    broken = {str(each.seed): each.violation for each in tally.broken}
    counted = dict(tally.by_trouble), dict(tally.struck)
    numbers = tally.first, tally.seeds, round(tally.seconds, 1), tally.rollouts, tally.machines, tally.largest
    return Leg(tried, *numbers, *counted, broken)


def add(leg: Leg, output: Path = REPORT) -> list[Leg]:
    """Put it to those that are kept beside the report, and write the report anew; all legs are returned.

    A leg that was played again on another commit stands beside the older one: both were seen.
    """
    kept = output.with_suffix(".json")
    legs = [Leg(**each) for each in json.loads(kept.read_text())] if kept.exists() else []
    if legs and leg.follows(legs[-1]):
        legs[-1] = legs[-1].joined(leg)
    else:
        legs.append(leg)
    output.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps([asdict(each) for each in legs], indent=1, sort_keys=True) + "\n", encoding="utf-8")
    output.write_text(report(legs), encoding="utf-8")
    return legs


def report(legs: Sequence[Leg]) -> str:
    """All legs as a page."""
    troubles: Counter[str] = sum((Counter(each.by_trouble) for each in legs), Counter())
    struck: Counter[str] = sum((Counter(each.struck) for each in legs), Counter())
    lines = [
        "# The campaign of the simulator",
        "",
        "Written by `scripts/simulator`, leg by leg. Each seed is one fleet replaced by the real engine over the real",
        "SQL, with the invariants judged by the truth of the fake world after every step and at every call.",
        "",
        "| What | Figure |",
        "|---|---|",
        f"| seeds | {sum(each.seeds for each in legs)} |",
        f"| rollouts opened | {sum(each.rollouts for each in legs)} |",
        f"| machines in all | {sum(each.machines for each in legs)} |",
        f"| machines of the largest fleet | {max(each.largest for each in legs)} |",
        f"| steps of the engine | {struck['steps']} |",
        f"| calls that change something, each held against the laws | {struck['calls that change something']} |",
        f"| violations | {sum(len(each.broken) for each in legs)} |",
        "",
        "| Commit | Seeds | Rollouts | Violations | Seconds for a seed |",
        "|---|---|---|---|---|",
        *(
            f"| {each.commit} | {each.first} to {each.end - 1} | {each.rollouts} | {len(each.broken)} "
            f"| {each.seconds / each.seeds:.2f} |"
            for each in legs
        ),
        "",
        "Each trouble, the seeds that had it drawn, and how often it struck where that is counted:",
        "",
        "| Trouble | Seeds | Strikes |",
        "|---|---|---|",
        *(f"| {kind} | {troubles[kind]} | {struck.get(kind, '') or ''} |" for kind in sorted(troubles)),
    ]
    if broken := [(int(seed), why, each.commit) for each in legs for seed, why in each.broken.items()]:
        lines += ["", "## Violations", "", *(f"- seed {seed} on {tried}: {why}" for seed, why, tried in sorted(broken))]
    return "\n".join(lines) + "\n"
