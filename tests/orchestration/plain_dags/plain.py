"""What Airflow does by itself: each DAG here would break a rolling replacement, so the product does none of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, BaseOperator, task, task_group
from airflow.triggers.base import StartTriggerArgs

ANSWER = {"response_timeout": timedelta(minutes=10)}


@task(max_active_tis_per_dagrun=1)
def fails_at_one(number: int) -> int:
    """Fails for number 1."""
    if number == 1:
        raise ValueError("number 1 fails")
    return number


@task
def after() -> None:
    """Something that comes later."""


with DAG(dag_id="plain.siblings", schedule=None, max_active_tasks=1) as siblings:
    fails_at_one.expand(number=[0, 1, 2])

with DAG(dag_id="plain.fail_fast", schedule=None, fail_fast=True, max_active_tasks=1) as fail_fast:
    fails_at_one.expand(number=[0, 1, 2]) >> after()

with DAG(dag_id="plain.groups", schedule=None) as groups:

    @task_group
    def replacement(number: int) -> None:
        """One machine's replacement in two steps."""

        @task(max_active_tis_per_dagrun=1)
        def drain(number: int) -> int:
            """Takes it out of service."""
            return number

        @task(max_active_tis_per_dagrun=1)
        def replace(number: int) -> int:
            """Brings the new one."""
            return number

        replace(drain(number))

    replacement.expand(number=[0, 1, 2])


class Waits(BaseOperator):
    """Starts in the triggerer, without a worker."""

    start_from_trigger = True
    start_trigger_args = StartTriggerArgs(
        trigger_cls="phoenix_fleet.airflow.triggers.PauseTrigger",
        trigger_kwargs={"seconds": 15},
        next_method="go_on",
        next_kwargs=None,
        timeout=None,
    )

    def __init__(self, *, number: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.number = number

    def execute(self, context: Any) -> None:
        """Never called."""

    def go_on(self, context: Any, event: Any) -> None:
        """Ends it."""


with DAG(dag_id="plain.start_from_trigger", schedule=None, max_active_tasks=1) as from_trigger:
    Waits.partial(task_id="wait", max_active_tis_per_dagrun=1).expand(number=[0, 1, 2, 3])

with DAG(dag_id="plain.approval", schedule=None) as approval:

    @task(trigger_rule="none_failed")
    def wave(number: int) -> None:
        """Would replace machines."""

    ApprovalOperator(task_id="approve", subject="Go on?", **ANSWER) >> wave(1) >> wave.override(task_id="wave_2")(2)
