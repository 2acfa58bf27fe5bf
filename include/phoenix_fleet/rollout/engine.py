"""The engine: it brings one replacement one step further, and halts the rollout when a step fails.

It never sleeps and keeps nothing in memory: what it must know is in the catalog, what is true it asks the platform
and the balancer, what may be done the planner decides. So any process with the ticket can go on from any point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from phoenix_fleet.config import Fleet, Project
from phoenix_fleet.connections import Connections
from phoenix_fleet.domain import planner
from phoenix_fleet.domain.errors import Blind, PermanentError, PhoenixError, Refused, StepFailed, TransientError
from phoenix_fleet.domain.models import Image
from phoenix_fleet.domain.planner import Target
from phoenix_fleet.domain.steps import Step, order
from phoenix_fleet.rollout import checking, coming_up, going_away, pending, quorum, undoing
from phoenix_fleet.rollout.deps import Deps, deps_for
from phoenix_fleet.rollout.eyes import watchful
from phoenix_fleet.rollout.pacing import Pacer
from phoenix_fleet.rollout.planning import frozen_fleet, look_at, shape_of
from phoenix_fleet.rollout.progress import (
    LATER,
    DeadlineAlarm,
    Failing,
    Finished,
    GivesWay,
    Moved,
    Progress,
    Result,
    Waiting,
    plain,
    runbook,
    words,
)
from phoenix_fleet.rollout.replacement import Replacement

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog
    from phoenix_fleet.catalog.records import RolloutRecord, SlotRecord, Ticket

STEPS: dict[Step, Callable[[Replacement], Result]] = {
    Step.CHECK: checking.check,
    Step.LAUNCH: coming_up.launch,
    Step.READY: coming_up.ready,
    Step.CONFIGURE: coming_up.configure,
    Step.VERIFY: coming_up.verify,
    Step.ADMIT: coming_up.admit,
    Step.WATCH: coming_up.watch,
    Step.DRAIN: going_away.drain,
    Step.TERMINATE: going_away.terminate,
}


def engine_for(
    project: Project,
    catalog: Catalog,
    connections: Connections,
    *,
    rollout_id: int,
    log: Callable[[str], None],
    workdir: Path,
) -> Engine:
    """The engine of a rollout, with the fleet as its file was when the rollout opened.

    :raises NotFound: there is no such rollout.
    :raises InvalidConfig: something that the fleet names is missing or wrong.
    """
    rollout = catalog.rollouts.get(rollout_id)
    fleet = frozen_fleet(rollout, project.fleet(rollout.fleet))
    image = catalog.images.get(rollout.family, rollout.version)
    return Engine(deps_for(project, fleet, catalog, connections, log=log, workdir=workdir), fleet, image, rollout)


class Engine:
    """Carries out the replacements of one rollout. Safe to make anew at any moment."""

    def __init__(self, deps: Deps, fleet: Fleet, image: Image, rollout: RolloutRecord) -> None:
        volumes = watchful(deps.volumes) if deps.volumes is not None else None
        self.deps = replace(deps, platform=watchful(deps.platform), balancer=watchful(deps.balancer), volumes=volumes)
        self.fleet = fleet
        self.image = image
        self.rollout = rollout
        self.pacer = Pacer(deps.catalog, fleet, rollout, deps.platform.limits)
        self._order = order(shape_of(fleet).budget.max_surge)

    def in_flight_limit(self) -> tuple[int, str]:
        """How many replacements may be under way at once now, for ``claim``, and why not more."""
        shape = shape_of(self.fleet)
        if shape.max_in_flight <= 1:
            return 1, "max_in_flight is 1"  # whatever the fleet looks like, so nobody needs to look
        try:
            seen = look_at(self.deps, self.fleet)
        except Blind as error:
            return 1, f"there is no complete view of the fleet: {plain(error)}"
        under_way = [each.slot for each in self.deps.catalog.rollouts.under_way(self.rollout.id)]
        most, why = planner.in_flight_limit(shape, Target(self.image.version), seen, under_way)
        pace = self.pacer.pace(self.deps.clock.now())
        return (pace.concurrency, pace.reason) if pace and pace.concurrency < most else (most, why)

    def advance(self, ticket: Ticket) -> Progress:
        """Perform the ticket's current step once and say where the replacement stands. Never sleeps.

        After a crash at any line, calling it again with a ticket for the same slot goes on from there.
        ``done`` is also said of a slot that was put back to the end of the queue (drain policy ``later``), or that
        gave way to one with nothing in service.

        :raises StepFailed: a step failed, the clean-up has ended and the rollout is halted.
        :raises Fenced: the ticket no longer holds; nothing was touched.
        :raises Halted: the rollout is halted; nothing was touched.
        :raises Unavailable: the catalog does not answer; nothing more was touched.
        """
        slot = self.deps.catalog.rollouts.holds(ticket)
        work = Replacement(self.deps, self.fleet, self.image, self.rollout, ticket, self._begin(ticket, slot))
        if work.facts.get("failing"):
            return self._clean_up(work)
        try:
            return self._look(work)
        except Failing as failing:
            return self._fail(work, failing)

    def _begin(self, ticket: Ticket, slot: SlotRecord) -> SlotRecord:
        """The slot as the catalog has it, with the step's clock running; at the first step if it begins anew."""
        rollouts = self.deps.catalog.rollouts
        this = slot.attempt + slot.postponed
        if slot.facts.get("round") != this:
            # What an earlier round noted is about machines that are gone.
            nothing = dict.fromkeys(slot.facts, None)
            rollouts.enter(ticket, Step.CHECK, new_instance="", facts={**nothing, "round": this})
        elif slot.step_started_at is None:
            rollouts.enter(ticket, slot.step or Step.CHECK)
        else:
            return slot
        return rollouts.slot(ticket.rollout_id, ticket.seq)

    def _look(self, work: Replacement) -> Progress:
        """Perform the step, if the fleet is to be seen; not seeing it takes nothing from the step's own time."""
        try:
            result = self._perform(work)
        except Blind as error:
            return self._blind(work, error)
        if work.facts.get("blind_since"):
            work.note(blind_since=None)
        return self._settle(work, result)

    def _blind(self, work: Replacement, error: Blind) -> Progress:
        since, limit = work.since("blind_since"), self.fleet.brake.blind_for
        if since is None:
            work.note(blind_since=work.now.isoformat())
        elif since >= limit:
            reason = f"our own view is broken: no complete view of {self.fleet.name} for {words(limit)}: {plain(error)}"
            raise Failing(reason, hands_off=True, alarm="blind")
        return Progress("waiting", work.step, plain(error), LATER)

    def _perform(self, work: Replacement) -> Result:
        try:
            pending.settle(work)
            result = quorum.remembered(work) or STEPS[work.step](work)
            if isinstance(result, Moved) and self._after(work.step) is None:
                return quorum.after(work, result)
            return result
        except (Refused, Blind):
            raise
        except TransientError as error:
            return Waiting(plain(error), LATER)
        except PermanentError as error:
            raise Failing(plain(error)) from error

    def _settle(self, work: Replacement, result: Result) -> Progress:
        """Write down what the step came to."""
        rollouts = self.deps.catalog.rollouts
        if isinstance(result, GivesWay):
            if rollouts.give_way(work.ticket, result.to, result.message):
                return Progress("done", work.step, f"gives way to {result.to}: {result.message}")
            result = Waiting(result.message, LATER)
        if isinstance(result, Waiting):
            limit = self._limit(work.step)
            if work.elapsed > limit and not result.patient:
                raise Failing(f"not done after {words(limit)}: {result.message}")
            # What holds up a replacement that has not begun is shown to whoever asks the catalog.
            facts = {**result.facts, **({"held": result.message} if work.step is Step.CHECK else {})}
            if any(work.facts.get(name) != value for name, value in facts.items()):
                work.note(**facts)
            alarm = self._watch_deadline(self.pacer.while_waiting, work)
            return Progress("waiting", work.step, result.message, result.check_after, alarm)
        if isinstance(result, Finished):
            work.note(not_needed=result.message)
        following = None if isinstance(result, Finished) else self._after(work.step)
        if following is None or isinstance(result, Finished):
            rollouts.finish(work.ticket)
            alarm = self._watch_deadline(self.pacer.after_one, work)
            return Progress("done", work.step, result.message, alarm=alarm)
        facts = {name: None for name in ("held", "held_until") if work.facts.get(name)} | dict(result.facts)
        if work.step is Step.CHECK:
            facts["began_at"] = work.now.isoformat()
        rollouts.enter(work.ticket, following, new_instance=result.new_instance, facts=facts)
        return Progress("moved", work.step, result.message)

    def _watch_deadline(
        self, look: Callable[[datetime], DeadlineAlarm | None], work: Replacement
    ) -> DeadlineAlarm | None:
        """What the owners must be told of the deadline; that it cannot be said stops nothing."""
        try:
            return look(work.now)
        except PhoenixError as error:
            work.say(f"no forecast: {plain(error)}")
            return None

    def _after(self, step: Step) -> Step | None:
        position = self._order.index(step) + 1
        return self._order[position] if position < len(self._order) else None

    def _limit(self, step: Step) -> timedelta:
        """How long a step may take altogether."""
        fleet, times = self.fleet, self.fleet.timeouts
        moving = times.volumes if self.deps.volumes is not None else timedelta()
        after_launch = moving + times.ready + times.configure + times.verify + times.admit + 3 * fleet.watch_time
        limits = {
            # What it waits for is another machine's replacement.
            Step.CHECK: after_launch + fleet.drain.limit + times.terminate + moving,
            Step.LAUNCH: times.ready + times.terminate + moving,
            Step.READY: times.ready + moving,
            Step.CONFIGURE: times.configure,
            Step.VERIFY: times.verify,
            Step.ADMIT: times.admit,
            Step.WATCH: 3 * fleet.watch_time + times.verify,
            Step.DRAIN: times.admit + fleet.drain.limit + times.terminate,
            Step.TERMINATE: times.terminate + moving,
        }
        return limits[step]

    def _fail(self, work: Replacement, failing: Failing) -> Progress:
        """Remember the failure, then begin to clean up.

        From the moment that the old instance was told to terminate until it is gone, nothing is undone: the new one
        is all that the slot has.
        """
        work.say(f"{work.step} failed: {failing.reason}")
        hands_off = failing.hands_off or self._is_going(work)
        work.note(
            failing={
                "reason": failing.reason,
                "hands_off": hands_off,
                "postpone": failing.postpone,
                "alarm": failing.alarm,
            },
            failed_at=work.now.isoformat(),
        )
        return self._clean_up(work)

    def _clean_up(self, work: Replacement) -> Progress:
        outcome = undoing.Undone() if work.facts["failing"]["hands_off"] else self._undo(work)
        if isinstance(outcome, Waiting):
            return Progress("waiting", work.step, f"cleaning up: {outcome.message}", outcome.check_after)
        return self._conclude(work, outcome)

    def _undo(self, work: Replacement) -> Waiting | undoing.Undone:
        times = self.fleet.timeouts
        try:
            pending.settle(work)
            outcome = undoing.undo(work)
        except Refused:
            raise
        except TransientError as error:
            outcome = Waiting(plain(error), LATER)
        except (Failing, PermanentError) as error:
            outcome = undoing.Undone(f"the clean-up stopped: {plain(error)}")
        limit = times.admit + self.fleet.drain.limit + times.terminate
        limit += times.volumes if self.deps.volumes is not None else timedelta()
        if isinstance(outcome, Waiting) and (work.since("failed_at") or timedelta()) > limit:
            return undoing.Undone(f"the clean-up did not end within {words(limit)}: {outcome.message}")
        return outcome

    def _is_going(self, work: Replacement) -> bool:
        """Also once all is done but that the quorum has to hold: retiring the new one would make that worse."""
        return (work.step is Step.TERMINATE and work.asked_to_terminate_old) or quorum.remembered(work) is not None

    def _conclude(self, work: Replacement, undone: undoing.Undone) -> Progress:
        failing = work.facts["failing"]
        reason = "; ".join(part for part in (failing["reason"], undone.note) if part)
        rollouts = self.deps.catalog.rollouts
        if failing["postpone"] and not undone.note:
            rollouts.postpone(work.ticket, reason)
            return Progress("done", work.step, f"put back to the end: {reason}")
        if self._is_going(work):
            # The old instance is on its way out and the new one serves: that is where to go on from.
            work.note(failing=None, failed_at=None, **quorum.anew(work))
            rollouts.fail(work.ticket, work.step, reason, resume_at=work.step)
        else:
            rollouts.fail(work.ticket, work.step, reason)
        machine = f"{work.name} ({work.new.name})" if work.new else work.name
        raise StepFailed(
            f"{machine}: {work.step} failed: {reason}.", remedy=f"See {runbook(work.step, failing.get('alarm') or '')}."
        )
