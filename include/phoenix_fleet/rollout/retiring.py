"""Taking one instance out: no traffic, terminated, gone for certain. Shared by the last step and by clean-ups."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from phoenix_fleet.domain.errors import InUse, NotFound
from phoenix_fleet.domain.models import Backend, Instance, InstanceState
from phoenix_fleet.domain.planner import Decision
from phoenix_fleet.rollout import gone, moving, pending
from phoenix_fleet.rollout.progress import AT_ONCE, SOON, Failing, Waiting, pause, plain, soon, words
from phoenix_fleet.rollout.replacement import Identity, Replacement

ASK_AGAIN = timedelta(seconds=30)
"""What shows no sign so long after it was asked for is asked for again."""
TURN = timedelta(seconds=10)
"""So often a balancer that drains in turns is told to drain."""


def retire(
    work: Replacement,
    machine: Identity,
    *,
    seen: bool,
    cut_after: timedelta | None = None,
    allowed: Callable[[], Decision] | None = None,
) -> Waiting | None:
    """Bring that instance one look nearer to its end; None once it is gone for certain.

    Its open connections are waited for, at most ``cut_after`` (None: for ever). ``allowed`` is asked right before
    anything is taken from it. ``seen`` says whether the platform has ever shown it.

    :raises Failing: what stands there is not that instance; nothing was touched.
    """
    missing = f"missing {machine.id}"
    look = gone.look(
        work.deps.platform,
        work.fleet.name,
        machine.id,
        missing_since=work.counted_from(missing),
        seen=seen,
        now=work.now,
    )
    if look.gone:
        pending.settle_gone(work, machine)
        return _forget(work, machine)
    if look.instance is None:
        now = work.now
        work.note_since(missing, look.missing_since or now, now)
        return Waiting(look.message, gone.MISSING_FOR)
    if work.facts.get(missing):
        work.note(**{missing: None})
    if look.instance.state is InstanceState.STOPPING:
        return Waiting(look.message, soon(work.elapsed))
    if difference := machine.difference(look.instance):
        raise Failing(f"what stands there is not {machine.name} any more: {difference}", hands_off=True)
    return _take_out(work, machine, look.instance, cut_after, allowed)


def _take_out(
    work: Replacement,
    machine: Identity,
    instance: Instance,
    cut_after: timedelta | None,
    allowed: Callable[[], Decision] | None,
) -> Waiting:
    if refused := _refused(allowed):
        return refused
    # What was told to stop had no traffic any more by then.
    if not moving.is_stopping(work, machine) and (waiting := _take_traffic(work, machine, instance, cut_after)):
        return waiting
    if waiting := moving.release(work, machine, instance, lambda: _refused(allowed)):
        return waiting
    asked = work.since(f"asked {machine.id}")
    if asked is not None and timedelta() <= asked < ASK_AGAIN:
        return Waiting(f"{machine.name} was told to terminate and is {instance.state}", soon(asked))
    if refused := _refused(allowed):
        return refused
    work.note(**{f"asked {machine.id}": work.now.isoformat()})
    try:
        work.act("terminate", machine, lambda: work.deps.platform.terminate(machine.id))
    except NotFound as error:
        return Waiting(plain(error), SOON)
    return Waiting(f"{machine.name} is told to terminate", AT_ONCE)


def _refused(allowed: Callable[[], Decision] | None) -> Waiting | None:
    decision = allowed() if allowed else Decision(True, "")
    return None if decision.allowed else Waiting(decision.reason, SOON)


def _take_traffic(
    work: Replacement, machine: Identity, instance: Instance, cut_after: timedelta | None
) -> Waiting | None:
    """None once the balancer has forgotten the instance, or may be left with it until it is gone."""
    if not work.has_balancer:
        return None
    status = work.status(instance)
    if status.state is Backend.ABSENT and not _was_admitted(work, machine):
        return None
    drained = f"drained {machine.id}"
    noted = work.facts.get(drained)
    # One that is not healthy may show no sign of a drain, and gets no connections any more all the same.
    if status.state is Backend.HEALTHY or (status.state is not Backend.DRAINING and not noted):
        if not noted:
            work.lasting(drained)
        work.act("drain", machine, lambda: work.deps.balancer.drain(instance))
        return Waiting(f"{machine.name} gets no new connections", AT_ONCE)
    cut = bool(status.connections) and cut_after is not None and work.lasting(drained) >= cut_after
    if status.connections and not cut:
        drain_again(work, machine, instance)
        limit = f"; {words(cut_after)} at most" if cut_after is not None else ""
        return Waiting(
            f"{status.connections} connections are open on {machine.name}{limit}", pause(cut_after or timedelta())
        )
    try:
        work.act("remove", machine, lambda: work.deps.balancer.remove(instance))
    except InUse as error:
        return None if cut else Waiting(plain(error), SOON)
    return None


def drain_again(work: Replacement, machine: Identity, instance: Instance) -> None:
    """Tell the balancer to drain once more, if it drains in turns and the next one has come."""
    turn = f"drain turn {machine.id}"
    last = work.since(turn)
    if not work.deps.balancer.drains_in_turns or (last is not None and timedelta() <= last < TURN):
        return
    work.note(**{turn: work.now.isoformat()})
    work.act("drain", machine, lambda: work.deps.balancer.drain(instance))


def _was_admitted(work: Replacement, machine: Identity) -> bool:
    """Whether this attempt has let it into the balancer, whose reads may lag behind that: absent is no proof then."""
    return bool(work.facts.get("admitted")) and work.new is not None and work.new.id == machine.id


def _forget(work: Replacement, machine: Identity) -> Waiting | None:
    """None once the balancer has forgotten what is gone; usually it had before."""
    if not work.has_balancer:
        return None
    instance = machine.as_gone(work.fleet.name)
    if work.status(instance).state is Backend.ABSENT:
        return None
    work.observe()  # nothing is touched, not even this, while so much of the fleet is out of service
    try:
        work.act("remove", machine, lambda: work.deps.balancer.remove(instance))
    except InUse as error:
        return Waiting(f"{machine.name} is gone, and the balancer still counts connections: {plain(error)}", SOON)
    return None
