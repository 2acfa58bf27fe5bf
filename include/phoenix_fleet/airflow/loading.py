"""Which families and fleets the DAG files draw: the sound ones; the broken ones are told of in one place."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from airflow.sdk import get_parsing_context

from phoenix_fleet.airflow import world
from phoenix_fleet.config import Fleet, ImageFamily
from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.domain.ladder import Rung


def families(dag_id: str = "") -> Iterator[tuple[ImageFamily, Fleet]]:
    """Every sound family with its staging fleet; inside a task as ``fleets`` does it."""
    project = world.project()
    with _uncollected():
        for path in project.family_files():
            if not _wanted(dag_id or f"image.{path.parent.name}"):
                continue
            try:
                family = project.load_family(path)
                staging = project.fleet(family.stage.fleet)
            except InvalidConfig:
                continue  # told by raise_if_broken
            if family.targets:  # otherwise nothing of it is built here, as `phoenix validate` tells
                yield family, staging


def fleets(dag_id: str = "") -> Iterator[Fleet]:
    """Every sound fleet; inside a task only the fleet of that task's DAG, unless the DAG ``dag_id`` needs them all."""
    project = world.project()
    with _uncollected():
        for path in project.fleet_files():
            if not _wanted(dag_id or f"fleet.{path.stem}"):
                continue
            try:
                fleet = project.load_fleet(path)
            except InvalidConfig:
                continue  # told by raise_if_broken
            yield fleet


def in_service(every: Iterable[Fleet]) -> Iterator[Fleet]:
    """Those that serve, which leaves out staging fleets: they are broken on purpose now and then."""
    return (fleet for fleet in every if fleet.required_rung == Rung.RELEASED)


def fleet_names() -> list[str]:
    """Names of all fleet files, read from the folder alone."""
    return [path.stem for path in world.project().fleet_files()]


def raise_if_broken() -> None:
    """Return if every file is sound.

    :raises InvalidConfig: with all mistakes of all files.
    """
    project = world.project()
    mistakes = []
    for path in project.family_files():
        try:
            family = project.load_family(path)
        except InvalidConfig as error:
            mistakes.append(str(error))
            continue
        if not (project.include / "fleets" / f"{family.stage.fleet}.yaml").exists():
            mistakes.append(f"{path}: stage.fleet: there is no fleet file '{family.stage.fleet}.yaml'.")
    for path in project.fleet_files():
        try:
            project.load_fleet(path)
        except InvalidConfig as error:
            mistakes.append(str(error))
    if mistakes:
        raise InvalidConfig("\n".join(mistakes), remedy="`phoenix validate` shows the same on a terminal.")


def _wanted(dag_id: str) -> bool:
    """Tasks parse their DAG's file again: a task needs its own DAG and no other."""
    wanted = get_parsing_context().dag_id
    return wanted is None or wanted == dag_id


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pauses the garbage collector while DAGs are drawn: they all stay, and it took a quarter of the parse time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
