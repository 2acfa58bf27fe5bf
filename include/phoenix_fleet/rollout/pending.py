"""Intents whose caller died or whose reply was lost, so that nobody knows what came of them: settled by looking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phoenix_fleet.domain.models import Backend, InstanceState
from phoenix_fleet.rollout import moving
from phoenix_fleet.rollout.replacement import Identity, Replacement

if TYPE_CHECKING:
    from phoenix_fleet.catalog.records import IntentRecord, Outcome

_SHOWS = {
    "admit": (Backend.STARTING, Backend.HEALTHY, Backend.UNHEALTHY),
    "drain": (Backend.DRAINING, Backend.ABSENT),
    "remove": (Backend.ABSENT,),
}
"""What the balancer says of an instance once that call was made."""


def settle(work: Replacement) -> None:
    """Give every open intent of this slot the outcome that can be seen now, also those of a rollout that was cancelled.

    The step that made the call comes again anyway and looks for itself; this closes the record. What remains unknown
    is looked at again for as long as its own rollout is at it.
    """
    intents = work.deps.catalog.intents
    for intent in intents.unsettled(work.fleet.name, work.name):
        if intent.outcome is not None and intent.purpose != work.rollout.purpose:
            continue
        outcome, seen = _seen(work, intent)
        if intent.outcome != outcome:
            work.say(f"{intent.action} {_target(intent)} was not settled: {seen}")
            intents.outcome(intent.id, outcome, {"seen_later": seen})


def settle_gone(work: Replacement, machine: Identity) -> None:
    """Close the record of terminations of what is gone for certain now."""
    intents = work.deps.catalog.intents
    for intent in intents.unsettled(work.fleet.name, work.name):
        if (intent.action, intent.target) == ("terminate", machine.id):
            intents.outcome(intent.id, "done", {"seen_later": "the instance is gone"})


def _seen(work: Replacement, intent: IntentRecord) -> tuple[Outcome, str]:
    if intent.action in moving.ACTIONS:
        return moving.seen(work, intent)
    if intent.action == "launch":
        for each in work.deps.platform.list_instances(work.fleet.name):
            if each.token == intent.token:
                return "done", f"{each.name} is {each.state}"
        return "unknown", "no such instance is to be seen"
    instance = work.see(intent.target)
    if intent.action == "terminate":
        if instance is None:
            return "unknown", "the instance is not to be seen"
        going = instance.state in (InstanceState.STOPPING, InstanceState.GONE)
        return ("done" if going else "unknown"), f"the instance is {instance.state}"
    if instance is None:
        instance = Identity(intent.target, **intent.params).as_gone(work.fleet.name)
    said = work.status(instance).state
    return ("done" if said in _SHOWS.get(intent.action, ()) else "unknown"), f"the balancer says {said}"


def _target(intent: IntentRecord) -> str:
    return str(intent.params.get("name") or intent.target)
