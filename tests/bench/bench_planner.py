"""What a decision costs in fleets of 1,000 to 1,000,000 machines, and how much memory the largest takes.

Run it by itself: ``python tests/bench/bench_planner.py``; sizes may be named. Each size is a whole rollout, decision by
decision, in a process of its own: whose turn it is, the new instance in service, may the old one go, gone, done.
"""

from __future__ import annotations

import gc
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from phoenix_fleet.domain.fleets import FleetShape, Observed, Target
from phoenix_fleet.domain.models import Backend, BackendStatus, Instance, InstanceState
from phoenix_fleet.domain.planner import may_take_out, plan
from phoenix_fleet.domain.tally import Tally
from phoenix_fleet.domain.turns import Turns
from phoenix_fleet.domain.windows import Version

SIZES = (1_000, 10_000, 100_000, 1_000_000)
ROUNDS = 5
"""Of each size; the median counts."""
MOST_DECISIONS = 50_000
"""Of a rollout that are timed, spread over the whole of it."""
LIMIT_MILLISECONDS, LIMIT_SPREAD, LIMIT_GIGABYTES = 100.0, 0.20, 2.0
NOW = datetime(2026, 11, 20, tzinfo=UTC)
OLD, NEW = Version.parse("2026.10-1"), Version.parse("2026.11-1")
TARGET = Target(NEW, "sha256:new", {NEW: "sha256:new", OLD: "sha256:old"})
HEALTHY = BackendStatus(Backend.HEALTHY)


def instances(slots: tuple[str, ...]) -> Iterator[Instance]:
    """A fleet on the older release, in three zones."""
    for number, slot in enumerate(slots):
        yield Instance(
            id=f"i-{number:08x}",
            name=f"{slot}-{number:08x}",
            fleet="web",
            slot=slot,
            version="2026.10-1",
            token=f"{number:032x}",
            state=InstanceState.RUNNING,
            address=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
            digest="sha256:old",
            launched_at=NOW - timedelta(days=20, seconds=number % 86400),
            zone="abc"[number % 3],
        )


def measure(size: int) -> dict[str, float]:
    """One fleet of that size, planned and replaced."""
    slots = tuple(f"web-{number:07d}" for number in range(1, size + 1))
    shape = FleetShape("web", slots, canary=max(1, size // 100), waves=(size // 4, size), max_in_flight=3, max_surge=3)
    fleet = tuple(instances(slots))
    gc.collect()
    gc.freeze()  # as a process that lives for a whole rollout would
    before = time.perf_counter()
    whole = Observed(fleet, dict.fromkeys((each.id for each in fleet), HEALTHY))
    drawn = plan(shape, TARGET, whole, NOW)
    planned = time.perf_counter() - before
    tally, turns = whole.tally, Turns(shape, TARGET, drawn.slots)
    del whole, drawn, fleet
    gc.collect()
    gc.freeze()
    batch = min(size, MOST_DECISIONS)
    spent = [0.0]
    for _ in range(size // batch):
        before = time.perf_counter()
        for _ in range(batch):
            replace_next(turns, tally, shape)
        spent.append((time.perf_counter() - before) / batch)
    if len(turns):
        raise SystemExit(f"{len(turns)} slots of {size} were never replaced")
    return {
        "plan": planned,
        "decision": sum(spent) / (len(spent) - 1) / 2,  # two of them per replacement: begin, take out
        "worst": worst(shape, tally),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2,
    }


def replace_next(turns: Turns, tally: Tally, shape: FleetShape) -> None:
    """One replacement from its turn to its end, as the planner sees it."""
    turn = turns.next(tally, NOW)
    if not turn.allowed:
        raise SystemExit(f"{turn.slot}: {turn.reason}")
    turns.begin(turn.slot)
    (old,) = tally.in_slot(turn.slot)
    new = replace(old, id=f"{old.id}-new", name=f"{old.name}-new", version="2026.11-1", digest="sha256:new")
    tally.see(new, HEALTHY)
    decision = may_take_out(shape, tally, old.id, new.id)
    if not decision.allowed:
        raise SystemExit(f"{turn.slot}: {decision.reason}")
    tally.forget(old.id)
    turns.finish(turn.slot)


def worst(shape: FleetShape, tally: Tally) -> float:
    """The dearest decision: with a whole look that nobody kept a tally of, as the engine makes right before it acts."""
    fleet = tuple(each for slot in shape.slots for each in tally.in_slot(slot))
    backends = dict.fromkeys((each.id for each in fleet), HEALTHY)
    found = 0.0
    for _ in range(3):
        look = Observed(fleet, backends)
        before = time.perf_counter()
        may_take_out(shape, look, fleet[0].id)
        found = max(found, time.perf_counter() - before)
    return found


def alone(size: int) -> dict[str, float]:
    """The medians of that size, each round in a fresh process."""
    rounds = 1 if size > 100_000 else ROUNDS
    found = []
    for _ in range(rounds):
        answer = subprocess.run(
            [sys.executable, __file__, "--measure", str(size)], check=True, capture_output=True, text=True
        )
        found.append(json.loads(answer.stdout))
    return {key: sorted(each[key] for each in found)[rounds // 2] for key in found[0]}


def main(sizes: tuple[int, ...]) -> None:
    """Print the figures and what they are of their limits."""
    found = {}
    print(f"{'machines':>10} {'plan s':>8} {'decision µs':>12} {'of 1,000':>9} {'whole look ms':>14} {'GB':>6}")
    for size in sizes:
        found[size] = each = alone(size)
        ratio = each["decision"] / found[sizes[0]]["decision"]
        print(
            f"{size:>10,} {each['plan']:>8.2f} {each['decision'] * 1e6:>12.1f} {ratio:>9.2f} "
            f"{each['worst'] * 1e3:>14.2f} {each['memory']:>6.2f}",
            flush=True,
        )
    costs = [each["decision"] for each in found.values()]
    middle = (max(costs) + min(costs)) / 2
    print(f"flat: ±{(max(costs) / middle - 1) * 100:.0f} % (limit ±{LIMIT_SPREAD * 100:.0f} %)")
    if 10_000 in found:
        share = found[10_000]["worst"] * 1e3 / LIMIT_MILLISECONDS
        print(f"10,000 machines, a decision from a whole look: {share:.2f} of the {LIMIT_MILLISECONDS:.0f} ms allowed")
    largest = max(found)
    print(f"{largest:,} machines: {found[largest]['memory'] / LIMIT_GIGABYTES:.2f} of {LIMIT_GIGABYTES:.0f} GB allowed")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(int(sys.argv[2]))))
    else:
        main(tuple(map(int, sys.argv[1:])) or SIZES)
