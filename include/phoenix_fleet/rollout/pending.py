"""Intents whose caller died or whose reply was lost, so that nobody knows what came of them: settled by looking."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from phoenix_fleet.domain.errors import NotOurs, TransientError
from phoenix_fleet.domain.models import Backend, InstanceState
from phoenix_fleet.rollout import gone, moving
from phoenix_fleet.rollout.progress import plain
from phoenix_fleet.rollout.replacement import Identity, Replacement

if TYPE_CHECKING:
    from phoenix_fleet.balancers.base import Balancer
    from phoenix_fleet.catalog import Catalog
    from phoenix_fleet.catalog.records import IntentRecord, Outcome
    from phoenix_fleet.platforms.base import Platform, Volumes

_SHOWS = {
    "admit": (Backend.STARTING, Backend.HEALTHY, Backend.UNHEALTHY),
    "drain": (Backend.DRAINING, Backend.ABSENT),
    "remove": (Backend.ABSENT,),
}
"""What the balancer says of an instance once that call was made."""


class Drivers(Protocol):
    """What a call's effect is looked for with."""

    @property
    def platform(self) -> Platform:
        """Where the fleet's instances are."""
        ...

    @property
    def balancer(self) -> Balancer | None:
        """The fleet's, if traffic reaches it."""
        ...

    @property
    def volumes(self) -> Volumes | None:
        """The platform, if the fleet has data volumes there."""
        ...


def settle(work: Replacement) -> None:
    """Give every open intent of this slot the outcome that can be seen now, also those of a rollout that was cancelled.

    The step that made the call comes again anyway and looks for itself; this closes the record. What remains unknown
    is looked at again for as long as its own rollout is at it.
    """
    intents = work.deps.catalog.intents
    for intent in intents.unsettled(work.fleet.name, work.name):
        if intent.outcome is not None and intent.purpose != work.rollout.purpose:
            continue
        outcome, seen = _seen(work.deps, work.fleet.name, intent)
        if intent.outcome != outcome:
            work.say(f"{intent.action} {_target(intent)} was not settled: {seen}")
            intents.outcome(intent.id, outcome, {"seen_later": seen})


def settle_left(drivers: Drivers, catalog: Catalog, fleet: str, log: Callable[[str], None]) -> None:
    """The same for what cancelled rollouts of that fleet left without any outcome, in whatever slot.

    What cannot be looked at now stays open until the next time.
    """
    for intent in catalog.reaping.left_open(fleet):
        try:
            outcome, seen = _seen(drivers, fleet, intent)
        except TransientError:
            continue
        log(f"{intent.slot}: {intent.action} {_target(intent)} was not settled: {seen}")
        catalog.intents.outcome(intent.id, outcome, {"seen_later": seen})


def settle_gone(work: Replacement, machine: Identity) -> None:
    """Close the record of terminations of what is gone for certain now."""
    intents = work.deps.catalog.intents
    for intent in intents.unsettled(work.fleet.name, work.name):
        if (intent.action, intent.target) == ("terminate", machine.id):
            intents.outcome(intent.id, "done", {"seen_later": "the instance is gone"})


def _seen(drivers: Drivers, fleet: str, intent: IntentRecord) -> tuple[Outcome, str]:
    try:
        return _look(drivers, fleet, intent)
    except NotOurs as error:
        return "unknown", plain(error)  # nobody will ever tell us


def _look(drivers: Drivers, fleet: str, intent: IntentRecord) -> tuple[Outcome, str]:
    if intent.action in moving.ACTIONS:
        return moving.seen(drivers.volumes, drivers.platform, fleet, intent)
    if intent.action == "launch":
        for each in drivers.platform.list_instances(fleet):
            if each.token == intent.token:
                return "done", f"{each.name} is {each.state}"
        return "unknown", "no such instance is to be seen"
    instance = gone.see(drivers.platform, intent.target)
    if intent.action == "terminate":
        if instance is None:
            return "unknown", "the instance is not to be seen"
        going = instance.state in (InstanceState.STOPPING, InstanceState.GONE)
        return ("done" if going else "unknown"), f"the instance is {instance.state}"
    if drivers.balancer is None:
        return "unknown", "the fleet has no balancer any more"
    if instance is None:
        instance = Identity(intent.target, **intent.params).as_gone(fleet)
    said = drivers.balancer.state(instance).state
    return ("done" if said in _SHOWS.get(intent.action, ()) else "unknown"), f"the balancer says {said}"


def _target(intent: IntentRecord) -> str:
    return str(intent.params.get("name") or intent.target)
