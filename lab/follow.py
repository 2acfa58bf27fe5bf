"""Follows a run to its end: its stages as Airflow tells them, its machines as the catalog does, its questions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx

from lab.api import ENDED, AirflowApi
from lab.progress import Screen, Stage, stages
from phoenix_fleet.catalog.records import SlotRecord
from phoenix_fleet.domain.errors import TimedOut, Unavailable

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog

POLL = 1.0
PATIENCE = 1800.0
"""Seconds that a run may take without anything in it moving, unless it waits for a person."""


@dataclass(frozen=True)
class Run:
    """A run that has ended."""

    dag_id: str
    run_id: str
    state: str
    tasks: tuple[Mapping[str, Any], ...]

    @property
    def stages(self) -> list[Stage]:
        """Its stages."""
        return stages(self.tasks, datetime.now(UTC))

    @property
    def first_failure(self) -> Mapping[str, Any] | None:
        """The task instance that failed first; None if none did."""
        failed = [task for task in self.tasks if task["state"] == "failed"]
        return min(failed, key=lambda task: str(task["end_date"])) if failed else None


class Follower:
    """Watches runs for a demo."""

    def __init__(self, api: AirflowApi, catalog: Catalog, screen: Screen) -> None:
        self._api, self._catalog, self._screen = api, catalog, screen

    def follow(self, dag_id: str, run_id: str, *, fleet: str, ask: Callable[[Mapping[str, Any]], None]) -> Run:
        """The run once it has ended; ``ask`` gets each question that waits for a person, again while it waits.

        :raises TimedOut: if nothing moves for very long.
        """
        moved, before = time.monotonic(), ""
        while True:
            try:
                state = str(self._api.run(dag_id, run_id)["state"])
                tasks = self._api.tasks(dag_id, run_id)
                self._ask(dag_id, run_id, tasks, ask)
            except (httpx.HTTPError, Unavailable) as error:  # a busy API server; the run goes on without us
                state, tasks = str(error), []
            if tasks:
                self._show(dag_id, tasks, fleet)
            if state in ENDED:
                return Run(dag_id, run_id, state, tuple(tasks))
            now = f"{state} {[(task['task_id'], task['map_index'], task['state']) for task in tasks]}"
            if now != before or any(task["state"] == "awaiting_input" for task in tasks):
                moved, before = time.monotonic(), now
            if time.monotonic() - moved > PATIENCE:
                raise TimedOut(f"{dag_id} has not moved for {PATIENCE / 60:.0f} minutes: {now}")
            time.sleep(POLL)

    def _ask(
        self,
        dag_id: str,
        run_id: str,
        tasks: Sequence[Mapping[str, Any]],
        ask: Callable[[Mapping[str, Any]], None],
    ) -> None:
        if any(task["state"] == "awaiting_input" for task in tasks):
            for question in self._api.questions(dag_id, run_id):
                ask(question)

    def _show(self, dag_id: str, tasks: Sequence[Mapping[str, Any]], fleet: str) -> None:
        work = stages(tasks, datetime.now(UTC))
        self._screen.show(dag_id, work, self.machines(fleet, f"{dag_id}/"))

    def machines(self, fleet: str, run_prefix: str) -> list[SlotRecord]:
        """The replacements of the fleet's newest rollout, in order, if a run of that DAG has opened it."""
        found = self._catalog.rollouts.list_rollouts(fleet)
        if not found or not found[0].run.startswith(run_prefix):
            return []
        return list(self._catalog.rollouts.slots(found[0].id))
