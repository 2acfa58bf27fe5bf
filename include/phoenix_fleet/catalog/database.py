"""Engines, transactions and errors: what every store stands on.

All writing transactions of one catalog happen one after another: SQLite begins them IMMEDIATE, PostgreSQL locks
the chain's head row first. One lock, taken first and by everyone, so nothing can deadlock, and what a transaction
has read is still true when it writes. They take milliseconds; no call to the outside happens inside one.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, event, exc, func, insert, select, update
from sqlalchemy.orm import Session

from phoenix_fleet.catalog import chain
from phoenix_fleet.catalog.schema import CHAIN, EVENTS
from phoenix_fleet.domain.clock import Clock, SystemClock
from phoenix_fleet.domain.errors import AuthenticationFailed, InvalidConfig, PermanentError, PhoenixError, Unavailable

_MIGRATE = "Run the migrations once (Catalog.migrate()) with the same PHOENIX_CATALOG_URL."
_LOCK_HEAD = select(CHAIN.c.count, CHAIN.c.hash).where(CHAIN.c.id == 1).with_for_update()
_MOVE_HEAD = update(CHAIN).where(CHAIN.c.id == 1)
_APPEND = insert(EVENTS)


class Transaction:
    """One writing transaction: its connection, the one moment it happens at, and the chain it appends to.

    What every step of every replacement does goes through the connection, in plain SQL; a session, which costs five
    times as much for each statement, is there for everything else.
    """

    def __init__(self, connection: Connection, now: datetime, head: chain.Head) -> None:
        self.connection = connection
        self.now = now
        self._head = head
        self._began_with = head

    @cached_property
    def session(self) -> Session:
        """A session inside the transaction."""
        return Session(self.connection, expire_on_commit=False)

    def event(self, kind: str, subject: str, actor: str, payload: dict[str, Any]) -> None:
        """Append an event that commits, or not, together with what it records."""
        values = chain.link(self._head, at=self.now, kind=kind, subject=subject, actor=actor, payload=payload)
        self.connection.execute(_APPEND, values)
        self._head = chain.Head(values["seq"], values["hash"])

    def finish(self) -> None:
        """Write what the session has not written yet, and where the chain ends now."""
        if "session" in self.__dict__:
            self.session.flush()
        if self._head != self._began_with:
            self.connection.execute(_MOVE_HEAD, {"count": self._head.count, "hash": self._head.hash})

    def close(self) -> None:
        """Let go of the session, whatever becomes of the transaction."""
        if "session" in self.__dict__:
            self.session.close()


class Database:
    """One database by URL. No I/O until it is first used; safe between threads and after a fork."""

    def __init__(self, url: str, clock: Clock | None, lock_timeout: timedelta) -> None:
        self.url = parse_url(url)
        # Hosts that share a PostgreSQL server do not share a clock, so theirs is the server's. A SQLite file belongs
        # to one host.
        self._clock = SystemClock() if clock is None and self.is_sqlite else clock
        self.lock_timeout = lock_timeout
        self._guard = threading.Lock()
        self._engine: Engine | None = None
        self._pid = 0
        self._left_behind: list[Engine] = []
        self._variants: dict[tuple[tuple[str, Any], ...], tuple[Engine, Engine]] = {}

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a SQLite file; otherwise it is PostgreSQL."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return Path(self.url.database or "")

    def __str__(self) -> str:
        return self.url.render_as_string(hide_password=True)

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A writing transaction: commits at the end, or rolls back. The database's errors become ours."""
        with self._translated(), self._begins("IMMEDIATE").connect() as connection, connection.begin():
            head = connection.execute(_LOCK_HEAD).one_or_none()
            if head is None:
                raise PermanentError(
                    f"{self}: the event chain has lost its head row.", remedy="Restore the catalog from a backup."
                )
            transaction = Transaction(connection, self._moment(connection), chain.Head(*head))
            try:
                yield transaction
                transaction.finish()
            finally:
                transaction.close()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one moment of the database and changes nothing."""
        with self._translated(), Session(self._snapshots()) as session, session.begin():
            yield session

    @contextmanager
    def look(self) -> Iterator[Connection]:
        """A connection for one query in plain SQL, a fifth as dear: for what every step of every replacement asks.

        Two queries may see two moments.
        """
        with self._translated(), self._single().connect() as connection:
            yield connection

    def now(self) -> datetime:
        """The moment by the one clock of everybody who uses this database, aware, in UTC."""
        if self._clock is not None:
            return self._clock.now()
        with self.look() as connection:
            return self._moment(connection)

    def _moment(self, connection: Connection) -> datetime:
        if self._clock is not None:
            return self._clock.now()
        # Not now(), which stands still from the beginning of the transaction: it may have waited for the lock since.
        told: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        return told.astimezone(UTC)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A plain connection inside a writing transaction that does not need the tables yet."""
        with self._translated(), self._begins("IMMEDIATE").connect() as connection, connection.begin():
            yield connection

    def prepare_folder(self) -> None:
        """Make the SQLite file's folder if it is missing.

        :raises InvalidConfig: if it cannot be made.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        except OSError as error:
            raise InvalidConfig(
                f"The catalog's folder {self.path.parent} cannot be made: {error.strerror}.",
                remedy="Make it writable for this user, or point PHOENIX_CATALOG_URL elsewhere.",
            ) from None

    def use_write_ahead_log(self) -> None:
        """Let readers of the SQLite file go on while one writes. The file remembers it."""
        with self._translated(), self._begins("").connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")

    def close(self) -> None:
        """Give the connections back. The next use opens new ones."""
        with self._guard:
            engine, self._engine = self._engine, None
            if engine is not None:
                engine.dispose(close=self._pid == os.getpid())

    def _begins(self, how: str) -> Engine:
        return self._variant(phoenix_begin=how)

    def _snapshots(self) -> Engine:
        if self.is_sqlite:
            return self._current()
        return self._variant(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def _single(self) -> Engine:
        return self._begins("") if self.is_sqlite else self._variant(isolation_level="AUTOCOMMIT")

    def _variant(self, **options: Any) -> Engine:
        """The engine with these options; made once, as making one costs as much as a query."""
        engine, key = self._current(), tuple(options.items())
        kept = self._variants.get(key)
        if kept is None or kept[0] is not engine:
            self._variants[key] = kept = engine, engine.execution_options(**options)
        return kept[1]

    def _current(self) -> Engine:
        with self._guard:
            if self._engine is not None and self._pid != os.getpid():
                # A forked child must not speak on its parent's connections, and not close them either: so they are
                # kept, unused, until it ends.
                self._left_behind.append(self._engine)
                self._engine = None
            if self._engine is None:
                self._engine, self._pid = self._open(), os.getpid()
            return self._engine

    def _open(self) -> Engine:
        if self.is_sqlite:
            return self._open_sqlite()
        engine = sqlalchemy.create_engine(
            self.url, hide_parameters=True, pool_pre_ping=True, pool_size=2, connect_args={"connect_timeout": 10}
        )
        milliseconds = int(self.lock_timeout.total_seconds() * 1000)

        @event.listens_for(engine, "connect")
        def prepare(connection: Any, _record: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SET TIME ZONE 'UTC'")
                cursor.execute(f"SET lock_timeout = {milliseconds}")
                # A holder that is stopped in the middle must not hold everyone else up for ever.
                cursor.execute(f"SET idle_in_transaction_session_timeout = {2 * milliseconds}")
            connection.commit()

        return engine

    def _open_sqlite(self) -> Engine:
        self.prepare_folder()
        engine = sqlalchemy.create_engine(self.url, hide_parameters=True, pool_size=2)
        milliseconds = int(self.lock_timeout.total_seconds() * 1000)

        @event.listens_for(engine, "connect")
        def prepare(connection: Any, _record: Any) -> None:
            connection.isolation_level = None  # the driver must not begin transactions by itself
            connection.execute(f"PRAGMA busy_timeout = {milliseconds}")
            connection.execute("PRAGMA foreign_keys = ON")
            # An intent must be on disk before the call it announces, also when the power goes.
            connection.execute("PRAGMA synchronous = FULL")

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            how = connection.get_execution_options().get("phoenix_begin", "DEFERRED")
            if how:
                connection.exec_driver_sql(f"BEGIN {how}")

        return engine

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            ours = _translate(str(self), error)
            if ours is None:
                raise
            raise ours from error
        except exc.StatementError as error:
            if isinstance(error.orig, PhoenixError):  # a value that a column type of ours refused
                raise error.orig from None
            raise
        except exc.TimeoutError as error:
            raise Unavailable(f"{self}: every connection of this process is in use.") from error


def parse_url(url: str) -> URL:
    """The URL with its driver named.

    :raises InvalidConfig: if it is not one of ours. The text itself is never repeated: it may hold a password.
    """
    wanted = "Write sqlite:////absolute/path/catalog.db or postgresql+psycopg2://user:password@host/database."
    try:
        parsed = sqlalchemy.make_url(url)
    except (exc.ArgumentError, ValueError):
        raise InvalidConfig("PHOENIX_CATALOG_URL is not a database URL.", remedy=wanted) from None
    if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg2"):
        return parsed.set(drivername="postgresql+psycopg2")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise InvalidConfig(f"The catalog cannot be kept in '{parsed.drivername}'.", remedy=wanted)
    if not parsed.database or not Path(parsed.database).is_absolute():
        raise InvalidConfig(
            "The catalog's SQLite file needs an absolute path: it must outlive the process and be the same file "
            "wherever a task runs.",
            remedy=wanted,
        )
    return parsed


def _translate(where: str, error: exc.DBAPIError) -> PhoenixError | None:
    """Our error for the database's, or None for those that only a mistake of ours can cause."""
    if isinstance(error.orig, sqlite3.Error):
        return _translate_sqlite(where, error.orig)
    code = getattr(error.orig, "pgcode", None)
    if code is None and isinstance(error, exc.OperationalError):
        return _translate_connecting(where, str(error.orig).strip())
    return _translate_postgres(where, str(code or ""), str(error.orig).strip())


