"""The pacer at work on one rollout: its verdict before the first replacement, its pace, its forecasts and alarms.

What was found when the rollout opened is kept as its event ``rollout.verdict``; each forecast is a
``rollout.forecast``, and each time that the owners were told of a change a ``rollout.alarm``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any

from phoenix_fleet import drivers
from phoenix_fleet.catalog.records import RolloutRecord, RolloutState
from phoenix_fleet.config import Fleet
from phoenix_fleet.domain.errors import Refused
from phoenix_fleet.domain.feasibility import Verdict, assess
from phoenix_fleet.domain.fleets import FleetShape, Plan, PlannedSlot
from phoenix_fleet.domain.pacing import (
    MOST_DUES,
    Forecast,
    Limits,
    Outlook,
    Pace,
    Quota,
    Todo,
    find_pace,
    forecast,
    groups_of,
    is_alarming,
    steps,
)
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.domain.windows import Window
from phoenix_fleet.rollout.durations import durations_of
from phoenix_fleet.rollout.planning import calendar_of, shape_of
from phoenix_fleet.rollout.progress import DeadlineAlarm

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog

VERDICT, FORECAST, ALARM = "rollout.verdict", "rollout.forecast", "rollout.alarm"
RUNBOOK = "docs/runbooks/rollout-deadline-at-risk.md"
FRESH = timedelta(minutes=1)
"""A pace and a forecast are good for so long while nothing happens."""


def limits_of(fleet: Fleet, quota: Quota | None = None) -> Limits:
    """What bounds the speed of a rollout of that fleet; ``quota`` is what its platform's driver says."""
    if quota is None:
        quota = Quota() if fleet.workload else drivers.load("platforms", fleet.runs_on.name).limits
    budget = shape_of(fleet).budget
    return Limits(fleet.max_in_flight, budget.max_surge or budget.max_unavailable, fleet.quota.over(quota))


def budget_key(fleet: Fleet) -> str:
    """How the fleet file calls the budget that replacements come out of."""
    return "max_surge" if shape_of(fleet).budget.max_surge else "max_unavailable"


def deadline_of(fleet: Fleet, window: Window, now: datetime) -> datetime | None:
    """When a rollout for that refresh window must be done; None if that is past, as for one that is made up for."""
    deadline = window.end if fleet.deadline is None else window.start + fleet.deadline
    return deadline if deadline > now else None


def outlook_of_plan(
    catalog: Catalog, fleet: Fleet, plan: Plan, window: Window, now: datetime, deadline: datetime | None = None
) -> Outlook:
    """What the pacer decides by before a rollout of that plan opens.

    :param deadline: the rollout's own, as an emergency has one; None: what the fleet's file says.

    Machines that are too old already set no deadline: nothing can meet it any more.
    """
    shape = shape_of(fleet)
    todo = [Todo((each.wave, _domain(shape, each)), _due(shape, each, now)) for each in plan.slots]
    return Outlook(
        now=now,
        groups=groups_of(todo, one_first=not plan.up_to_date),
        durations=durations_of(catalog, fleet),
        limits=limits_of(fleet),
        calendar=calendar_of(fleet),
        deadline=deadline or deadline_of(fleet, window, now),
    )


def verdict_of_plan(
    catalog: Catalog, fleet: Fleet, plan: Plan, window: Window, now: datetime, deadline: datetime | None = None
) -> Verdict:
    """Whether a rollout of that plan would be done in time; ``deadline`` as in ``outlook_of_plan``."""
    return assess(outlook_of_plan(catalog, fleet, plan, window, now, deadline), budget_key=budget_key(fleet))


def check_feasible(fleet: Fleet, verdict: Verdict) -> None:
    """Return if the rollout may open.

    :raises Refused: it cannot be done in time, and the fleet's file says that it does not begin then.
    """
    if not verdict.feasible and fleet.when_late == "refuse":
        raise Refused(
            f"{fleet.name} cannot be refreshed in time: {'; '.join(verdict.lines())}.",
            remedy=f"Apply one of the cures, or let when_late be alarm. See {RUNBOOK}.",
        )


