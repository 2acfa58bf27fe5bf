"""A campaign's report, as it is kept under ``docs/reports``."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from statistics import median

from tests.chaos.blows import DECK, Act, tally
from tests.chaos.campaign import Outcome, Struck
from tests.chaos.world import RATE
from tests.rollout.crash_matrix import current_commit


def versions() -> dict[str, str]:
    """What takes part, by name."""
    return {
        "commit": current_commit(),
        "Airflow": version("apache-airflow-core"),
        "Python": platform.python_version(),
        "PostgreSQL": _said("psql", "--version").split()[2],
        "Docker": _said("docker", "version", "--format", "{{.Server.Version}}"),
        "haproxy": _said("haproxy", "-v").split()[2],
        "cores": str(os.cpu_count()),
    }


def render(outcome: Outcome, parts: dict[str, str]) -> str:
    """The page."""
    blows = tally([struck.dealt.blow for struck in outcome.struck])
    taken = [struck.recovery for struck in outcome.struck if struck.recovery is not None]
    sent = outcome.traffic
    over = " before its time was up" if outcome.out_of_time else ""
    lines = [
        "# A campaign on real processes",
        "",
        f"Commit {parts['commit']}, Airflow {parts['Airflow']} (LocalExecutor, settings of"
        f" [airflow.env](../../include/airflow.env)), Python {parts['Python']}, PostgreSQL {parts['PostgreSQL']},"
        f" Docker {parts['Docker']}, haproxy {parts['haproxy']}, {parts['cores']} cores. Written by"
        f" `scripts/chaos --blows {outcome.asked} --seed {outcome.seed} --report`.",
        "",
        f"The demo's fleet `web` on Docker was refreshed again and again, each time to a release of its own, under"
        f" {RATE:.0f} requests/s, while Airflow's processes were killed and stopped and database sessions were cut."
        " Whatever had died was started again at once, as an init system would; nobody did anything else.",
        "",
        "| | |",
        "|---|---|",
        f"| Blows | {len(outcome.struck)} of {outcome.asked}{over}: {blows[Act.KILL]} SIGKILL,"
        f" {blows[Act.STOP]} SIGSTOP and SIGCONT, {blows[Act.CUT]} cuts of sessions |",
        f"| Rollouts that ended well | {sum(ran.state == 'success' for ran in outcome.runs)} of {len(outcome.runs)},"
        f" {len(outcome.births.tokens)} instances launched |",
        f"| Requests | {sent.get('sent', 0)} sent, {sent.get('failed', 0)} failed; p50 {sent.get('p50_ms')} ms,"
        f" p99 {sent.get('p99_ms')} ms; {sent.get('late', 0)} left late and {sent.get('missed', 0)} not at all for want"
        " of CPU |",
        f"| Launched twice, or without an intent | {_count(outcome, 'launched twice', 'born without')} |",
        f"| Containers at once | {outcome.births.most_alive} at most |",
        f"| Left over at rest | {len(outcome.leaks)} |",
        f"| Went on after | {_middle(taken)} median, {max(taken, default=0):.0f} s at most;"
        f" limit {outcome.limit:.0f} s |",
        f"| Longest standstill of a rollout, stops left out |"
        f" {max((ran.standstill for ran in outcome.runs), default=0):.0f} s |",
        f"| Components started again | {_told(outcome.restarts)} |",
        f"| Events in the catalog's chain, which holds | {outcome.events} |",
        f"| Took | {outcome.seconds / 60:.0f} min |",
        "",
        "A blow falls at a random moment, or at a random step; one at the triggerer while a run waits there for its"
        " release. *Went on after* is the time from the end of the blow (SIGCONT, for a stop) to the next event by"
        " which the rollout got further, with whatever the step takes undisturbed: to configure an instance takes"
        " most. The longest standstill is between any two such events of a rollout.",
        "",
        "| Blow | On | Times | Went on after, median | At most |",
        "|---|---|---|---|---|",
        *(_row(act, part, outcome.struck) for (act, part), _ in DECK),
        "",
        *_broken(outcome.broken),
    ]
    return "\n".join(lines) + "\n"


def _row(act: Act, part: object, struck: Sequence[Struck]) -> str:
    these = [each for each in struck if each.dealt.blow.kind == (act, part)]
    taken = [each.recovery for each in these if each.recovery is not None]
    return f"| {act} | {part} | {len(these)} | {_middle(taken)} | {f'{max(taken):.0f} s' if taken else '-'} |"


def _middle(taken: Sequence[float]) -> str:
    return f"{median(taken):.0f} s" if taken else "-"


def _count(outcome: Outcome, *beginnings: str) -> int:
    return sum(fault.startswith(beginnings) for fault in outcome.faults)


def _told(restarts: dict[str, int]) -> str:
    return ", ".join(f"{name} {times}" for name, times in sorted(restarts.items())) or "none"


def _broken(broken: Sequence[str]) -> list[str]:
    if not broken:
        return ["Every promise held."]
    return ["## What did not hold", "", *(f"- {each}" for each in broken)]


def _said(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
