"""The steps that take the old instance away: drain, then terminate."""

from __future__ import annotations

from datetime import timedelta

from phoenix_fleet.domain import planner
from phoenix_fleet.domain.models import Backend, BackendStatus, Instance, InstanceState
from phoenix_fleet.domain.planner import Decision
from phoenix_fleet.rollout import giving_way, quorum, retiring
from phoenix_fleet.rollout.progress import AT_ONCE, LATER, Failing, Moved, Result, Waiting, pause, soon, words
from phoenix_fleet.rollout.replacement import Identity, Replacement


def drain(work: Replacement) -> Result:
    """Moved once no connection is open on the old instance, or the drain policy has had its say."""
    old = work.old
    if old is None:
        return Moved("there was no instance to drain")
    instance = work.see(old.id)
    if instance is None or instance.state in (InstanceState.STOPPING, InstanceState.GONE):
        return Moved(f"{old.name} is on its way out already")
    if difference := old.difference(instance):
        raise Failing(f"what stands there is not {old.name} any more: {difference}", hands_off=True)
    status = work.status(instance)
    began = work.facts.get("drain_began")
    served = work.facts.get("old_served") if began else _counts(instance, status)
    decision = _may_go(work, old, served)
    if not decision.allowed:
        return _held(work, f"{old.name} has to stay: {decision.reason}")
    if not began:
        now = work.now
        work.note(drain_began=now.isoformat(), old_served=served, **work.seen_since("drained", now, now))
    if not work.has_balancer:
        return Moved("there is no balancer to drain at")
    idle = status.state in (Backend.DRAINING, Backend.ABSENT)
    # One that is not healthy may show no sign of a drain, and gets no connections any more all the same.
    if status.state is Backend.HEALTHY or not (idle or work.facts.get("drain_asked")):
        # The limit runs from here: what was begun earlier may not have come to the call.
        work.note(drain_asked=True, **work.seen_since("drained", work.now, work.now))
        work.act("drain", old, lambda: work.deps.balancer.drain(instance))
        return Waiting(f"{old.name} gets no new connections", AT_ONCE)
    if status.connections == 0:
        return Moved(f"no connection is open on {old.name}")
    if (lasting := work.lasting("drained")) >= work.fleet.drain.limit:
        return _limit_reached(work, old, status.connections)
    retiring.drain_again(work, old, instance)
    limit = work.fleet.drain.limit
    told = f"{status.connections} connections are open on {old.name}; {words(limit)} at most"
    return Waiting(told, soon(lasting, pause(limit)))


def _held(work: Replacement, refused: str) -> Result:
    """The world has changed. An old instance that is draining goes back into service at once, others can wait."""
    if work.facts.get("drain_began") or work.elapsed > work.fleet.timeouts.admit:
        raise Failing(refused)
    observed = work.observe()
    new = observed.find(work.new.id) if work.new else None
    if new is not None and observed.serves(new):
        return giving_way.wait(work, observed, refused)
    return Waiting(refused, LATER)


def _limit_reached(work: Replacement, old: Identity, connections: int) -> Result:
    policy = work.fleet.drain.policy
    told = f"{connections} connections were still open on {old.name} after {words(work.fleet.drain.limit)}"
    if policy == "force":
        return Moved(f"{told}; they will be cut (policy force)", facts={"forced": True})
    # The second time it is the end of the queue already, so coming back later would never end.
    raise Failing(f"{told} (policy {policy})", postpone=policy == "later" and not work.slot.postponed)


def terminate(work: Replacement) -> Result:
    """Moved once exactly the old instance is gone for certain.

    Once its termination was asked for, a failure here touches nothing more: a person looks.
    """
    old = work.old
    if old is None:
        return Moved("there was no instance to terminate")

    if not work.asked_to_terminate_old:
        quorum.check_still(work, old)

    def allowed() -> Decision:
        decision = _may_go(work, old, work.facts.get("old_served"))
        if not decision.allowed and not work.facts.get(f"asked {old.id}"):
            raise Failing(f"{old.name} has to stay: {decision.reason}")
        return decision

    forced = timedelta() if work.facts.get("forced") else None
    waiting = retiring.retire(work, old, seen=True, cut_after=forced, allowed=allowed)
    return waiting or Moved(f"{old.name} is gone")


def _counts(instance: Instance, status: BackendStatus) -> bool:
    """Whether it serves, or could again at once: what an earlier attempt told to drain may be all that is missing."""
    return instance.state is InstanceState.RUNNING and status.state in (Backend.HEALTHY, Backend.DRAINING)


def _may_go(work: Replacement, old: Identity, served: bool | None) -> Decision:
    new = work.new
    if work.facts.get(f"stopping {old.id}"):
        work.observe()
        return Decision(True, f"{old.name} was told to stop, so nothing more is lost with it")
    return planner.may_take_out(work.shape, work.observe(), old.id, new.id if new else "", counted=served)
