"""What a task works with: the project's files, the catalog, connections, and who and when it is running for."""

from __future__ import annotations

import logging
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phoenix_fleet.config import Project
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import InvalidConfig, Refused, Unavailable
from phoenix_fleet.domain.windows import Window

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog

log = logging.getLogger("phoenix_fleet")

SCHEDULED_REASON = "scheduled refresh"
LABEL = "{{ label | default('') }}"
"""``map_index_template`` of mapped tasks: what ``mark`` called this instance."""


def mark(**marks: str) -> None:
    """Note in the running task's context what it is at: its label in the grid, the machine and step for alerts.

    A function of the TaskFlow API is handed a copy of the context, so what it writes there is lost.
    """
    from airflow.sdk import get_current_context

    get_current_context().update(marks)  # type: ignore[typeddict-item]


def project() -> Project:
    """The families and fleets of this deployment."""
    return Project.find()


def catalog() -> Catalog:
    """The catalog of this deployment, opened lazily. Imported here because parsing a DAG must not need it."""
    from phoenix_fleet.catalog import Catalog

    return Catalog.from_environment()


def connections(conn_id: str) -> Connection:
    """An Airflow connection in the drivers' terms; Airflow masks its password in logs from then on.

    :raises InvalidConfig: if Airflow has none of that id.
    :raises Unavailable: if Airflow's API does not answer.
    """
    from airflow.sdk import Connection as AirflowConnection
    from airflow.sdk.exceptions import AirflowRuntimeError
    from airflow.sdk.exceptions import AirflowNotFoundException  # isort: skip

    try:
        found = AirflowConnection.get(conn_id)
    except (AirflowNotFoundException, AirflowRuntimeError) as error:
        if not _is_absent(conn_id):
            raise Unavailable(f"Airflow's API gave no answer about the connection '{conn_id}'.") from error
        raise InvalidConfig(
            f"Airflow has no connection '{conn_id}': {error}",
            remedy="Add it in the UI under Admin, Connections, or in airflow_settings.yaml.",
        ) from None
    return Connection(
        id=conn_id,
        host=found.host or "",
        port=found.port,
        login=found.login or "",
        password=found.password or "",
        extra=found.extra_dejson,
    )


def _is_absent(conn_id: str) -> bool:
    """Whether Airflow's API says that there is no such connection.

    ``Connection.get`` says so too when the API does not answer at all (Airflow 3.3.2,
    ``sdk/execution_time/secrets/execution_api.py``), which must never be taken for a mistake in the configuration.
    """
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import ErrorResponse, GetConnection

    supervisor = getattr(task_runner, "SUPERVISOR_COMMS", None)
    if supervisor is None:
        return True  # outside a task there is no API to ask
    try:
        answer = supervisor.send(GetConnection(conn_id=conn_id))
    except AirflowRuntimeError as error:
        answer = error.error
    return isinstance(answer, ErrorResponse) and answer.error is ErrorType.CONNECTION_NOT_FOUND


def workdir(context: Any) -> Path:
    """A folder of this run's own where proof is kept (JUnit files, reports), below ``PHOENIX_ARTEFACTS``."""
    ti = context["ti"]
    base = Path(os.environ.get("PHOENIX_ARTEFACTS") or Path(tempfile.gettempdir()) / "phoenix-fleet")
    index = f"-{ti.map_index}" if ti.map_index is not None and ti.map_index >= 0 else ""
    parts = (ti.dag_id, ti.run_id, f"{ti.task_id}{index}", f"try-{ti.try_number}")
    folder = base.joinpath(*(_safe(part) for part in parts))
    folder.mkdir(parents=True, exist_ok=True, mode=0o750)
    return folder


def _safe(name: str) -> str:
    kept = "".join(char if char.isalnum() or char in "._-+" else "_" for char in name)
    return kept.lstrip(".") or "_"


def window_of(context: Any) -> Window:
    """The refresh window of a run: its parameter, or the month that ``run_after`` falls into.

    ``run_after`` alone is there and right for scheduled, manual and backfilled runs.

    :raises InvalidConfig: if the parameter is not ``YYYY-MM``.
    """
    given = (context.get("params") or {}).get("window")
    if given:
        return Window.parse(given)
    moment: datetime = context["dag_run"].run_after
    return Window.of(moment.astimezone(UTC))


def run_key(context: Any) -> str:
    """What names this run in the catalog: asking twice in the same run gives the same thing."""
    run = context["dag_run"]
    return f"{run.dag_id}/{run.run_id}"


def actor_of(context: Any) -> str:
    """Who set this run going: the user of a manual run, or Airflow itself for a schedule or a backfill."""
    run = context["dag_run"]
    return run.triggering_user_name or f"airflow ({_kind(run)})"


def reason_of(context: Any) -> str:
    """Why this run goes: what the person wrote; scheduled and backfilled runs say what they are.

    :raises Refused: for a manual run that gives no reason, because the reason is part of the record.
    """
    given = ((context.get("params") or {}).get("reason") or "").strip()
    run = context["dag_run"]
    if given:
        return given
    if _kind(run) == "manual":
        raise Refused(
            f"{run.dag_id} was triggered by hand without a reason.", remedy="Trigger it again and write the reason."
        )
    return SCHEDULED_REASON if _kind(run) == "scheduled" else f"{_kind(run)} of a missed window"


def _kind(run: Any) -> str:
    return str(getattr(run.run_type, "value", run.run_type))
