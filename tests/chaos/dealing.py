"""Deals blows to real processes and real sessions."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import psutil

from tests.chaos.blows import Act, Blow, Part
from tests.chaos.judging import Span
from tests.chaos.seeing import Records
from tests.orchestration.stack import PostgresAirflow

T = TypeVar("T")
_COMPONENTS = {
    Part.SCHEDULER: "scheduler",
    Part.HOST: "scheduler",
    Part.TRIGGERER: "triggerer",
    Part.DAG_PROCESSOR: "dag-processor",
    Part.API_SERVER: "api-server",
}
PATIENCE = 20.0
"""Seconds to wait for something to strike: between two tasks none runs."""


@dataclass(frozen=True)
class Dealt:
    """A blow that was dealt: what it hit, and from when to when it went on."""

    blow: Blow
    target: str
    span: Span


class Dealer:
    """Strikes one Airflow."""

    def __init__(self, airflow: PostgresAirflow, records: Records) -> None:
        self._airflow, self._records = airflow, records

    def deal(self, blow: Blow, run_id: str) -> Dealt | None:
        """The blow, dealt; None if there was nothing to strike."""
        if blow.act is Act.CUT:
            return self._cut(blow)
        if blow.part in (Part.TASK, Part.WORKER):
            target, pids = self._task(blow, run_id)
        else:
            target, pids = self._component(blow)
        if not pids:
            return None
        begin = datetime.now(UTC)
        if blow.act is Act.KILL:
            _signal(pids, signal.SIGKILL)
        else:
            _signal(pids, signal.SIGSTOP)
            try:
                time.sleep(blow.seconds)
            finally:
                _signal(pids, signal.SIGCONT)
        return Dealt(blow, target, Span(begin, datetime.now(UTC) if blow.act is Act.STOP else begin))

    def _cut(self, blow: Blow) -> Dealt | None:
        metadata, catalog = self._airflow.metadata, self._airflow.catalog_database
        databases = {Part.CATALOG: (catalog,), Part.AIRFLOW: (metadata,), Part.DATABASES: (metadata, catalog)}[
            blow.part
        ]
        begin = datetime.now(UTC)
        ended = _until(lambda: self._airflow.server.cut(*databases))
        return Dealt(blow, f"{ended} sessions", Span(begin, datetime.now(UTC))) if ended else None

    def _task(self, blow: Blow, run_id: str) -> tuple[str, list[int]]:
        """The newest running task's process, or the worker above it; a stop takes both, as when a machine freezes."""
        running = _until(lambda: [task for task in self._records.running(run_id) if psutil.pid_exists(task.pid)])
        with suppress(psutil.NoSuchProcess):
            for task in running or ():
                worker = psutil.Process(task.pid).ppid()
                if blow.part is Part.TASK:
                    return task.task_id, [task.pid]
                if worker > 1:
                    return task.task_id, [worker, *([task.pid] if blow.act is Act.STOP else [])]
        return "", []

    def _component(self, blow: Blow) -> tuple[str, list[int]]:
        component = _COMPONENTS[blow.part]
        pid = _until(lambda: self._airflow.processes.pid(f"airflow-{component}"))
        if pid is None:
            return component, []
        try:
            offspring = [child.pid for child in psutil.Process(pid).children(recursive=True)]
            if blow.act is Act.KILL and blow.part is not Part.HOST:
                self._airflow.orphan(pid)
        except psutil.NoSuchProcess:  # it had just ended by itself; the blow falls another time
            return component, []
        if blow.part is Part.HOST:
            return f"{component} and {len(offspring)} below it", [pid, *offspring]
        return component, [pid]


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _until(question: Callable[[], T]) -> T:
    """The first answer that is true, or the last one if none is in time."""
    give_up = time.monotonic() + PATIENCE
    while not (answer := question()) and time.monotonic() < give_up:
        time.sleep(0.1)
    return answer
