"""The rollout tasks: draw the plan, hand out a wave's slots, and close or report."""

from __future__ import annotations

import logging
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, task

from phoenix_fleet.airflow import world
from phoenix_fleet.airflow.orders import order_of
from phoenix_fleet.airflow.triggers import CatalogTrigger
from phoenix_fleet.catalog.records import REFRESH, Errand, QueueState, RolloutKind
from phoenix_fleet.domain.errors import Busy, PermanentError
from phoenix_fleet.domain.models import Image
from phoenix_fleet.domain.windows import Version

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog
    from phoenix_fleet.catalog.records import RolloutRecord
    from phoenix_fleet.config import Fleet
    from phoenix_fleet.domain.feasibility import Verdict
    from phoenix_fleet.domain.fleets import Plan
    from phoenix_fleet.rollout.deps import Deps

MAPPED_AT_MOST = 200
"""Task instances per wave: the grid stays readable and the scheduler quick; larger waves go in equal batches."""

Planned = dict[str, Any]
"""What ``plan`` hands on: ``{"rollout": id or None, "waves": {"0": ["web-01"], …}, "version": …}``."""


class PlanOperator(BaseOperator):
    """Draws the plan of a fleet's rollout and opens it in the catalog; a dry run only shows the plan."""

    def __init__(self, *, fleet: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fleet = fleet

    def execute(self, context: Any) -> Planned:
        """The plan, once it is this run's turn: while another run's rollout is open, it waits deferred."""
        catalog = world.catalog()
        try:
            return self._plan(catalog, context)
        except Busy as error:
            self.log.info("%s Waiting for one's turn.", error)
            arguments = {"fleet": self.fleet, "run": world.run_key(context)}
            self.defer(trigger=CatalogTrigger("fleet_is_free", arguments), method_name="execute_complete")
        except PermanentError:
            catalog.queue.leave(self.fleet, world.run_key(context))
            raise
        finally:
            catalog.close()

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Planned:
        """Try again: the fleet was seen free a moment ago."""
        return self.execute(context)

    def _plan(self, catalog: Catalog, context: Any) -> Planned:
        fleet, run = world.project().fleet(self.fleet), world.run_key(context)
        existing = catalog.rollouts.for_run(fleet.name, run)
        if existing is not None:
            planned = _planned(catalog, existing.id, str(existing.version))
        else:
            planned = self._begin(catalog, fleet, run, context)
        context["ti"].xcom_push(key="version", value=planned["version"])
        return planned

    def _begin(self, catalog: Catalog, fleet: Fleet, run: str, context: Any) -> Planned:
        order = order_of(catalog, fleet, context)
        version = order.image.version
        if not order.dry:
            place = catalog.queue.ask(fleet.name, run, version, order.errand.kind, whole=order.whole)
            if place.state is QueueState.SUPERSEDED:
                self.log.warning("Nothing is left to do for %s: %s.", place.version, place.note)
                return {"rollout": None, "waves": {}, "version": str(place.version)}
        return open_rollout(
            catalog, fleet, order.image, context,
            reason=order.reason, only=list(order.only), dry=order.dry, errand=order.errand,
        )  # fmt: skip


def open_rollout(
    catalog: Catalog,
    fleet: Fleet,
    image: Image,
    context: Any,
    *,
    reason: str,
    only: list[str],
    dry: bool,
    one_wave: bool = False,
    supersede: bool = False,
    errand: Errand = REFRESH,
) -> Planned:
    """Look at the fleet, plan, log every slot with its reason, and open the rollout unless it is a dry run."""
    from dataclasses import replace

    from phoenix_fleet.rollout.deps import deps_for
    from phoenix_fleet.rollout.pacing import check_feasible, verdict_of_plan
    from phoenix_fleet.rollout.planning import rehearse, unhindered

    existing = catalog.rollouts.for_run(fleet.name, world.run_key(context))
    if existing is not None and is_judged(catalog, existing):
        return _planned(catalog, existing.id, str(existing.version))
    if errand.kind is not RolloutKind.REFRESH:
        fleet = unhindered(fleet)
    deps = deps_for(
        world.project(), fleet, catalog, world.connections, log=world.log.info, workdir=world.workdir(context)
    )
    plan, now = _drawn(deps, fleet, image, only, errand), deps.clock.now()
    if (checked := rehearse(deps, fleet, image, plan)) > 0:
        world.log.info(
            "%d of %d changes were checked by their platform, which would accept them.", checked, len(plan.slots)
        )
    deadline = now + errand.deadline_in if errand.deadline_in else None
    verdict = verdict_of_plan(catalog, fleet, plan, world.window_of(context), now, deadline)
    for slot, why in plan.waived:
        world.log.warning("%s stays: %s", slot, why)
    for slot, why in plan.up_to_date:
        world.log.info("%s stays: %s", slot, why)
    for entry in plan.slots:
        world.log.info("%s in wave %s: %s", entry.slot, entry.wave, entry.reason)
    for line in verdict.lines() if plan.slots else ():
        world.log.log(logging.INFO if verdict.feasible else logging.WARNING, "%s", line)
    if dry:
        world.log.info("Dry run: %d of %d slots would be replaced; nothing was touched.", len(plan.slots), fleet.size)
        return {"rollout": None, "waves": {}, "version": str(image.version)}
    if existing is None:
        check_feasible(fleet, verdict)
    slots = [replace(entry, wave=0) for entry in plan.slots] if one_wave else list(plan.slots)
    rollout = catalog.rollouts.open(
        fleet.name,
        fleet.family,
        image.version,
        world.window_of(context),
        world.run_key(context),
        slots,
        settings=fleet.model_dump(mode="json"),
        actor=world.actor_of(context),
        reason=reason,
        supersede=supersede,
        errand=errand,
    )
    announce(catalog, rollout, fleet, plan, verdict, context)
    return _planned(catalog, rollout.id, str(rollout.version))


def _drawn(deps: Deps, fleet: Fleet, image: Image, only: list[str], errand: Errand) -> Plan:
    """The plan; a rollback's and an emergency's are about nothing but what they go away from."""
    from phoenix_fleet.domain.fleets import Plan
    from phoenix_fleet.rollout.planning import draw_plan, slots_on

    if errand.kind is RolloutKind.EMERGENCY and errand.undone is not None:
        only = slots_on(deps, fleet, errand.undone)
    if errand.kind is not RolloutKind.REFRESH and not only:
        world.log.info("Nothing in %s runs %s.", fleet.name, errand.undone)
        return Plan()
    return draw_plan(deps, fleet, image, only=only, undone=errand.undone, force=errand.forced)


def is_judged(catalog: Catalog, rollout: RolloutRecord) -> bool:
    """Whether its verdict is recorded; otherwise whoever opened it died right after that."""
    from phoenix_fleet.rollout.pacing import VERDICT, subject_of

    return catalog.events.last(subject_of(rollout), VERDICT) is not None


def announce(
    catalog: Catalog, rollout: RolloutRecord, fleet: Fleet, plan: Plan, verdict: Verdict, context: Any
) -> None:
    """Record the verdict, and call the owners before the first replacement if it is negative."""
    from phoenix_fleet.airflow import notify
    from phoenix_fleet.rollout.pacing import Pacer, record_verdict

    alarm = record_verdict(catalog, rollout, fleet, plan, verdict, datetime.now(UTC))
    if alarm is not None:
        link = getattr(context.get("ti"), "log_url", "") or ""
        notify.tell(fleet.owners, notify.deadline_alert(fleet, alarm, link))
        Pacer(catalog, fleet, rollout).told(alarm)


def _planned(catalog: Catalog, rollout_id: int, version: str) -> Planned:
    waves: dict[str, list[str]] = {}
    for slot in catalog.rollouts.slots(rollout_id):
        waves.setdefault(str(slot.wave), []).append(slot.slot)
    return {"rollout": rollout_id, "waves": waves, "version": version}


@task(trigger_rule="none_failed")
def slots_of_wave(planned: Planned, wave: int) -> list[dict[str, Any]]:
    """The wave's machines as batches for the mapped task: one machine each, or equal batches of very large waves.

    Each says all that its task must know, so that no task fetches the plan of the whole fleet.
    """
    planned = planned or {"rollout": None, "waves": {}}
    return [{"rollout": planned["rollout"], **batch} for batch in batches(planned["waves"].get(str(wave), []))]


def batches(slots: list[str]) -> list[dict[str, Any]]:
    """At most ``MAPPED_AT_MOST`` batches with a label for the grid.

    The last one also takes what was put back to the end meanwhile (drain policy ``later``).

    >>> batches(["web-01", "web-02"])
    [{'label': 'web-01', 'count': 1, 'last': False}, {'label': 'web-02', 'count': 1, 'last': True}]
    """
    size = max(1, math.ceil(len(slots) / MAPPED_AT_MOST))
    found = []
    for start in range(0, len(slots), size):
        part = slots[start : start + size]
        label = part[0] if len(part) == 1 else f"{part[0]}…{part[-1]}"
        found.append({"label": label, "count": len(part), "last": start + size >= len(slots)})
    return found


@task(retries=0)
def open_staging(fleet: str, candidate: dict[str, str], **context: Any) -> Planned:
    """Open the staging fleet's rollout to the candidate; a rehearsal that an earlier candidate broke is superseded."""
    catalog = world.catalog()
    try:
        staging = world.project().fleet(fleet)
        image = catalog.images.get(candidate["family"], Version.parse(candidate["version"]))
        reason = f"staging {image}"
        return open_rollout(
            catalog, staging, image, context, reason=reason, only=[], dry=False, one_wave=True, supersede=True
        )
    finally:
        catalog.close()


@task
def close_rollout(planned: Planned, **context: Any) -> str:
    """Complete the rollout once every slot is done, and write its report; returns the report's path.

    :raises Refused: if a slot is not done.
    """
    if not planned or planned.get("rollout") is None:
        world.log.info("A dry run leaves nothing to close.")
        return ""
    catalog = world.catalog()
    try:
        catalog.rollouts.complete(int(planned["rollout"]))
        return write_report(catalog, int(planned["rollout"]))
    finally:
        catalog.close()


@task(trigger_rule="one_failed", retries=0)
def report_halt(fleet: str, planned: Planned, **context: Any) -> str:
    """Write the report of a halted rollout and say how to go on."""
    if not planned or planned.get("rollout") is None:
        return ""
    catalog = world.catalog()
    try:
        rollout = catalog.rollouts.get(int(planned["rollout"]))
        world.log.error(
            "Rollout %s of %s is %s: %s at %s: %s", rollout.id, fleet, rollout.state, rollout.halted_slot,
            rollout.halted_step, rollout.halted_reason,
        )  # fmt: skip
        world.log.error(
            "To go on: DAG `operate` (resume, with a reason) or `phoenix resume %s`, then clear only failed tasks of "
            "this run. See docs/runbooks/rollout-halted.md",
            fleet,
        )
        return write_report(catalog, rollout.id)
    finally:
        catalog.close()


def write_report(catalog: Catalog, rollout_id: int) -> str:
    """Render the rollout's report into the reports folder; returns its path."""
    from phoenix_fleet.evidence.report import write

    return str(write(catalog, rollout_id))
