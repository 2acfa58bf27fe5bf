"""Gone for certain: what a platform no longer shows may still run, so absence must last and be seen twice."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from phoenix_fleet.domain.errors import NotFound
from phoenix_fleet.domain.models import Instance, InstanceState
from phoenix_fleet.platforms.base import Platform

MISSING_FOR = timedelta(seconds=3)
"""An instance that was seen before is gone when it is missing at two looks at least so far apart."""
UNSEEN_FOR = timedelta(minutes=6)
"""One that was never seen since its launch may yet turn up: platforms' listings lag by minutes (EC2's guide on
eventual consistency), so its absence has to last longer."""


@dataclass(frozen=True)
class Look:
    """What one look for an instance found."""

    gone: bool
    message: str
    missing_since: datetime | None = None
    """When it was first missing; to be handed to the next look. None if it is there."""
    instance: Instance | None = None
    """What is there."""


def look(
    platform: Platform, fleet: str, instance_id: str, *, missing_since: datetime | None, seen: bool, now: datetime
) -> Look:
    """Whether that instance is gone: in the platform's own words, or missing from both reads for long enough."""
    instance = _find(platform, fleet, instance_id)
    if instance is not None:
        gone = instance.state is InstanceState.GONE
        return Look(gone, f"{instance.name} is {instance.state}", instance=instance)
    if missing_since is None or missing_since > now:
        return Look(False, f"{instance_id} is not to be seen, which must last before it counts", now)
    gone = now - missing_since >= (MISSING_FOR if seen else UNSEEN_FOR)
    message = f"{instance_id} has not been seen since {missing_since:%H:%M:%S} UTC"
    return Look(gone, message, missing_since)


def see(platform: Platform, instance_id: str) -> Instance | None:
    """That instance, read now; None if it is not to be seen, which does not prove that it is gone."""
    try:
        return platform.get_instance(instance_id)
    except NotFound:
        return None


def _find(platform: Platform, fleet: str, instance_id: str) -> Instance | None:
    there = see(platform, instance_id)
    return there or next((each for each in platform.list_instances(fleet) if each.id == instance_id), None)
