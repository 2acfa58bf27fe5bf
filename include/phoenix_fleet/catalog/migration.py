"""Alembic without its files: the migrations travel inside the package and run on the catalog's own connection."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text

from phoenix_fleet.catalog.database import Database
from phoenix_fleet.domain.errors import InvalidConfig

VERSION_TABLE = "catalog_version"
"""Not Alembic's default name, which another product's tables in the same database would have too."""

_ADVISORY_LOCK = 0x70686F656E6978
"""The letters of "phoenix", as the key of PostgreSQL's advisory lock."""


def upgrade(database: Database) -> None:
    """Bring the tables up to date in one transaction, one process at a time.

    :raises InvalidConfig: if the database is ahead of this release.
    """
    with _alone(database) as connection:
        try:
            command.upgrade(configuration(connection), "head")
        except CommandError as error:
            raise InvalidConfig(
                f"{database}: its tables are not of this release: {error}.",
                remedy="Use the release that migrated it last, or a newer one.",
            ) from error


def configuration(connection: Connection) -> Config:
    """Alembic's configuration for that connection."""
    config = Config()
    folder = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def _alone(database: Database) -> Iterator[Connection]:
    if not database.is_sqlite:
        with database.connection() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
            yield connection
        return
    database.prepare_folder()
    with _file_lock(database.path.with_name(database.path.name + ".lock")):
        database.use_write_ahead_log()
        with database.connection() as connection:
            yield connection


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    try:
        file = path.open("a")
    except OSError as error:
        raise InvalidConfig(
            f"The catalog's folder {path.parent} cannot be written to: {error.strerror}.",
            remedy="Make it writable for this user, or point PHOENIX_CATALOG_URL elsewhere.",
        ) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
