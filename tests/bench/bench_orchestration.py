"""What Airflow adds to a replacement: real Airflow on PostgreSQL over instant machines, beside the engine alone.

Run it by itself: ``python tests/bench/bench_orchestration.py [SIZE …]``; by default 10, 100, 200 and 10000 machines.
The same rollout is done by Airflow and by a loop without it, on the same catalog; what Airflow takes longer for each
replacement is orchestration: scheduling, a process, the DAG file, the ticket, the plan, the report. In the largest
fleet the engine's steps are left out of both, and everything around them stays.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "include"), str(ROOT)]

from phoenix_fleet.config import Project  # noqa: E402
from phoenix_fleet.connections import Connection  # noqa: E402
from phoenix_fleet.domain.models import LaunchIntent  # noqa: E402
from tests.orchestration import instant, project  # noqa: E402
from tests.orchestration.alone import roll_out  # noqa: E402
from tests.orchestration.built import artefact_of  # noqa: E402
from tests.orchestration.project import NOW, OLD, FleetWorld  # noqa: E402
from tests.orchestration.stack import Stack, forget, make_root, until  # noqa: E402
from tests.postgres import PostgresServer  # noqa: E402

SIZES = (10, 100, 200, 10_000)
LONGEST_SECONDS = 3 * 3600.0


def limit_seconds(size: int) -> float:
    """The most that orchestration may take for one replacement."""
    return 0.5 if size <= 200 else 0.05


@dataclass(frozen=True)
class Figures:
    """One size, in seconds for one replacement."""

    size: int
    tasks: int
    whole: float
    """By Airflow, from the run's start to its end."""
    waves: float
    """By Airflow, from the first replacement's start to the last one's end."""
    alone: float
    """By the engine without Airflow."""
    cpu: float
    """Of all of Airflow and its database, workers included."""
    task: float
    """Median of a replacement's task, whatever it takes in."""
    gap: float
    """Median from the end of one to the start of the next."""

    @property
    def orchestration(self) -> float:
        """What Airflow adds."""
        return self.whole - self.alone


def main(sizes: list[int]) -> int:
    """Print the table; 1 if a figure is missed."""
    instant.stand_in()
    server, root = PostgresServer(), make_root()
    try:
        server.start()
        include = project.write(root)
        for size in sizes:
            for who in ("airflow", "alone"):
                project.add_fleet(
                    include, f"{who}-{size}", size=size, balancer="none", verify=[], brake={"share": "100%"}
                )
        stack = Stack(server, root, include, stand_in="tests.orchestration.instant")
        try:
            _populate(stack, include, sizes)
            stack.up()
            _warm_up(stack, sizes[0])
            print(HEAD, flush=True)
            found = [_measure(stack, size) for size in sizes]
        finally:
            stack.down()
    finally:
        server.remove()
        forget(root)
    return int(any(each.orchestration > limit_seconds(each.size) for each in found))


HEAD = (
    "machines  tasks  by Airflow  its waves  engine alone  orchestration  limit  CPU     ratio to  task   gap    load\n"
    "                 s each      s each     s each        s each         s      s each  engine    s      s      avg."
)


def _populate(stack: Stack, include: Path, sizes: list[int]) -> None:
    versions = [project.release(stack.catalog, "mini", window) for window in (OLD, NOW)]
    for size in sizes:
        for who in ("airflow", "alone"):
            world = FleetWorld(include, f"{who}-{size}")
            platform, artefact = world.platform, artefact_of("mini", versions[0])
            for version in versions:
                platform.add_image(artefact_of("mini", version), "mini", str(version))
            slots = world.project.fleet(world.name).slots
            platform.populate(
                [LaunchIntent(world.name, slot, "seed", 1, "mini", str(versions[0]), artefact) for slot in slots]
            )


def _warm_up(stack: Stack, size: int) -> None:
    """The first tasks after a start are slow, and a rollout is not what follows a start."""
    dag_id = f"fleet.airflow-{size}"
    run_id = stack.user.trigger(dag_id, {"reason": "to warm up", "window": str(NOW), "dry_run": True})
    assert stack.user.wait(dag_id, run_id) == "success"


def _measure(stack: Stack, size: int) -> Figures:
    alone = _alone(stack, FleetWorld(stack.include, f"alone-{size}"))
    dag_id = f"fleet.airflow-{size}"
    stack.user.wait_for_dags([dag_id], seconds=60)  # now and then Airflow has forgotten one until it parses again
    before = _cpu_seconds(stack)
    run_id = stack.user.trigger(dag_id, {"reason": "a benchmark", "window": str(NOW)})
    until(lambda: stack.user.state(dag_id, run_id) in ("success", "failed"), dag_id, seconds=LONGEST_SECONDS)
    run, tasks = stack.user.run(dag_id, run_id), stack.user.tasks(dag_id, run_id)
    assert run["state"] == "success", [(each["task_id"], each["state"]) for each in tasks]
    (rollout,) = stack.catalog.rollouts.list_rollouts(f"airflow-{size}")
    assert {slot.state for slot in stack.catalog.rollouts.slots(rollout.id)} == {"done"}
    replacing = [each for each in tasks if each["task_id"].endswith(".replace")]
    waves = _span(min(each["start_date"] for each in replacing), max(each["end_date"] for each in replacing))
    whole = _span(run["start_date"], run["end_date"])
    cpu = (_cpu_seconds(stack) - before) / size
    found = Figures(size, len(tasks), whole / size, waves / size, alone / size, cpu, *_task_and_gap(replacing))
    print(
        f"{size:8}  {found.tasks:5}  {found.whole:10.3f}  {found.waves:9.3f}  {found.alone:12.3f}  "
        f"{found.orchestration:13.3f}  {limit_seconds(size):5.2f}  {found.cpu:6.3f}  "
        f"{found.whole / found.alone:8.2f}  {found.task:5.3f}  {found.gap:5.3f}  {os.getloadavg()[1]:7.1f}",
        flush=True,
    )
    return found


def _alone(stack: Stack, world: FleetWorld) -> float:
    """Seconds for the whole rollout in a loop, plan and tickets included."""
    connections: Any = lambda conn_id: Connection(id=conn_id, extra={"key_file": str(stack.root / "id")})  # noqa: E731
    begun = time.monotonic()
    image = stack.catalog.images.newest_released("mini")
    assert image is not None
    roll_out(stack.catalog, Project(stack.include), world.name, image, NOW, connections, stack.root)
    return time.monotonic() - begun


def _task_and_gap(replacing: list[dict[str, Any]]) -> tuple[float, float]:
    """Medians of what a task takes, and of what lies between two."""
    spans = sorted((project.moment(each["start_date"]), project.moment(each["end_date"])) for each in replacing)
    gaps = [(later[0] - earlier[1]).total_seconds() for earlier, later in itertools.pairwise(spans)]
    return statistics.median((end - start).total_seconds() for start, end in spans), statistics.median(gaps)


def _cpu_seconds(stack: Stack) -> float:
    """What Airflow's components, their children and PostgreSQL have used so far."""
    roots = [pid for name in stack.processes.names() if (pid := stack.processes.pid(name))]
    found = 0.0
    for root in [*roots, stack.server.pid]:
        process = psutil.Process(root)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                found += sum(each.cpu_times()[:4])  # user and system, its own and those of children that have ended
    return found


def _span(start: str, end: str) -> float:
    return (project.moment(end) - project.moment(start)).total_seconds()


if __name__ == "__main__":
    sys.exit(main([int(size) for size in sys.argv[1:]] or list(SIZES)))
