"""What the feasibility verdict costs for 10,000 machines, beside drawing the plan of the same fleet in the same run.

Run it by itself: ``python tests/bench/bench_pacing.py``. The fleets have three zones, machines of many ages, nightly
windows, a freeze and a quota; one can be done in time, one cannot, so that every cure is looked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from datetime import time as clock

from phoenix_fleet.domain.calendars import Calendar, Freeze, Weekly
from phoenix_fleet.domain.durations import Durations
from phoenix_fleet.domain.feasibility import Verdict, assess
from phoenix_fleet.domain.fleets import FleetShape, Observed, Plan, Target
from phoenix_fleet.domain.models import Backend, BackendStatus, Instance, InstanceState
from phoenix_fleet.domain.pacing import Limits, Outlook, Quota, Todo, find_pace, forecast, groups_of
from phoenix_fleet.domain.planner import plan
from phoenix_fleet.domain.windows import Version

MACHINES, ROUNDS, LIMIT_SECONDS = 10_000, 5, 1.0
NOW = datetime(2026, 11, 1, 4, tzinfo=UTC)
OLD, NEW = Version.parse("2026.10-1"), Version.parse("2026.11-1")
AGE = timedelta(days=35)
NIGHTS = Weekly(frozenset(range(7)), clock(20), clock(6), "Europe/Berlin")
FREEZE = Freeze(NOW + timedelta(days=9), NOW + timedelta(days=12), "fair")
DURATIONS = Durations.guess(timedelta(minutes=7), timedelta(minutes=20))


def draw() -> Plan:
    """A fleet on the older release, as seen and planned."""
    slots = tuple(f"web-{number:05d}" for number in range(1, MACHINES + 1))
    shape = FleetShape("web", slots, canary=100, waves=(MACHINES // 4, MACHINES))
    seen = tuple(
        Instance(
            id=f"i-{slot}", name=slot, fleet="web", slot=slot, version=str(OLD), token=slot,
            state=InstanceState.RUNNING, zone="abc"[number % 3],
            launched_at=NOW - timedelta(days=25, seconds=number * 40),
        )
        for number, slot in enumerate(slots)
    )  # fmt: skip
    healthy = dict.fromkeys((each.id for each in seen), BackendStatus(Backend.HEALTHY))
    return plan(shape, Target(NEW), Observed(seen, healthy), NOW)


def judge(drawn: Plan, limits: Limits) -> tuple[Outlook, Verdict]:
    """The verdict, from the plan on."""
    todo = [Todo((each.wave, each.zone), each.born + AGE if each.born else None) for each in drawn.slots]
    outlook = Outlook(
        NOW,
        groups_of(todo, one_first=True),
        DURATIONS,
        limits,
        Calendar((NIGHTS,), (FREEZE,)),
        NOW + timedelta(days=29),
    )
    return outlook, assess(outlook)


def median(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    found = []
    for _ in range(ROUNDS):
        before = time.perf_counter()
        work()
        found.append(time.perf_counter() - before)
    return sorted(found)[ROUNDS // 2]


def main() -> None:
    """Print the figures and what they are of their limit."""
    drawn, slowest = draw(), 0.0
    planned = median(draw)
    print(f"{MACHINES:,} machines: seen and planned in {planned:.3f} s")
    print(f"{'':>24} {'s':>7} {'of the plan':>12} {'standing':>9} {'pace':>5}  cures")
    for name, limits in (
        ("enough at once", Limits(200, 200, Quota(300, 2000))),
        ("too few at once", Limits(5, 5, Quota(None, 2000))),
        ("too few launches", Limits(200, 200, Quota(300, 20))),
    ):
        outlook, verdict = judge(drawn, limits)
        took = median(lambda limits=limits: judge(drawn, limits))  # type: ignore[misc]
        slowest = max(slowest, took)
        print(
            f"{name:>24} {took:>7.3f} {took / planned:>12.2f} {verdict.standing:>9} {verdict.pace.concurrency:>5}  "
            f"{'; '.join(map(str, verdict.cures))}"
        )
        again = median(lambda outlook=outlook: forecast(outlook, find_pace(outlook).concurrency))  # type: ignore[misc]
        print(f"{'one forecast':>24} {again:>7.3f} {again / planned:>12.2f}")
    print(f"slowest verdict: {slowest / LIMIT_SECONDS:.2f} of the {LIMIT_SECONDS:.0f} s allowed")


if __name__ == "__main__":
    main()
