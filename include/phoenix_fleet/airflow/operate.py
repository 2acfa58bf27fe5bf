"""What a named person does to a rollout: resume, halt, cancel. Always by hand, always with a reason."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param, task

from phoenix_fleet.airflow import world
from phoenix_fleet.domain.errors import Refused

ACTIONS = ("resume", "halt", "cancel")


def params(fleets: list[str]) -> dict[str, Param]:
    """The trigger form."""
    return {
        "fleet": Param(fleets[0] if fleets else "", type="string", enum=fleets or [""], title="Fleet"),
        "action": Param(
            "resume",
            type="string",
            enum=list(ACTIONS),
            title="Action",
            description="resume lifts a halt; halt stops before the next step; cancel ends the rollout as it stands.",
        ),
        "reason": Param("", type="string", title="Reason", description="Required; kept with your name."),
    }


@task(retries=0)
def act(**context: Any) -> str:
    """Do it, in the name of the user who triggered the run; returns what is to be done next.

    :raises Refused: if Airflow does not know who triggered it, or no reason is given.
    """
    params, person = context["params"], context["dag_run"].triggering_user_name
    if not person:
        raise Refused("Airflow does not say who triggered this run.", remedy="Trigger it from the UI or the API.")
    reason = world.reason_of(context)
    catalog = world.catalog()
    try:
        action = {name: getattr(catalog.rollouts, name) for name in ACTIONS}[params["action"]]
        action(params["fleet"], actor=person, reason=reason)
    finally:
        catalog.close()
    told = f"{params['action']} of {params['fleet']} by {person}: {reason}."
    if params["action"] == "resume":
        told += f" Now clear the failed tasks of the run of fleet.{params['fleet']} (Clear run, only failed)."
    world.log.info(told)
    return told
