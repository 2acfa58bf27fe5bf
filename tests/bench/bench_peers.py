"""The same refresh by Docker Swarm, by Ansible, by our engine and by our engine through Airflow: seconds per machine.

Run it by itself: ``python tests/bench/bench_peers.py [SIZE …] [--rounds N] [--report]``; by default 4 and 8 machines,
three rounds. Every contestant has the same tiny HTTP service in two releases, a balancer before it, and a visitor who
asks all the while; each replaces one machine at a time, the new one before the old one, and watches for no time at
all. After that, what each does with a release that never gets healthy, and with requests that take two seconds.
It takes the machine's Docker engine into a swarm of its own and out again. ``--report`` writes docs/reports/peers.md.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "include"), str(ROOT)]

from tests.bench.peers import ours, telling  # noqa: E402
from tests.bench.peers.ansible import Ansible  # noqa: E402
from tests.bench.peers.contest import Contestant, Refresh, load  # noqa: E402
from tests.bench.peers.ground import BAD, NEW, QUICK, SLOW, Ground, Visitor, ground  # noqa: E402
from tests.bench.peers.swarm import Swarm  # noqa: E402
from tests.orchestration import project  # noqa: E402
from tests.orchestration.stack import Stack, forget, make_root  # noqa: E402
from tests.postgres import PostgresServer  # noqa: E402

SIZES, ROUNDS = (4, 8), 3
HAZARD_SIZE = 3
AFTERWARDS = {NEW: 1.0, BAD: 15.0}
"""Seconds that are looked on after a refresh has ended: so late may its consequences show."""


def main(sizes: Sequence[int], rounds: int, *, report: bool) -> int:
    """Print what was seen, and keep it if asked to."""
    timed = {f"{who}-{size}-{turn}": size for who in ("alone", "airflow") for size in sizes for turn in range(rounds)}
    hazards = {"alone-slow": HAZARD_SIZE, "alone-bad": HAZARD_SIZE, "airflow-warm": 1}
    with _world({**timed, **hazards}) as (here, stack):
        found = telling.Found(sizes, rounds)
        swarm, ansible = Swarm(here), Ansible(here)
        fleets = [*timed, *hazards]
        alone, airflow = ours.Alone(here, stack, fleets), ours.ThroughAirflow(here, stack, fleets)
        with swarm.member():
            _compete(swarm, "swarm", found)
        _compete(ansible, "ansible", found)
        _compete(alone, "alone", found)
        try:
            stack.up()
            airflow.warm_up("airflow-warm", project.NOW)
            _race(airflow, "airflow", found)
        finally:
            stack.down()
    print(telling.table(found))
    print(telling.hazards(found))
    if report:
        (ROOT / "docs" / "reports" / "peers.md").write_text(telling.report(found))
    return 0


@contextmanager
def _world(fleets: dict[str, int]) -> Iterator[tuple[Ground, Stack]]:
    """Images, network, database and an Airflow that is not started yet, all gone afterwards."""
    server, root = PostgresServer(), make_root()
    folder = root / "ground"
    folder.mkdir()
    try:
        server.start()
        with ground(folder) as here:
            include = project.write(root)
            ours.write_fleets(here, include, fleets)
            settings = ours.variables(here, list(fleets))
            stack = Stack(server, root, include, stand_in="tests.orchestration.built", **settings)
            ours.release_all(here, stack.catalog)
            yield here, stack
    finally:
        server.remove()
        forget(root)


def _compete(contestant: Contestant, who: str, found: telling.Found) -> None:
    """Every size in every round, and then the two that go wrong."""
    _race(contestant, who, found)
    for name, release, paths in ((f"{who}-slow", NEW, (QUICK, SLOW)), (f"{who}-bad", BAD, (QUICK,))):
        seen = _one(contestant, name, HAZARD_SIZE, release, paths)
        found.hazards[contestant.name, name.rpartition("-")[2]] = seen
        print(f"{name}: {seen}", flush=True)


def _race(contestant: Contestant, who: str, found: telling.Found) -> None:
    for size in found.sizes:
        for turn in range(found.rounds):
            seen = _one(contestant, f"{who}-{size}-{turn}", size, NEW, (QUICK,))
            assert seen.ended == "completed", seen
            assert seen.machines == {NEW: size}, seen
            found.refreshes.setdefault((contestant.name, size), []).append(seen)
            print(f"{contestant.name}: {size} machines, {seen.seconds / size:.2f} s each", flush=True)


def _one(contestant: Contestant, name: str, size: int, release: str, paths: Sequence[str]) -> Refresh:
    """One refresh under a visitor's eyes."""
    with contestant.fleet(name, size) as port:
        with Visitor(port, paths) if port else nullcontext() as visitor:
            time.sleep(1)
            begun = time.monotonic()
            ended, paused = contestant.refresh(name, size, release)
            seconds = time.monotonic() - begun
            time.sleep(AFTERWARDS[release])
        answers = visitor.answers if visitor else Counter[str]()
        return Refresh(seconds, ended, paused, answers, contestant.ground.machines(), load())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", nargs="*", type=int, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))  # whatever was started is ended on the way out
    sys.exit(main(given.sizes, given.rounds, report=given.report))
