"""What is undone when a step has failed: the old instance gets back into service, the new one is retired.

The failure was remembered before any of this, so whoever goes on after a crash goes on here.
"""

from __future__ import annotations

from dataclasses import dataclass

from phoenix_fleet.domain import planner
from phoenix_fleet.domain.models import Backend, InstanceState
from phoenix_fleet.rollout import gone, retiring
from phoenix_fleet.rollout.progress import LATER, SOON, Waiting
from phoenix_fleet.rollout.replacement import Identity, Replacement


@dataclass(frozen=True)
class Undone:
    """The clean-up has come to its end."""

    note: str = ""
    """What could not be undone, or was left on purpose; empty if nothing."""


def undo(work: Replacement) -> Waiting | Undone:
    """One look at the clean-up; safe to repeat. Waiting while it goes on."""
    if waiting := _bring_back(work):
        return waiting
    if work.facts["failing"].get("alarm"):
        return Undone()  # the next one to look at this slot adopts or retires what stands there
    new = work.new
    if new is None:
        found = _find_launched(work)
        if isinstance(found, Waiting):
            return found
        if found is None:
            return Undone()
        work.note(new=found.facts())
        new = found
    if note := _needed(work, new):
        return Undone(note)
    waiting = retiring.retire(work, new, seen=bool(work.facts.get("seen")), cut_after=work.fleet.drain.limit)
    return waiting or Undone()


def _bring_back(work: Replacement) -> Waiting | None:
    """None once the old instance serves again, or there is nothing to bring back."""
    old = work.old
    if old is None or not work.has_balancer or not work.facts.get("drain_began") or work.asked_to_terminate_old:
        return None
    instance = work.see(old.id)
    if instance is None or instance.state is not InstanceState.RUNNING or old.difference(instance):
        return None
    status = work.status(instance)
    # Reads may lag behind: once it was told to drain, "healthy" says nothing until it was admitted after that.
    told_to_drain = work.facts.get("drain_asked") and not work.facts.get("readmitted")
    if status.state in (Backend.ABSENT, Backend.DRAINING) or told_to_drain:
        work.act("admit", old, lambda: work.deps.balancer.admit(instance))
        work.note(readmitted=True)
        return Waiting(f"{old.name} is admitted again", SOON)
    if status.state is Backend.HEALTHY or not work.facts.get("old_served"):
        return None
    if (work.since("failed_at") or work.elapsed) > work.fleet.timeouts.admit:
        return None
    return Waiting(f"{old.name} is {status.state} at the balancer", SOON)


def _find_launched(work: Replacement) -> Identity | Waiting | None:
    """The instance that this attempt launched without hearing of it; Waiting while it may yet turn up."""
    token = work.launch_intent().token
    asked = [
        intent
        for intent in work.deps.catalog.intents.list_intents(work.rollout.purpose)
        if intent.action == "launch" and intent.token == token
    ]
    if not asked:
        return None
    for instance in work.deps.platform.list_instances(work.fleet.name):
        if instance.token == token:
            return Identity.of(instance)
    if asked[-1].outcome == "failed" and not work.facts.get("launch_unanswered"):
        return None
    if work.lasting("launched unseen") < gone.UNSEEN_FOR:
        return Waiting("an instance whose launch was not answered may yet turn up", LATER)
    return None


def _needed(work: Replacement, new: Identity) -> str:
    """Why the new instance is left in service although its step failed; empty if it may go."""
    observed = work.observe()
    if not any(each.id == new.id for each in observed.serving):
        return ""
    decision = planner.may_take_out(work.shape, observed, new.id)
    return "" if decision.allowed else f"{new.name} is left in service: {decision.reason}"
