"""Airflow's REST API, as far as the demo and the tests need it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from lab.settings import Settings
from phoenix_fleet.domain.errors import TimedOut, Unavailable

COMPONENTS = ("metadatabase", "scheduler", "triggerer", "dag_processor")
ENDED = ("success", "failed")
PATIENCE = 120.0
"""Seconds for one answer: on a host that does much else, Airflow's server gets its turn late."""
READING = 3.0
"""Seconds that whoever answers takes to read the question."""
SETTLED_WITHIN = 60.0
"""Seconds after which an answer is tried although the task does not say that it waits."""


class AirflowApi:
    """One user's session."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url
        self.user = user
        self._password = password
        self._client = httpx.Client(base_url=url, timeout=PATIENCE)

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    def healthy(self) -> bool:
        """Whether every component says so. Needs no login."""
        try:
            health = self._client.get("/api/v2/monitor/health").raise_for_status().json()
        except (httpx.HTTPError, ValueError):
            return False
        return all((health.get(part) or {}).get("status") == "healthy" for part in COMPONENTS)

    def login(self) -> None:
        """Get a token; it lasts a day."""
        answer = self._client.post("/auth/token", json={"username": self.user, "password": self._password})
        self._client.headers["Authorization"] = f"Bearer {_checked(answer).json()['access_token']}"

    def get(self, path: str, **query: Any) -> Any:
        """The JSON at ``/api/v2/<path>``. :raises Unavailable: for any other answer than success."""
        return _checked(self._client.get(f"/api/v2/{path}", params=query)).json()

    def send(self, method: str, path: str, body: Any) -> Any:
        """The JSON answer to a change. :raises Unavailable: for any other answer than success."""
        return _checked(self._client.request(method, f"/api/v2/{path}", json=body)).json()

    def load(self, settings: Settings) -> None:
        """Connections, pools and variables, replacing those of the same names."""
        for kind, entities in (
            ("connections", [_connection(entry) for entry in settings.connections]),
            ("pools", [_pool(entry) for entry in settings.pools]),
            ("variables", [_variable(entry) for entry in settings.variables]),
        ):
            action = {"action": "create", "entities": entities, "action_on_existence": "overwrite"}
            answer = self.send("PATCH", kind, {"actions": [action]})
            if errors := (answer.get("create") or {}).get("errors"):
                raise Unavailable(f"Airflow did not take the {kind}: {errors}", remedy="See airflow_settings.yaml.")

    def wait_for_dags(self, dag_ids: Sequence[str], *, seconds: float) -> None:
        """Return once Airflow knows these DAGs.

        :raises TimedOut: if it does not in time, with the import errors if there are any.
        """
        deadline = time.monotonic() + seconds
        while missing := set(dag_ids) - {dag["dag_id"] for dag in self.get("dags", limit=100)["dags"]}:
            if time.monotonic() > deadline:
                errors = [error["stack_trace"][-2000:] for error in self.get("importErrors")["import_errors"]]
                raise TimedOut(
                    f"Airflow does not show {', '.join(sorted(missing))} after {seconds:.0f} s. " + "\n".join(errors),
                    remedy="Run `phoenix validate`.",
                )
            time.sleep(0.3)

    def unpause(self, dag_id: str) -> None:
        """Let its runs go."""
        self.send("PATCH", f"dags/{dag_id}", {"is_paused": False})

    def trigger(self, dag_id: str, conf: Mapping[str, Any]) -> str:
        """Start a run with these parameters; returns its id."""
        answer = self.send("POST", f"dags/{dag_id}/dagRuns", {"logical_date": None, "conf": dict(conf)})
        return str(answer["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """One run."""
        return dict(self.get(f"dags/{dag_id}/dagRuns/{run_id}"))

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Every task instance of a run."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances", limit=100, offset=len(found))
            found += page["task_instances"]
            if not page["task_instances"] or len(found) >= page["total_entries"]:
                return found

    def questions(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """What waits for a person in that run: ``task_instance``, ``subject``, ``options``."""
        found = self.get(f"dags/{dag_id}/dagRuns/{run_id}/hitlDetails", response_received=False)["hitl_details"]
        return [dict(question) for question in found]

    def answer(self, task: Mapping[str, Any], option: str, reason: str) -> None:
        """Answer what a task asks a person, a moment after it has begun to wait: nobody reads faster.

        Airflow takes the end of the process that asked for the end of the task, and fails it, if the answer starts the
        next process before its scheduler has heard of that (``process_executor_events``).
        """
        started = time.monotonic()
        while self._state(task) != "awaiting_input" and time.monotonic() - started < SETTLED_WITHIN:
            time.sleep(0.5)
        time.sleep(READING)
        path = f"dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}/{task['map_index']}"
        self.send("PATCH", f"{path}/hitlDetails", {"chosen_options": [option], "params_input": {"comment": reason}})

    def _state(self, task: Mapping[str, Any]) -> str:
        path = f"dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}"
        single = path if task["map_index"] < 0 else f"{path}/{task['map_index']}"
        return str(self.get(single)["state"])

    def given_answer(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """What a person answered to a task: ``chosen_options``, ``responded_by_user``, ``params_input``."""
        path = f"dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}/{task['map_index']}"
        return dict(self.get(f"{path}/hitlDetails"))

    def log(self, task: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The events in the log of a task instance's last try."""
        path = f"dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}"
        answer = self.get(f"{path}/logs/{task['try_number']}", map_index=task["map_index"], full_content=True, offset=0)
        return [event for event in answer["content"] if isinstance(event, dict)]

    def page(self, task: Mapping[str, Any], tab: str = "") -> str:
        """The task instance's page in the UI."""
        base = f"{self.url}/dags/{task['dag_id']}/runs/{task['dag_run_id']}/tasks/{task['task_id']}"
        mapped = f"/mapped/{task['map_index']}" if task["map_index"] >= 0 else ""
        return f"{base}{mapped}/{tab}".rstrip("/")


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_success:
        return answer
    raise Unavailable(f"Airflow answers {answer.status_code} to {answer.request.url.path}: {answer.text[:500]}")


def _connection(entry: Mapping[str, Any]) -> dict[str, Any]:
    extra = entry.get("conn_extra") or {}
    return {
        "connection_id": entry["conn_id"],
        "conn_type": entry["conn_type"],
        "host": entry.get("conn_host") or None,
        "schema": entry.get("conn_schema") or None,
        "login": entry.get("conn_login") or None,
        "password": entry.get("conn_password") or None,
        "port": entry.get("conn_port") or None,
        "extra": extra if isinstance(extra, str) else json.dumps(extra),
    }


def _pool(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": entry["pool_name"],
        "slots": entry["pool_slot"],
        "description": entry.get("pool_description") or "",
        "include_deferred": False,
    }


def _variable(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"key": entry["variable_name"], "value": entry["variable_value"]}
