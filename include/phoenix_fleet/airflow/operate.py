"""What a named person does to a rollout or a release. Always by hand, always with a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Param, task

from phoenix_fleet.airflow import world
from phoenix_fleet.domain.errors import InvalidConfig, Refused
from phoenix_fleet.domain.windows import Version

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog
    from phoenix_fleet.config import Fleet

EXPLAINED = {
    "resume": "lifts a halt or a pause",
    "halt": "stops before the next step",
    "pause": "finishes what has begun and begins nothing new",
    "cancel": "ends the rollout as it stands",
    "rollback": "halts the last rollout, blocks its release, and starts the run that goes back",
    "revoke": "takes Release back everywhere, halts its rollouts, and starts the runs that get away from it",
    "unblock": "lets the fleet have Release again",
}
ACTIONS = tuple(EXPLAINED)


@dataclass(frozen=True)
class Act:
    """One act, with everything that its function needs."""

    catalog: Catalog
    fleet: Fleet
    release: str
    actor: str
    reason: str

    @property
    def version(self) -> Version:
        """The release that was named. :raises InvalidConfig: if none was."""
        if not self.release:
            raise InvalidConfig("This action needs a release.", remedy="Write a version such as 2026.11-1.")
        return Version.parse(self.release)

    @property
    def who(self) -> dict[str, str]:
        """Name and reason."""
        return {"actor": self.actor, "reason": self.reason}


def params(fleets: list[str]) -> dict[str, Param]:
    """The trigger form."""
    return {
        "fleet": Param(fleets[0] if fleets else "", type="string", enum=fleets or [""], title="Fleet"),
        "action": Param(
            "resume",
            type="string",
            enum=list(ACTIONS),
            title="Action",
            description="; ".join(f"{name} {does}" for name, does in EXPLAINED.items()) + ".",
        ),
        "release": Param(
            None,
            type=["null", "string"],
            pattern=r"^\d{4}\.(0[1-9]|1[0-2])-[1-9]\d*$",
            title="Release",
            description="For revoke and unblock: which. For rollback: where to, instead of what ran before.",
        ),
        "reason": Param("", type="string", title="Reason", description="Required; kept with your name."),
    }


@task(retries=0)
def act(**context: Any) -> str:
    """Do it, in the name of the user who triggered the run; returns what is to be done next.

    :raises Refused: if Airflow does not know who triggered it, or no reason is given.
    """
    with world.catalog() as catalog:
        doing = _act_of(catalog, context)
        action = context["params"]["action"]
        told = f"{action} of {doing.fleet.name} by {doing.actor}: {doing.reason}."
        told += _DO[action](doing)
    world.log.info(told)
    return told


@task(retries=0)
def runs(**context: Any) -> list[dict[str, Any]]:
    """The runs of fleet DAGs that the act asks for: which DAG, with which parameters."""
    with world.catalog() as catalog:
        doing = _act_of(catalog, context)
        reason = f"{doing.reason} (asked for by {doing.actor})"
        if context["params"]["action"] == "rollback":
            to = Version.parse(doing.release) if doing.release else None
            found = catalog.lifecycle.look_back(doing.fleet.name, to)
            conf = {"rollback_of": found.undoes, "release": str(found.version), "reason": reason}
            return [{"trigger_dag_id": f"fleet.{doing.fleet.name}", "conf": conf}]
    if context["params"]["action"] == "revoke":
        conf = {"emergency": doing.release, "reason": reason}
        return [{"trigger_dag_id": f"fleet.{name}", "conf": conf} for name in _family_fleets(doing.fleet)]
    return []


def start(found: Any) -> Any:
    """Start each of those runs; none, for an act that asks for none."""
    return TriggerDagRunOperator.partial(task_id="start", retries=0).expand_kwargs(found)


def _act_of(catalog: Catalog, context: Any) -> Act:
    params, person = context["params"], context["dag_run"].triggering_user_name
    if not person:
        raise Refused("Airflow does not say who triggered this run.", remedy="Trigger it from the UI or the API.")
    fleet = world.project().fleet(params["fleet"])
    return Act(catalog, fleet, params.get("release") or "", person, world.reason_of(context))


def _family_fleets(fleet: Fleet) -> list[str]:
    """Every fleet of that image family whose file can be read."""
    project = world.project()
    broken = project.broken()
    found = [project.load_fleet(path) for path in project.fleet_files() if path not in broken]
    return [each.name for each in found if each.family == fleet.family]


def _resume(doing: Act) -> str:
    doing.catalog.rollouts.resume(doing.fleet.name, **doing.who)
    return f" Now clear the failed tasks of the run of fleet.{doing.fleet.name} (Clear run, only failed)."


def _simply(name: str) -> Callable[[Act], str]:
    def do(doing: Act) -> str:
        getattr(doing.catalog.rollouts, name)(doing.fleet.name, **doing.who)
        return ""

    return do


def _rollback(doing: Act) -> str:
    to = Version.parse(doing.release) if doing.release else None
    found = doing.catalog.lifecycle.roll_back(doing.fleet.name, to=to, **doing.who)
    return f" {len(found.slots)} slots that {found.undone} reached are to run {found.version}."


def _revoke(doing: Act) -> str:
    image, halted = doing.catalog.lifecycle.revoke(doing.fleet.family, doing.version, **doing.who)
    return f" {image} is revoked; halted: {', '.join(halted) or 'nothing'}."


def _unblock(doing: Act) -> str:
    doing.catalog.blocks.lift(doing.fleet.name, doing.fleet.family, doing.version, **doing.who)
    return f" The next run of fleet.{doing.fleet.name} may bring {doing.version}."


_DO: dict[str, Callable[[Act], str]] = {
    "resume": _resume,
    **{name: _simply(name) for name in ("halt", "pause", "cancel")},
    "rollback": _rollback,
    "revoke": _revoke,
    "unblock": _unblock,
}
