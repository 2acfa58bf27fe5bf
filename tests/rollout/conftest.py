from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet.catalog import Catalog
from tests.postgres import PostgresServer, postgres_server  # noqa: F401
from tests.rollout.reapers import QUICK
from tests.rollout.scene import Scene

Where = Callable[[], str]
"""Gives the URL of a new catalog; empty for the scene's own SQLite file."""

MEMORY = Path("/dev/shm")  # noqa: S108


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: the catalog waits for the disk at every commit, tests need not."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    made = Path(tempfile.mkdtemp(prefix="phoenix-", dir=MEMORY))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def scenes(folder: Path, where: Where) -> Iterator[Callable[..., Scene]]:
    """Makes scenes, and closes them in the end."""
    made: list[Scene] = []

    def make(**changes: Any) -> Scene:
        made.append(Scene(folder / f"scene-{len(made)}", **{"url": where(), **changes}))
        return made[-1].prepare()

    yield make
    for scene in made:
        scene.catalog.close()


@pytest.fixture
def stage(folder: Path) -> Iterator[Callable[..., Scene]]:
    """Makes scenes: a prepared fleet on fakes, with the given changes to its file."""
    yield from scenes(folder, str)


@pytest.fixture
def scene(stage: Callable[..., Scene]) -> Scene:
    """A scene in which nothing takes long."""
    return stage(**QUICK)


@pytest.fixture
def stage_anywhere(folder: Path, where: Where) -> Iterator[Callable[..., Scene]]:
    """The same, on either database."""
    yield from scenes(folder, where)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:  # noqa: F811
    """A database that is migrated already, to copy from."""
    name = postgres_server.create_database()
    with Catalog(postgres_server.url(name)) as catalog:
        catalog.migrate()
    return name


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def where(request: pytest.FixtureRequest) -> Iterator[Where]:
    """Where the catalog is kept: the same tests run on both."""
    if request.param == "sqlite":
        yield str
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    template = request.getfixturevalue("postgres_template")
    made: list[str] = []

    def make() -> str:
        made.append(server.create_database(template))
        return server.url(made[-1])

    yield make
    for name in made:
        server.drop_database(name)
