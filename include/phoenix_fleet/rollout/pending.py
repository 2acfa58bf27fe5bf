"""Intents whose outcome nobody wrote down, because whoever made the call died: settled by looking at the world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phoenix_fleet.domain.models import InstanceState
from phoenix_fleet.rollout.replacement import Identity, Replacement

if TYPE_CHECKING:
    from phoenix_fleet.catalog.records import IntentRecord, Outcome


def settle(work: Replacement) -> None:
    """Give every open intent of this slot the outcome that can be seen now, also those of a rollout that was cancelled.

    The step that made the call comes again anyway and looks for itself; this closes the record.
    """
    intents = work.deps.catalog.intents
    for intent in intents.forsaken(work.fleet.name, work.name):
        outcome, seen = _seen(work, intent)
        work.say(f"{intent.action} {_target(intent)} was not settled: {seen}")
        intents.outcome(intent.id, outcome, {"seen_later": seen})


def _seen(work: Replacement, intent: IntentRecord) -> tuple[Outcome, str]:
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
    return "unknown", f"the balancer says {work.status(instance).state}"


def _target(intent: IntentRecord) -> str:
    return str(intent.params.get("name") or intent.target)