def _translate_sqlite(where: str, error: sqlite3.Error) -> PhoenixError | None:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Unavailable(f"{where}: another process has held the catalog for too long.")
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return Unavailable(f"{where}: {error}.", remedy="Look at the disk: is it full or failing?")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")):
        return InvalidConfig(
            f"{where}: {error}.",
            remedy="Make the file and its folder writable for this user, or point PHOENIX_CATALOG_URL elsewhere.",
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return PermanentError(f"{where}: {error}.", remedy="Restore the catalog from a backup.")
    if "no such table" in str(error) or "no such column" in str(error):
        return InvalidConfig(f"{where}: the catalog's tables are missing or old: {error}.", remedy=_MIGRATE)
    return None


def _translate_connecting(where: str, message: str) -> PhoenixError:
    if "authentication failed" in message or "no password supplied" in message:
        return AuthenticationFailed(f"{where}: {message}", remedy="Correct user and password in PHOENIX_CATALOG_URL.")
    if "does not exist" in message:
        return InvalidConfig(f"{where}: {message}", remedy="Create it, or correct PHOENIX_CATALOG_URL.")
    return Unavailable(f"{where}: {message}")


_POSTGRES: tuple[tuple[tuple[str, ...], type[PhoenixError], str], ...] = (
    # PostgreSQL's documentation, appendix A: error codes by class.
    (("42P01", "42703", "3F000"), InvalidConfig, _MIGRATE),
    (("42501",), InvalidConfig, "Grant the rights, or use another user in PHOENIX_CATALOG_URL."),
    (("28",), AuthenticationFailed, "Correct user and password in PHOENIX_CATALOG_URL."),
    (("3D",), InvalidConfig, "Create the database, or correct PHOENIX_CATALOG_URL."),
    (("08", "25006", "25P03", "40", "53", "55P03", "57", "58"), Unavailable, ""),
)


def _translate_postgres(where: str, code: str, message: str) -> PhoenixError | None:
    for prefixes, kind, remedy in _POSTGRES:
        if code.startswith(prefixes):
            return kind(f"{where}: {message}", remedy=remedy)
    return None
