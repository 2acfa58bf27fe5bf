"""A catalog in memory: the real SQL and the real migrations, copied from a template instead of migrated each time."""

from __future__ import annotations

import functools
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, event
from sqlalchemy.pool import StaticPool

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.database import Transaction
from phoenix_fleet.domain.clock import Clock, ManualClock
from phoenix_fleet.domain.ladder import CLIMB
from phoenix_fleet.domain.models import Artefact
from phoenix_fleet.domain.windows import Version
from tests.simulator.datacentre import START

OLD, NEW, NEXT = Version.parse("2026.10-1"), Version.parse("2026.11-1"), Version.parse("2026.11-2")
FAMILY = "base"
NOWHERE = "sqlite:////nowhere/catalog.db"
"""Never opened: the connection is ours."""


def artefact_of(version: Version) -> Artefact:
    """That version's artefact on the platform."""
    digest = "sha256:" + str(version).replace(".", "").replace("-", "").ljust(64, "0")
    return Artefact("fake", f"registry/base@{digest}", digest)


@functools.lru_cache(maxsize=1)
def template() -> bytes:
    """A migrated catalog with its releases, as bytes."""
    with tempfile.TemporaryDirectory(prefix="phoenix-simulator-") as folder:
        clock = ManualClock(START - timedelta(days=40))
        with Catalog(f"sqlite:///{folder}/catalog.db", clock) as catalog:
            catalog.migrate()
            for version in (OLD, NEW, NEXT):
                catalog.images.open_candidate(FAMILY, version.window, f"inputs-{version}", "builder", run=f"b{version}")
                catalog.images.add_artefact(FAMILY, version, artefact_of(version))
                for rung in CLIMB[1:]:
                    catalog.images.move(FAMILY, version, rung, actor="builder")
        with closing(sqlite3.connect(Path(folder) / "catalog.db")) as connection:
            content = connection.serialize()
    # Bytes 18 and 19 say "write-ahead log", which a database in memory cannot have (sqlite.org/fileformat).
    return content[:18] + b"\x01\x01" + content[20:]


class MemoryDatabase:
    """One database in memory, used again for every seed; all catalogs of a simulation stand on it."""

    def __init__(self) -> None:
        self.raw = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self.engine = sqlalchemy.create_engine(
            "sqlite://", creator=lambda: self.raw, poolclass=StaticPool, hide_parameters=True
        )

        @event.listens_for(self.engine, "begin")
        def begin(connection: Connection) -> None:
            if connection.get_execution_options().get("phoenix_begin", "DEFERRED"):
                connection.exec_driver_sql("BEGIN")

    def reset(self) -> None:
        """As the template."""
        self.raw.deserialize(template())
        self.raw.execute("PRAGMA foreign_keys = ON")

    def catalog(self, clock: Clock, around: Callable[[], Any] | None = None) -> Catalog:
        """A catalog that believes that clock; ``around`` is a context manager that every write happens in."""
        catalog = Catalog(NOWHERE, clock)
        database = catalog._database
        database._engine, database._pid = self.engine, os.getpid()
        if around is not None:
            original = database.write

            @contextmanager
            def write() -> Iterator[Transaction]:
                with around(), original() as transaction:
                    yield transaction

            database.write = write  # type: ignore[method-assign]
        return catalog


@functools.lru_cache(maxsize=1)
def memory(pid: int) -> MemoryDatabase:
    """This process's database in memory; ``pid`` so that a fork has its own."""
    return MemoryDatabase()
