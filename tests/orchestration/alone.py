"""A whole rollout by the engine in a loop, without Airflow: what is left of it when Airflow is taken away."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.config import Project
from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.models import Image
from phoenix_fleet.domain.windows import Window
from phoenix_fleet.rollout.deps import deps_for
from phoenix_fleet.rollout.engine import engine_for
from phoenix_fleet.rollout.planning import draw_plan, freeze
from phoenix_fleet.rollout.progress import Progress

LEASE = timedelta(minutes=1)


def roll_out(
    catalog: Catalog,
    project: Project,
    name: str,
    image: Image,
    window: Window,
    connections: Connections,
    workdir: Path,
    *,
    run: str = "alone",
    log: Callable[[str], None] = lambda _: None,
    between: Callable[[Progress], None] = lambda _: None,
) -> float:
    """The fleet on that image, plan and tickets included; the seconds in which it paused between two looks.

    :param run: what opens it; the same run never opens a second one for a fleet.
    :param between: called after every step of the engine's.
    :raises StepFailed: a step failed, and the rollout is halted.
    """
    fleet, paused = project.fleet(name), 0.0
    deps = deps_for(project, fleet, catalog, connections, log=log, workdir=workdir)
    run = f"{run}/{fleet.name}/{image.version}"
    rollout = catalog.rollouts.open(
        fleet.name, image.family, image.version, window, run, draw_plan(deps, fleet, image).slots,
        settings=freeze(fleet), actor="bench", reason="a benchmark",
    )  # fmt: skip
    engine = engine_for(project, catalog, connections, rollout_id=rollout.id, log=log, workdir=workdir)
    for wave in range(len(fleet.waves) + 1):
        while ticket := catalog.rollouts.claim(rollout.id, wave, "alone", lease=LEASE, max_in_flight=1):
            while (progress := engine.advance(ticket)).state != "done":
                between(progress)
                paused += progress.check_after.total_seconds()
                time.sleep(progress.check_after.total_seconds())
    catalog.rollouts.complete(rollout.id)
    return paused