def record_verdict(
    catalog: Catalog, rollout: RolloutRecord, fleet: Fleet, plan: Plan, verdict: Verdict, now: datetime
) -> DeadlineAlarm | None:
    """Keep the verdict with the rollout; returns what the owners must be told of it, if anything.

    Safe to repeat: what was recorded first stays, and whoever was told is not told again.
    """
    pacer = Pacer(catalog, fleet, rollout)
    if pacer.opening is None:
        shape, end = shape_of(fleet), rollout.deadline or deadline_of(fleet, rollout.window, now)
        domains = [
            [len(list(members)), domain] for domain, members in groupby(_domain(shape, each) for each in plan.slots)
        ]
        dues = steps([_due(shape, each, now) for each in plan.slots], MOST_DUES)
        payload = {
            **_told(verdict.pace, verdict.forecast),
            "lines": verdict.lines(),
            "shortage": verdict.shortage,
            "cures": [str(cure) for cure in verdict.cures],
            "deadline": end.isoformat() if end else None,
            "dues": [[count, due.isoformat()] for count, due in dues],
            "domains": domains,
            "waived": [list(each) for each in plan.waived],
            "left": len(plan.slots),
            "alarm": False,
        }
        catalog.events.append(VERDICT, subject_of(rollout), rollout.actor, payload)
        pacer = Pacer(catalog, fleet, rollout)
    return pacer.alarm(now) if pacer.opening and pacer.opening["standing"] == "at risk" else None


class Pacer:
    """Paces one rollout. What it keeps in memory is only there to be quick."""

    def __init__(self, catalog: Catalog, fleet: Fleet, rollout: RolloutRecord, quota: Quota | None = None) -> None:
        self.catalog = catalog
        self.fleet = fleet
        self.rollout = rollout
        self._quota = quota
        event = catalog.events.last(subject_of(rollout), VERDICT)
        self.opening: Mapping[str, Any] | None = event.payload if event else None
        """The verdict as recorded; None for a rollout that was opened without one, and that nobody paces."""
        self._kept: tuple[datetime, Pace] | None = None
        self._looked: datetime | None = None

    def outlook(self, now: datetime) -> Outlook:
        """The rollout as the catalog has it now."""
        opening = self.opening or {}
        left = self.catalog.rollouts.left(self.rollout.id)
        under_way = {
            each.seq: now - each.began_at
            for each in self.catalog.rollouts.under_way(self.rollout.id)
            if each.began_at is not None and each.step not in (None, Step.CHECK)
        }
        # Those under way come first, as the pacer reckons; they are the first in the queue anyway.
        left.sort(key=lambda each: each[0] not in under_way)
        deadline = opening.get("deadline")
        return Outlook(
            now=now,
            groups=groups_of(_todo(left, opening), one_first=bool(opening) and len(left) == opening["left"]),
            durations=durations_of(self.catalog, self.fleet),
            limits=limits_of(self.fleet, self._quota),
            calendar=calendar_of(self.fleet),
            deadline=datetime.fromisoformat(deadline) if deadline else None,
            running=tuple(under_way.values()),
        )

    def pace(self, now: datetime) -> Pace | None:
        """How many replacements should be under way at once; None for a rollout that nobody paces."""
        if self.opening is None:
            return None
        if self._kept is None or not timedelta() <= now - self._kept[0] < FRESH:
            self._kept = now, find_pace(self.outlook(now))
        return self._kept[1]

    def after_one(self, now: datetime) -> DeadlineAlarm | None:
        """Record the forecast, now that another replacement is done; returns what the owners must be told, if any."""
        if self.opening is None:
            return None
        outlook = self.outlook(now)
        if not outlook.left:
            return None
        pace = find_pace(outlook)
        self._kept, self._looked = (now, pace), now
        told = {**_told(pace, forecast(outlook, pace.concurrency)), "left": outlook.left, "alarm": self._was_told()}
        self.catalog.events.append(FORECAST, subject_of(self.rollout), self.rollout.actor, told)
        return self._judge(outlook)

    def while_waiting(self, now: datetime) -> DeadlineAlarm | None:
        """What the owners must be told, looked at once in a while although nothing is done."""
        if self._looked is not None and timedelta() <= now - self._looked < FRESH:
            return None
        self._looked = now
        return self.alarm(now)

    def alarm(self, now: datetime) -> DeadlineAlarm | None:
        """What the owners must be told and have not been; None if nothing has changed."""
        return self._judge(self.outlook(now)) if self.opening is not None else None

    def told(self, alarm: DeadlineAlarm) -> None:
        """Remember that the owners were told."""
        payload = {"alarm": alarm.raised, "message": alarm.message}
        self.catalog.events.append(ALARM, subject_of(self.rollout), self.rollout.actor, payload)

    def _was_told(self) -> bool:
        last = self.catalog.events.last(subject_of(self.rollout), VERDICT, FORECAST, ALARM)
        return bool(last and last.payload["alarm"])

    def _judge(self, outlook: Outlook) -> DeadlineAlarm | None:
        was = self._was_told()
        raised = is_alarming(outlook, already=was)
        if raised == was:
            return None
        if not raised:
            return DeadlineAlarm(False, "the deadline is likely to be met again")
        verdict = assess(outlook, budget_key=budget_key(self.fleet))
        return DeadlineAlarm(True, f"{outlook.left} replacements are left: {'; '.join(verdict.lines())}")


