"""What an auditor asks of a fleet every day, answered from what the platform says now; no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.domain.models import Instance, InstanceState
from phoenix_fleet.domain.windows import Version, Window


class Kind(StrEnum):
    """What can be found."""

    OUTDATED = "outdated"
    OVER_AGE = "over age"
    NEARLY_OVER_AGE = "nearly over age"
    EMPTY_SLOT = "empty slot"
    ORPHAN = "orphan"
    WINDOW_MISSED = "window missed"
    WAIVER_EXPIRED = "waiver expired"
    DEADLINE_AT_RISK = "deadline at risk"


@dataclass(frozen=True)
class Finding:
    """One thing that the owners should know of."""

    kind: Kind
    subject: str
    message: str


@dataclass(frozen=True)
class FleetFacts:
    """What the audit needs to know of a fleet."""

    name: str
    slots: Sequence[str]
    max_age: timedelta
    released: Version | None
    """The newest release of its family."""
    rolling: bool
    """Whether a rollout is open, so that two instances in a slot are expected."""
    waived: frozenset[str] = frozenset()
    """Slots with a waiver in force: what stands there may be outdated and too old."""


@dataclass(frozen=True)
class WaiverFacts:
    """A named, reasoned and expiring permission to leave a slot as it is."""

    slot: str
    ends: datetime
    terms: str
    """Who, why and until when, for people."""


ALIVE = (InstanceState.STARTING, InstanceState.RUNNING, InstanceState.STOPPING, InstanceState.FAILED)
THROWAWAY_LIMIT = timedelta(hours=2)
"""A throw-away instance older than this was left behind: the longest test takes minutes."""
NEARLY = 0.9


def audit_fleet(fleet: FleetFacts, instances: Sequence[Instance], now: datetime) -> list[Finding]:
    """Everything wrong with a fleet as listed, empty if nothing is."""
    alive = [instance for instance in instances if instance.state in ALIVE]
    taken = Counter(instance.slot for instance in alive)
    found = [Finding(Kind.EMPTY_SLOT, slot, "no instance fills it") for slot in fleet.slots if not taken[slot]]
    for instance in alive:
        if instance.slot not in fleet.slots:
            found.append(Finding(Kind.ORPHAN, instance.name, f"its slot '{instance.slot}' is not one of the fleet's"))
        elif taken[instance.slot] > 1 and not fleet.rolling:
            others = taken[instance.slot] - 1
            found.append(Finding(Kind.ORPHAN, instance.name, f"{others} more in slot {instance.slot}, and no rollout"))
        if instance.slot not in fleet.waived:
            found.extend(_age(fleet, instance, now))
    return found


def _age(fleet: FleetFacts, instance: Instance, now: datetime) -> list[Finding]:
    found = []
    if fleet.released is not None and _older(instance.version, fleet.released):
        message = f"runs {instance.version}, released is {fleet.released}"
        found.append(Finding(Kind.OUTDATED, instance.name, message))
    if instance.launched_at is not None:
        age = now - instance.launched_at
        if age > fleet.max_age:
            message = f"{age.days} days old, allowed are {fleet.max_age.days}"
            found.append(Finding(Kind.OVER_AGE, instance.name, message))
        elif age > fleet.max_age * NEARLY:
            message = f"{age.days} of {fleet.max_age.days} days old"
            found.append(Finding(Kind.NEARLY_OVER_AGE, instance.name, message))
    return found


def _older(version: str, released: Version) -> bool:
    try:
        return Version.parse(version) < released
    except InvalidConfig:
        return True  # a version that nobody can read is not a release


def audit_throwaways(instances: Sequence[Instance], now: datetime) -> list[Finding]:
    """Throw-away instances that were left behind."""
    return [
        Finding(Kind.ORPHAN, instance.name, f"a throw-away instance, {now - instance.launched_at} old")
        for instance in instances
        if instance.state in ALIVE and instance.launched_at and now - instance.launched_at > THROWAWAY_LIMIT
    ]


def audit_waivers(waivers: Sequence[WaiverFacts], now: datetime) -> tuple[list[str], list[Finding]]:
    """The waivers in force, a line each, and a finding for each that has expired and is still in the file."""
    told = [f"{each.slot}: {each.terms}" for each in waivers if now < each.ends]
    found = [
        Finding(Kind.WAIVER_EXPIRED, each.slot, f"{each.terms}; it has expired, so remove it from the file")
        for each in waivers
        if now >= each.ends
    ]
    return told, found


def audit_forecast(fleet: str, standing: str, finish: str) -> list[Finding]:
    """A finding if the rollout under way will be late.

    :param standing: the forecast's; empty if no rollout is under way.
    :param finish: when it will be done about, for people.
    """
    if standing != "at risk":
        return []
    return [Finding(Kind.DEADLINE_AT_RISK, fleet, f"its rollout will be late: done about {finish}")]


def audit_window(fleet: str, window: Window, met_at: datetime | None, now: datetime) -> tuple[str, list[Finding]]:
    """How a window stands (``open``, ``met``, ``met late``, ``missed``), and a finding if it was missed.

    :param met_at: when the fleet's rollout for that window, or a newer one, was complete; None if it never was.
    """
    if met_at is not None:
        return ("met" if met_at <= window.end else "met late"), []
    if now < window.end:
        return "open", []
    return "missed", [
        Finding(Kind.WINDOW_MISSED, fleet, f"window {window} ended {window.end:%Y-%m-%d} without a complete refresh")
    ]
