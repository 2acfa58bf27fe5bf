"""The fleets that a fleet depends on: no replacement begins here while one of them is degraded."""

from __future__ import annotations

from phoenix_fleet.catalog.records import RolloutState
from phoenix_fleet.domain import planner
from phoenix_fleet.domain.errors import PhoenixError
from phoenix_fleet.rollout.deps import Deps, Neighbour
from phoenix_fleet.rollout.planning import observe, shape_of
from phoenix_fleet.rollout.progress import plain


def find_degraded(deps: Deps) -> str:
    """The first of them that is degraded, and why; empty if all are whole. What cannot be seen is not whole."""
    for neighbour in deps.neighbours:
        if why := _degraded(deps, neighbour):
            return f"the fleet {neighbour.fleet.name}, which this one depends on, is degraded: {why}"
    return ""


def _degraded(deps: Deps, neighbour: Neighbour) -> str:
    rollout = deps.catalog.rollouts.current(neighbour.fleet.name)
    if rollout is not None and rollout.state is RolloutState.HALTED:
        return f"its rollout {rollout.id} is halted: {rollout.halted_reason}"
    try:
        seen = observe(neighbour.platform, neighbour.balancer, neighbour.fleet.name)
    except PhoenixError as error:
        return f"it cannot be seen: {plain(error)}"
    decision = planner.check_whole(shape_of(neighbour.fleet), seen)
    return "" if decision.allowed else decision.reason
