"""What a campaign looks at: the engine's births and deaths as they happen, Airflow's own records, and what is left."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import docker

from lab.haproxy import servers
from phoenix_fleet.catalog import Catalog
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import PermanentError
from phoenix_fleet.platforms import _docker_view as view
from tests.chaos.judging import Births, Rest
from tests.chaos.world import DAG, FLEET, ChaosLab

_OF_THE_FLEET = f"{view.FLEET_MARK}={FLEET}"
_SLOT = "phoenix.slot"


class Watcher:
    """Follows the Docker engine's events about the fleet's containers, in a thread, from before the first blow."""

    def __init__(self, engine: Connection) -> None:
        self._api: Any = docker.APIClient(base_url=f"unix://{engine.host}", timeout=3600)
        self._thread = threading.Thread(target=self._follow, name="births", daemon=True)
        self._events: Any = None
        self.births = Births()

    def __enter__(self) -> Watcher:
        self._events = self._api.events(
            decode=True, filters={"type": "container", "label": _OF_THE_FLEET, "event": ["create", "destroy"]}
        )
        for summary in self._api.containers(all=True, filters={"label": [_OF_THE_FLEET]}):
            self.births.standing(summary["Id"])
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()
        self._thread.join(timeout=5)
        self._api.close()

    def _follow(self) -> None:
        for event in self._events:
            actor = event["Actor"]
            if event["Action"] == "create":
                self.births.born(actor["ID"], actor["Attributes"].get(view.TOKEN_MARK, ""))
            else:
                self.births.gone(actor["ID"])


@dataclass(frozen=True)
class Running:
    """A task that Airflow says is running."""

    task_id: str
    pid: int


class Records:
    """Airflow's records of the fleet's runs, read from its database, since its API is among what is struck."""

    def __init__(self, lab: ChaosLab) -> None:
        self._server, self._database = lab.server, lab.airflow.metadata

    def state(self, run_id: str) -> str:
        """A run's state."""
        query = "SELECT state FROM dag_run WHERE dag_id = %(dag)s AND run_id = %(run)s"
        rows = self._server.rows(query, self._database, dag=DAG, run=run_id)
        return str(rows[0][0]) if rows else ""

    def task_state(self, run_id: str, task_id: str) -> str:
        """An unmapped task's state."""
        query = "SELECT state FROM task_instance WHERE dag_id = %(dag)s AND run_id = %(run)s AND task_id = %(task)s"
        rows = self._server.rows(query, self._database, dag=DAG, run=run_id, task=task_id)
        return str(rows[0][0]) if rows else ""

    def running(self, run_id: str) -> list[Running]:
        """Its tasks that run, the newest first."""
        query = (
            "SELECT task_id, pid FROM task_instance WHERE dag_id = %(dag)s AND run_id = %(run)s"
            " AND state = 'running' AND pid IS NOT NULL ORDER BY start_date DESC"
        )
        return [Running(*row) for row in self._server.rows(query, self._database, dag=DAG, run=run_id)]

    def told(self, run_id: str) -> list[str]:
        """Every task with its state and try, for whoever has to find out why a run did not end well."""
        query = (
            "SELECT task_id, map_index, state, try_number, max_tries FROM task_instance"
            " WHERE dag_id = %(dag)s AND run_id = %(run)s ORDER BY start_date"
        )
        rows = self._server.rows(query, self._database, dag=DAG, run=run_id)
        return [f"{task} [{index}]: {state}, try {number} of {most + 1}" for task, index, state, number, most in rows]


def rest(lab: ChaosLab, catalog: Catalog, engine: Connection) -> Rest:
    """What there is now."""
    api: Any = docker.APIClient(base_url=f"unix://{engine.host}", timeout=60)
    try:
        found = api.containers(all=True, filters={"label": [_OF_THE_FLEET]})
    finally:
        api.close()
    containers: dict[str, list[str]] = {}
    for summary in found:
        containers.setdefault(summary["Labels"][_SLOT], []).append(view.name(summary))
    held = sum(len(catalog.rollouts.under_way(each.id)) for each in catalog.rollouts.list_rollouts(FLEET))
    return Rest(
        containers=containers,
        servers=servers(lab.services.control("haproxy_web"), FLEET),
        pending=len(catalog.intents.pending()),
        held=held,
        chain=_chain(catalog),
    )


def _chain(catalog: Catalog) -> str:
    try:
        catalog.events.verify()
    except PermanentError as error:
        return str(error)
    return ""
