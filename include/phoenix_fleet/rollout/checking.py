"""The first step: whether this replacement is still right, asked of the catalog and the world as they are now."""

from __future__ import annotations

from typing import Any

from phoenix_fleet.domain import planner
from phoenix_fleet.domain.errors import Blind
from phoenix_fleet.domain.fleets import Decision, Observed, SlotView, Target
from phoenix_fleet.domain.models import Backend, Instance, InstanceState
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.rollout import giving_way, moving, neighbours, quorum, rationing, retiring
from phoenix_fleet.rollout.planning import artefact_of, calendar_of, good_enough, target_of
from phoenix_fleet.rollout.progress import (
    LATER,
    LONG_PATIENCE,
    PATIENCE,
    SOON,
    Failing,
    Finished,
    Moved,
    Result,
    Waiting,
)
from phoenix_fleet.rollout.replacement import Identity, Replacement


def check(work: Replacement) -> Result:
    """Moved if the slot needs the new instance and may have it now; Finished if it needs none.

    Nothing is touched, but for instances left over in the slot, out of service, from attempts that came to no end.
    """
    work.deps.catalog.rollouts.may_begin(work.ticket)
    observed = work.observe()
    if work.facts.get("surplus"):
        return _retire_surplus(work, observed, Identity(**work.facts["surplus"]))
    check_image(work)
    if degraded := neighbours.find_degraded(work.deps):
        return Waiting(degraded, PATIENCE, {"held_until": work.now.isoformat()}, patient=True)
    if closed := _closed(work):
        return closed
    _check_listing(work, observed)
    target = target_of_slot(work)
    view = planner.view_slot(work.shape, work.name, target, observed, work.now)
    if view.refused:
        raise Failing(view.refused)
    if view.note:
        return Finished(f"up to date already: {view.note}")
    if view.surplus:
        left_over = Identity.of(view.surplus[0])
        work.note(surplus=left_over.facts())
        return _retire_surplus(work, observed, left_over)
    decision = planner.may_begin(work.shape, view, observed)
    if not decision.allowed:
        told = f"{view.old.name if view.old else work.name} has to stay for now: {decision.reason}"
        return giving_way.wait(work, observed, told)
    decision = _check_domain(work, view, observed)
    if not decision.allowed:
        return Waiting(decision.reason, LATER)
    if view.new is None and (rationed := rationing.find_rationed(work)):
        return rationed
    return quorum.before(work, observed, view.old) or _begin(work, view)


def target_of_slot(work: Replacement) -> Target:
    """What this slot is to be filled with, and what must not or need not go for it."""
    catalog, rollout = work.deps.catalog, work.rollout
    # Of a forced slot only what stood there when it was planned goes: what has come since is what was asked for.
    forced = [work.slot.old_instance] if rollout.forced else []
    returning = [catalog.rollouts.planned_old(rollout.undoes, work.name)] if rollout.undoes else []
    return target_of(catalog, work.fleet, work.image, undone=rollout.undone, forced=forced, returning=returning)


def _closed(work: Replacement) -> Waiting | None:
    """What to wait for while no replacement may begin: the maintenance window, or the end of a freeze."""
    calendar = calendar_of(work.fleet)
    why = calendar.why_closed(work.now)
    if not why:
        return None
    opens = calendar.next_open(work.now)
    pause = min(opens - work.now, LONG_PATIENCE) if opens else LONG_PATIENCE
    return Waiting(why, max(pause, SOON), {"held_until": work.now.isoformat()}, patient=True)


def _check_listing(work: Replacement, observed: Observed) -> None:
    """Return if the listing shows what was planned to go, or that has really gone meanwhile.

    :raises Blind: the platform still has the instance and leaves it out of its listing.
    """
    planned = work.slot.old_instance
    if not planned or observed.find(planned) is not None:
        return
    instance = work.see(planned)
    if instance is None or (instance.fleet, instance.slot) != (work.fleet.name, work.name):
        return  # somebody gave it to another fleet or slot: it is no part of this one any more
    if instance.state is not InstanceState.GONE:
        raise Blind(f"{instance.name} is {instance.state} and was left out of the listing of {work.fleet.name}.")


