from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from phoenix_fleet.airflow import world
from phoenix_fleet.airflow.rollout import MAPPED_AT_MOST, batches, slots_of_wave
from phoenix_fleet.domain.errors import InvalidConfig, Refused, Unavailable


def context(kind: str = "manual", user: str | None = "ada", **params: Any) -> dict[str, Any]:
    run = SimpleNamespace(
        dag_id="fleet.web",
        run_id="manual__1",
        run_type=kind,
        run_after=datetime(2026, 11, 30, 23, 30, tzinfo=UTC),
        triggering_user_name=user,
    )
    return {"dag_run": run, "params": params}


def test_the_window_is_the_month_of_run_after() -> None:
    assert str(world.window_of(context("backfill"))) == "2026-11"


def test_the_window_parameter_wins() -> None:
    assert str(world.window_of(context(window="2026-09"))) == "2026-09"


def test_a_wrong_window_is_refused_with_the_remedy() -> None:
    with pytest.raises(InvalidConfig, match="YYYY-MM"):
        world.window_of(context(window="September"))


@pytest.mark.parametrize("reason", ["", "   ", None])
def test_a_manual_run_needs_a_reason(reason: str | None) -> None:
    with pytest.raises(Refused, match="without a reason"):
        world.reason_of(context(reason=reason))


@pytest.mark.parametrize(
    ("kind", "said"), [("scheduled", "scheduled refresh"), ("backfill", "backfill of a missed window")]
)
def test_other_runs_say_what_they_are(kind: str, said: str) -> None:
    assert world.reason_of(context(kind, reason="")) == said


def test_the_actor_is_the_person_or_airflow() -> None:
    assert world.actor_of(context()) == "ada"
    assert world.actor_of(context("scheduled", user=None)) == "airflow (scheduled)"


@pytest.mark.parametrize(
    ("slots", "tasks", "largest"), [(1, 1, 1), (4, 4, 1), (200, 200, 1), (201, 101, 2), (10_000, 200, 50)]
)
def test_batches_stay_few_and_equal(slots: int, tasks: int, largest: int) -> None:
    made = batches([f"web-{number:05d}" for number in range(slots)])
    assert len(made) == tasks <= MAPPED_AT_MOST
    assert sum(batch["count"] for batch in made) == slots
    assert max(batch["count"] for batch in made) == largest
    assert made[0]["label"].startswith("web-00000")


class Supervisor:
    """The other end of a task's questions."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def send(self, message: Any) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def said(kind: str, *, raised: bool) -> Any:
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
    from airflow.sdk.execution_time.comms import ErrorResponse

    response = ErrorResponse(error=ErrorType(kind))
    return AirflowRuntimeError(response) if raised else response


@pytest.mark.parametrize("raised", [True, False])
@pytest.mark.parametrize(
    ("kind", "error"),
    [("CONNECTION_NOT_FOUND", InvalidConfig), ("API_SERVER_ERROR", Unavailable), ("GENERIC_ERROR", Unavailable)],
)
def test_an_api_that_does_not_answer_is_no_missing_connection(
    monkeypatch: pytest.MonkeyPatch, kind: str, error: type[Exception], raised: bool
) -> None:
    from airflow.sdk.execution_time import task_runner

    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Supervisor(said(kind, raised=raised)), raising=False)
    with pytest.raises(error):
        world.connections("nobody_has_this")


def test_outside_a_task_a_missing_connection_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.execution_time import task_runner

    monkeypatch.delattr(task_runner, "SUPERVISOR_COMMS", raising=False)
    with pytest.raises(InvalidConfig, match="nobody_has_this"):
        world.connections("nobody_has_this")


def test_a_batch_says_all_that_its_task_must_know() -> None:
    planned = {"rollout": 7, "waves": {"0": ["web-01"], "1": ["web-02", "web-03"]}, "version": "2026.11-1"}
    assert slots_of_wave.function(planned, 1) == [
        {"rollout": 7, "label": "web-02", "count": 1, "last": False},
        {"rollout": 7, "label": "web-03", "count": 1, "last": True},
    ]


@pytest.mark.parametrize("planned", [None, {"rollout": None, "waves": {}, "version": "2026.11-1"}])
def test_a_dry_run_has_no_batches(planned: Any) -> None:
    assert slots_of_wave.function(planned, 0) == []
