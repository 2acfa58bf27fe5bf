"""One Airflow on PostgreSQL for all these tests, with a fleet for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.orchestration import project
from tests.orchestration.project import HELD, NOW, OLD, FleetWorld
from tests.orchestration.stack import NOTICED_SOON, Stack, forget, make_root
from tests.postgres import PostgresServer, postgres_server

__all__ = ["postgres_server"]

FLEETS = {
    "sibling": {"size": 4},
    "inorder": {"size": 4, "max_in_flight": 1},
    "restart": {"machines": HELD},
    "orphan": {"machines": HELD},
    "backfilled": {"schedule": "0 4 1 * *"},
    "neighbour": {"size": 1},
    "dependent": {"size": 2, "depends_on": ["neighbour"]},
    "awaiting": {"size": 1, "family": "late"},
    "cleared": {"machines": HELD},
    "marked": {"machines": HELD},
}


@pytest.fixture(scope="package")
def stack(postgres_server: PostgresServer) -> Iterator[Stack]:
    """That Airflow, up."""
    root = make_root()
    try:
        include = project.write(root)
        for name, says in FLEETS.items():
            project.add_fleet(include, name, **says)  # type: ignore[arg-type]
        made = Stack(postgres_server, root, include, stand_in="tests.orchestration.built", **NOTICED_SOON)
        try:
            _populate(made, include)
            made.up()
            yield made
        finally:
            made.down()
    finally:
        forget(root)


def _populate(stack: Stack, include: Path) -> None:
    for family in ("mini", "late"):
        windows = (OLD, NOW) if family == "mini" else (OLD,)
        versions = [project.release(stack.catalog, family, window) for window in windows]
        for name, says in FLEETS.items():
            if says.get("family", "mini") == family:
                FleetWorld(include, name).populate(*versions)


@pytest.fixture
def fleet(stack: Stack) -> Callable[[str], FleetWorld]:
    """A fleet by name."""
    return lambda name: FleetWorld(stack.include, name)