def forecast_of(catalog: Catalog, rollout: RolloutRecord, fleet: Fleet, now: datetime) -> dict[str, Any] | None:
    """How the rollout will end as things stand, as plain data; None once it is closed, or if nobody paces it."""
    if rollout.state not in (RolloutState.OPEN, RolloutState.HALTED):
        return None
    pacer = Pacer(catalog, fleet, rollout)
    if pacer.opening is None:
        return None
    outlook = pacer.outlook(now)
    pace = find_pace(outlook)
    told = _told(pace, forecast(outlook, pace.concurrency))
    return {**told, "deadline": pacer.opening["deadline"], "left": outlook.left}


def subject_of(rollout: RolloutRecord) -> str:
    """The rollout as the subject of events."""
    return f"fleets/{rollout.fleet}/rollouts/{rollout.id}"


def _told(pace: Pace, found: Forecast) -> dict[str, Any]:
    return {
        "pace": pace.concurrency,
        "reason": pace.reason,
        "standing": found.standing,
        "finish_p50": found.finish_p50.isoformat() if found.finish_p50 else None,
        "finish_p95": found.finish_p95.isoformat() if found.finish_p95 else None,
    }


def _due(shape: FleetShape, planned: PlannedSlot, now: datetime) -> datetime | None:
    due = planned.born + shape.max_age if planned.born else None
    return due if due is not None and due > now else None


def _domain(shape: FleetShape, planned: PlannedSlot) -> str:
    if shape.failure_domain == "none":
        return ""
    return planned.zone if shape.failure_domain == "zone" else f"{planned.zone}/{planned.host}"


def _todo(left: Sequence[tuple[int, int]], opening: Mapping[str, Any]) -> list[Todo]:
    """What is left, each with its wave, its failure domain and its due as they were when the rollout opened."""
    runs = [(int(count), str(domain)) for count, domain in opening.get("domains", [])]
    domains = [domain for count, domain in runs for _ in range(count)]
    found = [Todo((wave, domains[seq - 1] if seq <= len(domains) else "")) for seq, wave in left]
    for count, due in opening.get("dues", []):
        last = max((at for at, (seq, _) in enumerate(left) if seq <= count), default=None)
        if last is not None:
            found[last] = _sooner(found[last], datetime.fromisoformat(due))
    return found


def _sooner(todo: Todo, due: datetime) -> Todo:
    return Todo(todo.group, due if todo.due is None else min(due, todo.due))