def _check_domain(work: Replacement, view: SlotView, observed: Observed) -> Decision:
    """Whether nothing is under way in another failure domain.

    Of two that stand at this step the one that drew its ticket first goes first, so that they never wait for each
    other; whoever has left this step is waited for in any case.
    """
    mine = _domain(view.old)
    if not any(mine):
        return Decision(True, "the platform reports no failure domain")
    others = [
        (each.slot, tuple(each.facts.get("domain") or _domain(next(iter(observed.in_slot(each.slot)), None))))
        for each in work.deps.catalog.rollouts.under_way(work.rollout.id)
        if each.seq != work.slot.seq and (each.token < work.ticket.token or each.step not in (None, Step.CHECK))
    ]
    return planner.check_domain(work.shape, mine, others)


def _domain(instance: Instance | None) -> tuple[str, str]:
    return (instance.zone, instance.host) if instance else ("", "")


def check_image(work: Replacement) -> None:
    """Return if the image may be launched now.

    It must be on the rung that the fleet requires, and by its digest the one that the rollout is bound to, in the
    catalog and on the platform.

    :raises Failing: otherwise, saying what has changed.
    """
    now = work.deps.catalog.images.get(work.image.family, work.image.version)
    if not good_enough(now, work.fleet):
        why = f" ({now.reason})" if now.reason else ""
        raise Failing(f"{now} is {now.rung} now{why}, and {work.fleet.name} takes only {work.fleet.requires} images")
    if blocked := work.deps.catalog.blocks.find(work.fleet.name, now.family, now.version):
        raise Failing(f"{now} is blocked for {work.fleet.name} by {blocked.actor}: {blocked.reason}")
    bound, current = work.artefact, artefact_of(now, work.fleet)
    if bound.digest != current.digest:
        raise Failing(f"{now} is {current.digest} in the catalog now, and the rollout is bound to {bound.digest}")
    held = {artefact.digest for artefact, _ in work.deps.platform.list_images(work.image.family)}
    if bound.digest not in held:
        raise Failing(f"{bound.platform} does not hold {bound.reference} ({bound.digest})")


def _retire_surplus(work: Replacement, observed: Observed, left_over: Identity) -> Result:
    """One left-over instance at a time; as long as it is there, nothing else happens in this slot."""
    decision = _spare(work, observed, left_over)
    if not decision.allowed:
        return giving_way.wait(work, observed, f"{left_over.name} has to stay for now: {decision.reason}")
    waiting = retiring.retire(work, left_over, seen=True, allowed=lambda: _spare(work, work.observe(), left_over))
    return waiting or Waiting(f"{left_over.name}, left over in this slot, is gone", facts={"surplus": None})


def _spare(work: Replacement, observed: Observed, left_over: Identity) -> Decision:
    """Whether it can be done without: one that an earlier attempt told to drain could serve again, and may have to."""
    seen = observed.find(left_over.id)
    drains = seen is not None and observed.backend(seen).state is Backend.DRAINING
    if not drains or work.facts.get(f"drained {left_over.id}"):
        return Decision(True, "it did not serve before this attempt either")
    if not planner.find_dark(observed, [slot for slot in work.shape.slots if slot != work.name]):
        return Decision(True, "only what is launched in its own slot can make up for what is missing")
    most = work.shape.budget.max_unavailable
    return planner.check_floor(work.shape.size, most, observed, left_over.id, counted=True)


def _begin(work: Replacement, view: SlotView) -> Moved:
    facts: dict[str, Any] = {"old": Identity.of(view.old).facts() if view.old else None}
    if any(_domain(view.old)):
        facts["domain"] = list(_domain(view.old))
    facts |= moving.place(work)
    planned = work.slot.old_instance
    if planned and planned not in [each.id for each in (view.old, view.new) if each]:
        work.say(f"{planned} was planned to go and no longer stands there")
    if view.new is not None:
        return Moved(
            f"{view.new.name} stands there already; {view.reason}",
            new_instance=view.new.id,
            facts={**facts, "new": Identity.of(view.new).facts(), "seen": True},
        )
    return Moved(view.reason, facts=facts)
