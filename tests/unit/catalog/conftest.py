from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.domain.clock import ManualClock
from tests.postgres import PostgresServer, postgres_server, postgres_url  # noqa: F401

DATABASES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:  # noqa: F811
    """A database that is migrated already, to copy from."""
    name = postgres_server.create_database()
    with Catalog(postgres_server.url(name)) as catalog:
        catalog.migrate()
    return name


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is migrated already, to copy."""
    path = tmp_path_factory.mktemp("catalog") / "template.db"
    with Catalog(f"sqlite:///{path}") as catalog:
        catalog.migrate()
    return path


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database, of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/catalog.db"
    else:
        yield request.getfixturevalue("postgres_url")


@pytest.fixture(params=DATABASES)
def migrated_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with the tables, of each kind."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "catalog.db")
        yield f"sqlite:///{tmp_path}/catalog.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create_database(request.getfixturevalue("postgres_template"))
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 11, 1, 3, 0, tzinfo=UTC))


@pytest.fixture
def catalog(migrated_url: str, clock: ManualClock) -> Iterator[Catalog]:
    with Catalog(migrated_url, clock) as catalog:
        yield catalog
