"""The sensor of the house: it asks once on the worker, and waits deferred if the answer is no."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseOperator

from phoenix_fleet.airflow import orders, questions, world
from phoenix_fleet.airflow.triggers import CatalogTrigger
from phoenix_fleet.domain.ladder import Rung


class WaitFor(BaseOperator):
    """Succeeds once the catalog says yes to ``question``; returns what it said.

    Never in reschedule mode: Airflow 3.3 fails such sensors at random (apache/airflow#71172).
    """

    template_fields: Sequence[str] = ("subject",)

    def __init__(self, *, question: str, subject: dict[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if question not in questions.QUESTIONS:
            raise ValueError(f"There is no question '{question}': {', '.join(questions.QUESTIONS)}.")
        self.question = question
        self.subject = subject

    def execute(self, context: Any) -> str:
        """Ask; defer while the answer is no."""
        arguments = dict(self.subject)
        if self.question == "release_of_window" and orders.is_urgent(context):
            return "this run goes away from a release and waits for none"
        if self.question == "release_of_window":
            arguments["window"] = str(world.window_of(context))
        else:
            arguments["run"] = world.run_key(context)
        catalog = world.catalog()
        try:
            if self.question == "family_is_free":
                give_up_abandoned(catalog, arguments["family"], context)
            answered, message = questions.ask(catalog, self.question, arguments)
        finally:
            catalog.close()
        self.log.info("%s: %s", self.question, message)
        if not answered:
            self.defer(trigger=CatalogTrigger(self.question, arguments), method_name="execute_complete")
        return message

    def execute_complete(self, context: Any, event: dict[str, Any]) -> str:
        """Look again with one's own eyes: the event is a wake-up call, not a fact."""
        return self.execute(context)


def give_up_abandoned(catalog: Any, family: str, context: Any) -> None:
    """Reject a candidate whose own run has ended without releasing or rejecting it; nothing else would ever do so."""
    image = catalog.images.in_flight(family)
    if image is None or image.run == world.run_key(context) or "/" not in image.run:
        return
    dag_id, run_id = image.run.split("/", 1)
    state = str(context["ti"].get_dagrun_state(dag_id=dag_id, run_id=run_id))
    if state in ("success", "failed"):
        catalog.images.move(
            family,
            image.version,
            Rung.REJECTED,
            actor=world.actor_of(context),
            reason=f"its run {run_id} ended ({state}) without a decision; superseded by {world.run_key(context)}",
        )
