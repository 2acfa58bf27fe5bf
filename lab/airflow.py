"""A real Airflow on this machine: its components as processes of their own, on SQLite and LocalExecutor.

Not ``airflow standalone``: that leaves its children running when it is stopped.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from lab.api import AirflowApi
from lab.places import REPOSITORY, Places
from lab.processes import Processes
from lab.settings import HOST, Overrides, Settings, choose_port, read_environment
from phoenix_fleet.domain.errors import Unavailable

USERS = ("demo", "approver")
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
PORT = 8088
WORKER_LOGS, TRIGGERER_LOGS = 8793, 8794
SETTINGS = REPOSITORY / "airflow_settings.yaml"


class Airflow:
    """The lab's Airflow."""

    def __init__(self, places: Places, processes: Processes, overrides: Overrides) -> None:
        self._places, self._processes, self._overrides = places, processes, overrides
        self._home = places.airflow_home

    @property
    def url(self) -> str:
        """Where its UI and API answer."""
        return f"http://{HOST}:{self._overrides.values.get('AIRFLOW__API__PORT', PORT)}"

    @property
    def password_file(self) -> Path:
        """Airflow's own file of user names and passwords, for root alone."""
        return self._home / "simple_auth_manager_passwords.json"

    def password(self, user: str) -> str:
        """The generated password of one user."""
        return str(json.loads(self.password_file.read_text())[user])

    def api(self, user: str) -> AirflowApi:
        """A session of that user, logged in."""
        api = AirflowApi(self.url, user, self.password(user))
        api.login()
        return api

    def environment(self) -> dict[str, str]:
        """What every component runs with: ``include/airflow.env``, and what only this machine can say."""
        home = self._home
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        # Only what is ours: an AIRFLOW__ variable of the caller's shell would make another Airflow of it.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "PHOENIX"))}
        return {
            **inherited,
            **read_environment(REPOSITORY / "include" / "airflow.env"),
            "PATH": path,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{user}:admin" for user in USERS),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.password_file),
            # Seconds to wait for a writer: at five, SQLite's own, a busy machine told a backfill "database is locked".
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=60",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
            "PHOENIX_CATALOG_URL": self._places.catalog_url,
            "PHOENIX_ARTEFACTS": str(self._places.artefacts),
            "PHOENIX_REPORTS": str(self._places.reports),
            "PHOENIX_CACHE": str(self._places.cache),
            "PHOENIX_TARGETS": "docker",  # all that the lab has
            **_passed_on("PHOENIX_INCLUDE"),
            **self._overrides.values,
            **read_environment(home / "secrets.env"),
        }

    def start(self, log: Callable[[str], None]) -> None:
        """Bring it up and load ``airflow_settings.yaml``; returns when every component is healthy."""
        self._prepare()
        environment = self.environment()
        self._make_database(environment, log)
        log("Airflow: starting API server, scheduler, DAG processor and triggerer")
        for component in COMPONENTS:
            argv = [sys.executable, "-m", "airflow", component]
            self._processes.start(f"airflow-{component}", argv, env=environment, cwd=self._home)
        probe = AirflowApi(self.url, "", "")
        self._processes.wait_ready("airflow-api-server", probe.healthy, seconds=120)
        probe.close()
        api = self.api(USERS[0])
        api.load(Settings.read(SETTINGS))
        api.close()

    def stop(self) -> None:
        """End every component, killed after a grace: one of three clean stops of a scheduler hangs (3.3.2)."""
        self._processes.stop(*(f"airflow-{component}" for component in COMPONENTS), grace=8)

    def _prepare(self) -> None:
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self._home / "config").mkdir(exist_ok=True)
        source = REPOSITORY / "include" / "airflow_local_settings.py"
        shutil.copyfile(source, self._home / "config" / source.name)
        if not self.password_file.exists():
            _write_secret(self.password_file, json.dumps({user: secrets.token_urlsafe(12) for user in USERS}))
        if not (self._home / "secrets.env").exists():
            keys = {
                "AIRFLOW__CORE__FERNET_KEY": _fernet_key(),
                "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(32),
                "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(32),
            }
            _write_secret(self._home / "secrets.env", "".join(f"{key}={value}\n" for key, value in keys.items()))
        if not self._processes.running("airflow-api-server"):
            self._choose_ports()

    def _choose_ports(self) -> None:
        port = choose_port(PORT)
        self._overrides.values |= {
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__HOST": HOST,
            "AIRFLOW__API__BASE_URL": f"http://{HOST}:{port}",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{HOST}:{port}/execution/",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(choose_port(WORKER_LOGS)),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(choose_port(TRIGGERER_LOGS)),
        }
        self._overrides.write()

    def _make_database(self, environment: dict[str, str], log: Callable[[str], None]) -> None:
        """An empty, migrated database: made once for each version of Airflow, then copied from the cache."""
        database = self._home / "airflow.db"
        kept = self._places.cache / f"airflow-{version('apache-airflow-core')}.db"
        if database.exists():
            return
        if kept.exists():
            shutil.copyfile(kept, database)
            return
        log("Airflow: making its database")
        argv = [sys.executable, "-m", "airflow", "db", "migrate"]
        done = subprocess.run(argv, env=environment, cwd=self._home, capture_output=True, text=True, check=False)
        if done.returncode:
            database.unlink(missing_ok=True)
            raise Unavailable(f"Airflow could not make its database: {done.stderr[-1000:]}")
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(f"{kept}.new")) as copy:
            source.backup(copy)
        os.replace(f"{kept}.new", kept)


def _passed_on(*names: str) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def _fernet_key() -> str:
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()


def _write_secret(path: Path, text: str) -> None:
    with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)
