"""A real Airflow on PostgreSQL over the project on fakes: its components as processes that a test may kill.

It is the lab's Airflow (``lab/airflow.py``) with another database, with settings from ``include/airflow.env``, and
with the times that decide when a dead component is noticed set short, so that a test need not wait for minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil

from lab.airflow import USERS, Airflow
from lab.api import ENDED, AirflowApi
from lab.places import REPOSITORY, Places
from lab.processes import Processes
from lab.settings import HOST, Overrides, choose_port
from phoenix_fleet.catalog import Catalog
from tests.postgres import PostgresServer

T = TypeVar("T")
HERE = Path(__file__).parent
PATIENCE = 240.0
"""Seconds until a test gives up waiting: for a machine that is busy with other things too, not a figure."""
LEASE_SECONDS = 8
NOTICED_SOON = {
    "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "12",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
    "PHOENIX_LEASE_SECONDS": str(LEASE_SECONDS),
}


class Api(AirflowApi):
    """One user's session, with what only these tests do to Airflow."""

    def __init__(self, url: str, user: str, password: str) -> None:
        super().__init__(url, user, password)
        self._client.timeout = PATIENCE  # on a busy machine any answer may take long

    def state(self, dag_id: str, run_id: str) -> str:
        """A run's state."""
        return str(self.run(dag_id, run_id)["state"])

    def wait(self, dag_id: str, run_id: str) -> str:
        """The state that the run ended in."""
        return until(lambda: self.state(dag_id, run_id) in ENDED and self.state(dag_id, run_id), f"{dag_id} to end")

    def task(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """One task instance; empty while there is none."""
        found = (each for each in self.tasks(dag_id, run_id) if each["task_id"] == task_id)
        return next((each for each in found if each["map_index"] == map_index), {})

    def states(self, dag_id: str, run_id: str, task_id: str) -> list[str]:
        """States of a task's instances, by map index."""
        found = [each for each in self.tasks(dag_id, run_id) if each["task_id"] == task_id]
        return [str(each["state"]) for each in sorted(found, key=lambda each: int(each["map_index"]))]

    def clear_failed(self, dag_id: str, run_id: str) -> None:
        """What the UI's "Clear run, only failed" does."""
        self.send("POST", f"dags/{dag_id}/dagRuns/{run_id}/clear", {"dry_run": False, "only_failed": True})

    def clear(self, task: Mapping[str, Any]) -> None:
        """Clear one task instance, whatever it is at."""
        body = {
            "dry_run": False,
            "only_failed": False,
            "dag_run_id": task["dag_run_id"],
            "task_ids": [[task["task_id"], task["map_index"]] if task["map_index"] >= 0 else task["task_id"]],
            "reset_dag_runs": True,
        }
        self.send("POST", f"dags/{task['dag_id']}/clearTaskInstances", body)

    def mark_failed(self, task: Mapping[str, Any]) -> None:
        """Set one task instance's state to failed, whatever it is at."""
        path = f"dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}"
        self.send("PATCH", f"{path}/{task['map_index']}", {"new_state": "failed"})

    def words(self, task: Mapping[str, Any]) -> str:
        """Everything that the log of the last try says, errors with their messages."""
        return json.dumps(self.log(task))


class PostgresAirflow(Airflow):
    """The lab's Airflow on a PostgreSQL server, with the catalog beside it in a database of its own."""

    def __init__(self, server: PostgresServer, places: Places, processes: Processes, overrides: Overrides) -> None:
        super().__init__(places, processes, overrides)
        self.server, self.processes = server, processes
        self._orphaned: list[psutil.Process] = []
        """Children of components that were killed: idle workers and the server of logs outlive a scheduler."""
        server.execute("ALTER USER phoenix PASSWORD 'phoenix'")
        self.metadata, self.catalog_database = (server.create_database() for _ in range(2))
        # As docs/tuning.md asks for.
        server.execute(f"ALTER DATABASE \"{self.metadata}\" SET idle_in_transaction_session_timeout = '30s'")
        airflow, self.catalog_url = (
            server.url(name, host=HOST, port=server.port, password="phoenix", query={})
            for name in (self.metadata, self.catalog_database)
        )
        overrides.values |= {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": airflow,
            "PHOENIX_CATALOG_URL": self.catalog_url,
            # The local settings that a stack may add to lie in the first folder, and the project's own in the second.
            "PYTHONPATH": os.pathsep.join(
                [
                    str(places.airflow_home / "config"),
                    str(REPOSITORY / "include"),
                    str(REPOSITORY),
                    os.environ.get("PYTHONPATH", ""),
                ]
            ),
        }

    def kill(self, component: str) -> None:
        """SIGKILL to that component's own process and no other: what it has started lives on."""
        pid = self.processes.pid(f"airflow-{component}")
        assert pid is not None, f"{component} does not run"
        self.orphan(pid)
        os.kill(pid, signal.SIGKILL)

    def freeze_in_transaction(self, component: str) -> None:
        """SIGSTOP to that component in the middle of a transaction.

        Killed there, its workers hold the session open: they have inherited its socket, and its locks live on.
        """
        pid = self.processes.pid(f"airflow-{component}")
        assert pid is not None, f"{component} does not run"
        until(lambda: self._is_frozen_in_transaction(pid), f"{component} to be in a transaction")

    def _is_frozen_in_transaction(self, pid: int) -> bool:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.05)  # what the server was asked is answered by then
        own = {each.laddr.port for each in psutil.Process(pid).net_connections() if each.laddr}
        query = "SELECT client_port FROM pg_stat_activity WHERE datname = %(name)s AND state = 'idle in transaction'"
        if own & {port for (port,) in self.server.rows(query, name=self.metadata)}:
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    def orphan(self, pid: int) -> None:
        """Remember what this component has started, before it is killed: it lives on without anybody's record."""
        self._orphaned += psutil.Process(pid).children(recursive=True)

    def revive(self, component: str) -> None:
        """Start that component again, unless it runs."""
        environment = self.environment()
        argv = [sys.executable, "-m", "airflow", component]
        self.processes.start(f"airflow-{component}", argv, env=environment, cwd=self._home)

    def end_orphans(self) -> None:
        """Kill what killed components have left behind."""
        for orphan in self._orphaned:
            with suppress(psutil.NoSuchProcess):
                for process in (*orphan.children(recursive=True), orphan):
                    process.kill()
        self._orphaned.clear()

    def drop_databases(self) -> None:
        """Drop both."""
        for name in (self.metadata, self.catalog_database):
            self.server.drop_database(name)

    def _choose_ports(self) -> None:
        # Never the usual ones: another Airflow of this machine may be about to take them.
        self._overrides.values["AIRFLOW__API__PORT"] = str(choose_port(0))
        port = self._overrides.values["AIRFLOW__API__PORT"]
        self._overrides.values |= {
            "AIRFLOW__API__HOST": HOST,
            "AIRFLOW__API__BASE_URL": f"http://{HOST}:{port}",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{HOST}:{port}/execution/",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(choose_port(0)),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(choose_port(0)),
        }

    def _make_database(self, environment: dict[str, str], log: Callable[[str], None]) -> None:
        for argv in (["db", "migrate"], ["dags", "reserialize"]):
            done = subprocess.run(
                [sys.executable, "-m", "airflow", *argv],
                env=environment,
                cwd=self._home,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr[-2000:]


class Stack(PostgresAirflow):
    """That Airflow over the project on fakes."""

    def __init__(self, server: PostgresServer, root: Path, include: Path, stand_in: str, **settings: str) -> None:
        places = Places(home=root / "lab", run=root / "run", cache=root / "cache")
        places.make()
        self.root, self.include = root, include
        self._stand_in = stand_in
        key = root / "id"
        key.with_suffix(".pub").write_text("ssh-ed25519 AAAA test\n")
        bundles = [
            {
                "name": name,
                "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
                "kwargs": {"path": str(path), "refresh_interval": 30},
            }
            for name, path in (("product", REPOSITORY / "dags"), ("plain", HERE / "plain_dags"))
        ]
        overrides = Overrides(places.home / "env")
        super().__init__(server, places, Processes(places.pids, places.logs), overrides)
        overrides.values |= {
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
            "AIRFLOW_CONN_PHOENIX_SSH": json.dumps({"conn_type": "generic", "extra": {"key_file": str(key)}}),
            "AIRFLOW_CONN_ALERTS_WEBHOOK": json.dumps({"conn_type": "http", "host": HOST, "port": 1}),
            "AIRFLOW_CONN_FRONT": json.dumps({"conn_type": "http", "host": HOST, "port": 1}),
            "PHOENIX_INCLUDE": str(include),
            "PHOENIX_TARGETS": "",  # the lab has Docker alone, and these are built for fakes
            **settings,
        }
        self.catalog = Catalog(self.catalog_url)
        self.catalog.migrate()
        self.user = self.approver = Api("", "", "")

    def up(self) -> None:
        """Start everything and log two people in."""
        self.start(lambda _: None)
        self._log_out()
        self.user, self.approver = (Api(self.url, name, self.password(name)) for name in USERS)
        self.user.login()
        self.approver.login()
        for dag in self.user.get("dags", limit=100)["dags"]:
            self.user.unpause(dag["dag_id"])

    def down(self) -> None:
        """End everything that it started, and drop its databases."""
        self._log_out()
        self.catalog.close()
        self.stop()
        self.end_orphans()
        self.processes.sweep()
        self.drop_databases()

    def kill(self, component: str) -> None:
        """SIGKILL to that component's own process; returns once it is gone."""
        super().kill(component)
        until(lambda: not self.processes.running(f"airflow-{component}"), f"{component} to be gone")

    def _log_out(self) -> None:
        self.user.close()
        self.approver.close()

    def _make_database(self, environment: dict[str, str], log: Callable[[str], None]) -> None:
        settings = self._home / "config" / "airflow_local_settings.py"
        settings.write_text(settings.read_text() + f"\nimport {self._stand_in} as own\n\nown.stand_in()\n")
        super()._make_database(environment, log)


def make_root() -> Path:
    """A folder of its own, short enough for sockets, to be removed by ``forget``."""
    return Path(tempfile.mkdtemp(prefix="phoenix-orch-"))


def forget(root: Path) -> None:
    """Remove that folder."""
    shutil.rmtree(root, ignore_errors=True)


def until(question: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """The first answer that is true."""
    give_up = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < give_up, f"waited for {what} for {seconds:.0f} s"
        time.sleep(0.2)
    return answer
