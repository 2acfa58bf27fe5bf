"""What was found, as tables for the terminal and as the page that is kept."""

from __future__ import annotations

import platform
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from tests.bench.peers.contest import Refresh
from tests.bench.peers.ground import NEW, OLD
from tests.bench.peers.swarm import HEALTH_SECONDS, Swarm
from tests.contract.machinery import output

HAZARDS = {"slow": "half of the requests take two seconds", "bad": "the release never gets healthy"}


@dataclass
class Found:
    """Everything that was measured."""

    sizes: Sequence[int]
    rounds: int
    refreshes: dict[tuple[str, int], list[Refresh]] = field(default_factory=dict)
    """By contestant and size."""
    hazards: dict[tuple[str, str], Refresh] = field(default_factory=dict)
    """By contestant and hazard."""

    def each(self, name: str, size: int) -> float:
        """Median of the rounds, in seconds for one machine."""
        return statistics.median(seen.seconds for seen in self.refreshes[name, size]) / size


def table(found: Found) -> str:
    """A line for each contestant and size."""
    lines = [
        "| Machines | By | s each | from … to | of it paused on purpose | ratio to Swarm | requests | failed | load |",
        "|--:|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    for (name, size), seen in sorted(found.refreshes.items(), key=lambda item: (item[0][1], found.each(*item[0]))):
        all_of_them = sorted(each.seconds / size for each in seen)
        paused = statistics.median(each.paused for each in seen) / size
        answers = sum((each.answers for each in seen), Counter[str]())
        each, ratio = found.each(name, size), found.each(name, size) / found.each(Swarm.name, size)
        lines.append(
            f"| {size} | {name} | {each:.2f} | {all_of_them[0]:.2f} … {all_of_them[-1]:.2f} "
            f"| {f'{paused:.2f}' if paused else 'not known'} | {ratio:.1f} "
            f"| {_requests(answers)} | {max(each.load for each in seen):.1f} |"
        )
    return "\n".join(lines)


def hazards(found: Found) -> str:
    """A line for each contestant and thing that goes wrong."""
    lines = [
        "| What | By | ended | after s | requests | failed | machines left: old | new | others |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for (name, hazard), seen in sorted(found.hazards.items(), key=lambda item: item[0][1], reverse=True):
        others = seen.machines.total() - seen.machines[OLD] - seen.machines[NEW]
        lines.append(
            f"| {HAZARDS[hazard]} | {name} | {_short(seen.ended)} | {seen.seconds:.1f} | {_requests(seen.answers)} "
            f"| {seen.machines[OLD]} | {seen.machines[NEW]} | {others} |"
        )
    return "\n".join(lines)


def report(found: Found) -> str:
    """The page."""
    return (
        (Path(__file__).parent / "page.md")
        .read_text()
        .format(
            sizes=" and ".join(str(size) for size in found.sizes),
            rounds=found.rounds,
            versions=_versions(),
            table=table(found),
            hazards=hazards(found),
            health=HEALTH_SECONDS,
        )
    )


def _requests(answers: Counter[str]) -> str:
    """Two columns: how many, and how many failed."""
    return f"{answers.total()} | {answers['failed']}" if answers else "none got there |"


def _short(ended: str) -> str:
    return ended.split("; ")[0].split(" Remedy")[0].replace("|", "/")[:90]


def _versions() -> str:
    engine = output(["docker", "version", "--format", "{{.Server.Version}}"]).strip()
    haproxy = output(["haproxy", "-v"]).split()[2].partition("-")[0]
    return (
        f"Docker Engine {engine}, HAProxy {haproxy}, ansible-core {version('ansible-core')}, "
        f"Airflow {version('apache-airflow-core')} on PostgreSQL, Python {platform.python_version()}"
    )
