"""What a balancer still knows of instances that are gone: taken out by the reaper, once they are gone for certain."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from phoenix_fleet.domain.errors import InUse, NotOurs, PhoenixError
from phoenix_fleet.domain.fleets import Observed
from phoenix_fleet.domain.models import Backend, InstanceState
from phoenix_fleet.rollout import gone
from phoenix_fleet.rollout.progress import plain
from phoenix_fleet.rollout.replacement import Identity

if TYPE_CHECKING:
    from phoenix_fleet.balancers.base import Balancer
    from phoenix_fleet.catalog.records import IntentRecord
    from phoenix_fleet.rollout.reaping import Reaper


class Spared(Exception):
    """Something is left alone for now, and why."""


def forget(reaper: Reaper, seen: Observed, before: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Have the balancer forget what is gone for certain and what nobody else will tell it of.

    That is what a cancelled rollout had told to terminate, and what was put into a slot and then died by itself.
    Returns since when each of those has been missing, for the next run, and the error that ended this, if any.

    :param seen: the fleet, as it was just listed.
    :param before: what the run before returned.
    """
    missing: dict[str, str] = {}
    if reaper.balancer is None:
        return missing, ""
    for intent in _lost(reaper, seen):
        kept = before.get(intent.target)
        since = datetime.fromisoformat(kept) if kept else None
        machine = Identity(intent.target, **intent.params)
        try:
            look = gone.look(
                reaper.platform, reaper.fleet, machine.id, missing_since=since, seen=True, now=reaper.clock.now()
            )
            if look.missing_since is not None:
                missing[machine.id] = look.missing_since.isoformat()
            if look.gone:
                _forget(reaper, machine, intent.purpose, reaper.balancer)
        except (Spared, NotOurs) as why:
            reaper.log(f"{machine.name}: the balancer still knows it: {why}")
        except PhoenixError as error:
            return missing, f"{machine.name}: {plain(error)}"
    return missing, ""


def _lost(reaper: Reaper, seen: Observed) -> list[IntentRecord]:
    """By what each of them was last told to serve, or to terminate."""
    store = reaper.catalog.reaping
    living = {each.id for each in seen.instances if each.state is not InstanceState.GONE}
    dead = set(store.placed(reaper.fleet).values()) - living
    told = {each.target: each for each in [*store.admitted(dead), *store.cut_short(reaper.fleet)]}
    return list(told.values())


def _forget(reaper: Reaper, machine: Identity, purpose: str, balancer: Balancer) -> None:
    instance = machine.as_gone(reaper.fleet)
    if balancer.state(instance).state is Backend.ABSENT:
        return
    try:
        reaper.act("remove", machine, purpose, "gone, and left at the balancer", lambda: balancer.remove(instance))
    except InUse as error:
        raise Spared(plain(error)) from error
