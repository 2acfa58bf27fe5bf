"""What gates that judge a watch as a whole are told: how long it was, and who served beside the new instance."""

from __future__ import annotations

from typing import Any

from phoenix_fleet.domain.models import Backend, Instance, InstanceState
from phoenix_fleet.rollout.deps import NamedGate
from phoenix_fleet.rollout.replacement import Replacement

MOST_BESIDE = 50
"""Old instances that are compared with; of more, as many that stand evenly among them all."""


def watching_gates(work: Replacement) -> tuple[NamedGate, ...]:
    """Those watch gates that judge the watch as a whole."""
    return tuple(named for named in work.deps.watch_gates if named.gate.watches)


def beside(work: Replacement) -> list[dict[str, str]]:
    """The instances of other versions that serve now, by name."""
    listed = [each for each in work.deps.platform.list_instances(work.fleet.name) if _is_old(work, each)]
    listed.sort(key=lambda each: each.name)
    every = -(-len(listed) // MOST_BESIDE) or 1
    return [
        {"id": each.id, "name": each.name, "address": each.address}
        for each in listed[::every]
        if work.status(each).state is Backend.HEALTHY
    ]


def facts_of(work: Replacement, since: str, served: list[dict[str, str]], *, over: bool) -> dict[str, Any]:
    """The watch so far. At its end only those count as beside it that served at its beginning and serve now."""
    facts = {"watched_from": since, "watched_until": work.now.isoformat(), "watch_over": over}
    if not over:
        return {**facts, "beside": served}
    still = {each["id"] for each in beside(work)}
    return {**facts, "beside": [each for each in served if each["id"] in still]}


def _is_old(work: Replacement, instance: Instance) -> bool:
    if work.fleet.workload and instance.slot == work.name:
        return False  # a revision that is rolled over only stands there because it could come back
    return instance.state is InstanceState.RUNNING and instance.version != str(work.image.version)
