"""A private PostgreSQL server for tests: its own data in a temporary folder, a free port, gone afterwards.

A conftest makes the fixtures its own with ``from tests.postgres import postgres_server, postgres_url``.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from sqlalchemy import URL

WATCHER = "phoenix-watcher"
"""Application name of sessions that only watch: ``cut`` spares them."""


class PostgresServer:
    """One server. Over its socket anyone may come in; over loopback only with a password, so both can be tested."""

    def __init__(self) -> None:
        self.programs = _programs()
        self.home = Path(tempfile.mkdtemp(prefix="phoenix-pg-"))
        self.data = self.home / "data"
        self.port = _free_port()
        self._user = _unprivileged_user(self.home)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Make the data folder the first time, start, and return once it answers."""
        if not self.data.exists():
            self._run("initdb", "-D", str(self.data), "-U", "phoenix", "-A", "trust", "--no-sync", "-E", "UTF8")
            (self.data / "pg_hba.conf").write_text("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.home,
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": 60,
            "shared_buffers": "16MB",
        }
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        log = (self.home / "log").open("ab")
        self._process = subprocess.Popen(
            [self.programs / "postgres", "-D", self.data, *arguments],
            stdout=log,
            stderr=log,
            cwd=self.home,
            user=self._user,
        )
        log.close()
        self._await()

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """Stop it, cutting its connections; the data stays."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=30)
            self._process = None

    def remove(self) -> None:
        """Stop it and remove everything."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def url(self, database: str, **changes: object) -> str:
        """URL of one of its databases, over the socket unless told otherwise."""
        url = URL.create(
            "postgresql+psycopg2",
            username="phoenix",
            database=database,
            query={"host": str(self.home), "port": str(self.port)},
        )
        return url.set(**changes).render_as_string(hide_password=False)  # type: ignore[arg-type]

    def create_database(self, template: str = "template1") -> str:
        """The name of a new database, a copy of the template."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    def drop_database(self, name: str) -> None:
        """Drop it, cutting its connections."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run one statement as the superuser, outside a transaction."""
        self.rows(statement, database)

    def rows(self, statement: str, database: str = "postgres", **values: object) -> list[tuple[Any, ...]]:
        """What one statement gives, run as the superuser outside a transaction; none if it gives nothing."""
        connection = psycopg2.connect(
            host=str(self.home), port=self.port, user="phoenix", dbname=database, application_name=WATCHER
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, values or None)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def cut(self, *databases: str) -> int:
        """End every session of these databases but those of whoever watches; how many there were."""
        ended = self.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ANY(%(databases)s)"
            " AND application_name <> %(watcher)s",
            databases=list(databases),
            watcher=WATCHER,
        )
        return len(ended)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self.programs / program, *arguments], cwd=self.home, user=self._user, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()

    def _await(self) -> None:
        assert self._process is not None
        give_up = time.monotonic() + 30
        while True:
            try:
                self.execute("SELECT 1")
            except psycopg2.OperationalError:
                ended = self._process.poll()
                assert ended is None, (self.home / "log").read_text()
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.05)
            else:
                return


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server for the whole session."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """URL of an empty database, dropped afterwards."""
    name = postgres_server.create_database()
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    if not found and not on_path:
        pytest.fail("There is no PostgreSQL server to test with: apt-get install postgresql")
    return found[-1].parent if found else Path(str(on_path)).parent


def _unprivileged_user(home: Path) -> str | None:
    """PostgreSQL refuses to run as root, so root lends it another name and the folder."""
    if os.geteuid() != 0:
        return None
    import pwd

    known = {entry.pw_name for entry in pwd.getpwall()}
    user = "postgres" if "postgres" in known else "nobody"
    shutil.chown(home, user)
    return user


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
