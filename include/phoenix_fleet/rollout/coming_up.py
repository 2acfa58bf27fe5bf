"""The steps that bring a new instance up: launch, ready, configure, verify, admit, watch."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from phoenix_fleet.domain import planner
from phoenix_fleet.domain.errors import TransientError
from phoenix_fleet.domain.fleets import Decision, Observed
from phoenix_fleet.domain.left_over import crowded, find_left_over
from phoenix_fleet.domain.models import Backend, Instance, InstanceState, LaunchIntent
from phoenix_fleet.rollout import giving_way, moving, rationing, readiness, retiring, watching
from phoenix_fleet.rollout.checking import check_image, target_of_slot
from phoenix_fleet.rollout.measuring import look_early, measure_all
from phoenix_fleet.rollout.progress import AT_ONCE, SOON, Failing, Moved, Result, Waiting, pause, soon, words
from phoenix_fleet.rollout.replacement import Identity, Replacement, may_have_happened
from phoenix_fleet.rollout.retiring import ASK_AGAIN

HEALTHY_LOOKS = 2
"""How often in a row the balancer must say healthy."""
LAGS_FOR = timedelta(minutes=6)
"""A listing that leaves out what was launched so long ago shows that it is not there: listings lag by minutes at most
(EC2's guide on eventual consistency; the simulator's reads by up to 5)."""
IDLE_FOR = timedelta(minutes=2)
"""So long the instance that goes out must have been out of service before it goes to make room for its successor."""
LONGEST_GAP = timedelta(seconds=90)
"""A watch in which nobody looked for longer than this has seen nothing, and starts anew."""


def launch(work: Replacement) -> Result:
    """Moved once the platform has accepted this attempt's one instance, or had done so before."""
    if work.new is not None:
        return Moved(f"{work.new.name} stands there already")
    check_image(work)
    if work.facts.get("in_the_way"):
        return _make_room(work, Identity(**work.facts["in_the_way"]))
    intent = work.launch_intent()
    observed = work.observe()
    found = next((each for each in observed.instances if each.token == intent.token), None)
    if found is None:
        decision = planner.check_surge(work.shape, observed, _unseen(work, observed))
        if not decision.allowed:
            if in_the_way := _left_over(work, observed):
                return _make_room(work, in_the_way)
            several = crowded(work.shape, observed)
            where = f"; there are {several}" if several else ""
            return giving_way.wait(work, observed, f"no room for another instance: {decision.reason}{where}")
    # A token that the platform has seen gives the same machine again, so after a crash this is adoption.
    wanted = Identity(work.name, intent.name, work.name, intent.token, intent.version)
    try:
        born = work.act(
            "launch",
            wanted,
            lambda: work.deps.platform.launch(intent),
            params=_frozen(intent),
            token=intent.token,
            allowed=rationing.check_ration(work, intent.token),
        )
    except rationing.Rationed as error:
        return rationing.waiting(work, error)
    except TransientError as error:
        if may_have_happened(error):
            work.note(launch_unanswered=True)
        raise
    return Moved(
        f"{born.name} is accepted" if found is None else f"{born.name} had been launched before",
        new_instance=born.id,
        facts={"new": Identity.of(born).facts()},
    )


def _unseen(work: Replacement, observed: Observed) -> int:
    """How many were launched for the fleet so recently that a listing may not show them, and were not taken away.

    This attempt's own is not among them: a launch of that again is the same instance.
    """
    intents = work.deps.catalog.intents
    now = work.now
    # One that a clock gone wrong has put into the future says nothing.
    launched = {token for begun, token in intents.launches(work.fleet.name, now - LAGS_FOR) if begun <= now}
    listed = {each.token for each in observed.instances}
    told = set(intents.told_to_terminate(now - LAGS_FOR).values())
    return len(launched - listed - told - {work.launch_intent().token})


def _left_over(work: Replacement, observed: Observed) -> Identity | None:
    """What takes the room for nothing; nobody else is at its slot."""
    found = _find_left_over(work, observed) or _idle_old(work, observed)
    if found is None:
        return None
    work.note(in_the_way=Identity.of(found).facts())
    return Identity.of(found)


def _find_left_over(work: Replacement, observed: Observed) -> Instance | None:
    """What came to no end in this slot or in one that waits."""
    rollouts, rollout = work.deps.catalog.rollouts, work.rollout.id
    under_way = {each.slot for each in rollouts.under_way(rollout)} - {work.name}
    done = rollouts.begun(rollout) - under_way - {work.name}
    kept = work.old.id if work.old else ""
    return find_left_over(work.shape, target_of_slot(work), observed, work.now, under_way, kept, done=done)


def _idle_old(work: Replacement, observed: Observed) -> Instance | None:
    """The very instance that goes out, if it has been out of service for long and nobody else will make room."""
    old = observed.find(work.old.id) if work.old else None
    alone = len(work.deps.catalog.rollouts.under_way(work.rollout.id)) == 1
    if old is None or not alone or observed.serves(old):
        return None
    if old.state not in (InstanceState.RUNNING, InstanceState.FAILED):
        return None  # it comes up, or goes by itself
    return old if work.lasting("old idle") >= IDLE_FOR else None


def _make_room(work: Replacement, left_over: Identity) -> Waiting:
    """Until it is gone for certain: a listing that leaves it out makes no room."""

    def allowed() -> Decision:
        observed = work.observe()
        found = _find_left_over(work, observed) or _idle_old(work, observed)
        if found is not None and found.id == left_over.id:
            return Decision(True, "nobody misses it")
        work.note(in_the_way=None)
        return Decision(False, f"{left_over.name} is not in the way any more")

    waiting = retiring.retire(work, left_over, seen=True, allowed=allowed)
    return waiting or Waiting(f"{left_over.name}, in the way in {left_over.slot}, is gone", facts={"in_the_way": None})


def _frozen(intent: LaunchIntent) -> dict[str, Any]:
    """The intent as plain data, with the name and the fingerprint that follow from it."""
    return {**asdict(intent), "name": intent.name, "fingerprint": intent.fingerprint}


def ready(work: Replacement) -> Result:
    """Moved once the new instance runs, is the right image, answers with its own SSH host key, and has its data."""
    instance = work.see(_new(work).id)
    if instance is None:
        return Waiting("the platform does not show it yet", soon(work.elapsed))
    if not work.facts.get("seen"):
        work.note(seen=True)
    _still_ours(work, instance)
    if lacks := readiness.missing(instance, work.artefact.digest, work.deps.ssh_probe):
        return Waiting(lacks, soon(work.elapsed))
    given = moving.supply(work, instance)
    if isinstance(given, Waiting):
        return given
    facts = {"new": Identity.of(instance).facts(), **given}
    return Moved(f"{instance.name} answers at {instance.address}", facts=facts)


def configure(work: Replacement) -> Result:
    """Moved once the configurator has applied the fleet's environment."""
    instance = _running(work)
    work.deps.configurator.apply(instance, moving.environment(work), work.say)
    return Moved(f"{instance.name} is configured for {work.deps.environment.name}")


def verify(work: Replacement) -> Result:
    """Moved once every verify gate has passed on the new instance."""
    instance = _running(work)
    if instance.digest != work.artefact.digest:
        raise Failing(f"{instance.name} runs {instance.digest}, not {work.artefact.digest} of {work.image}")
    return Moved(measure_all(work, work.deps.verify_gates, instance))


def admit(work: Replacement) -> Result:
    """Moved once the balancer has said healthy twice in a row, after it was told to admit the instance.

    It is told also if it says healthy already: an earlier attempt may have told it to drain, which a read that lags
    behind does not show. Admitting again disturbs nobody.
    """
    new, instance = _new(work), _running(work)
    status = work.status(instance)
    looks = int(work.facts.get("healthy_looks") or 0)
    # Noted after the call: whoever died before it tells it anew.
    told = not work.has_balancer or bool(work.facts.get("admit_asked"))
    if told and status.state is Backend.HEALTHY:
        looks += 1
        if looks >= HEALTHY_LOOKS:
            return Moved(f"{instance.name} is in service")
        # A whole second: the second look is worth something only if the balancer has checked again meanwhile.
        return Waiting(f"{instance.name} is healthy once", SOON, {"healthy_looks": looks})
    if not told or status.state in (Backend.ABSENT, Backend.DRAINING):
        asked = work.since("admit_asked")
        if asked is not None and timedelta() <= asked < ASK_AGAIN:
            return Waiting(f"{instance.name} is admitted, and {status.state} at the balancer so far", soon(asked))
        # Noted before the call: from now on "absent" may only mean that the balancer's reads lag behind.
        work.note(healthy_looks=0, admitted=True)
        work.act("admit", new, lambda: work.deps.balancer.admit(instance))
        return Waiting(f"{instance.name} is admitted", AT_ONCE, {"admit_asked": work.now.isoformat()})
    return Waiting(f"{instance.name} is {status.state} at the balancer", soon(work.elapsed), {"healthy_looks": 0})


def watch(work: Replacement) -> Result:
    """Moved once the new instance was healthy at every look for the watch time, and the watch gates passed."""
    instance = _running(work)
    status = work.status(instance)
    if status.state is not Backend.HEALTHY:
        raise Failing(f"{instance.name} is {status.state} at the balancer after it had been healthy")
    watched, last = work.since("watched_from"), work.since("watched_last")
    now, watchers = work.now.isoformat(), watching.watching_gates(work)
    facts: dict[str, Any] = {"watched_last": now}
    # Another holder's clock may differ, and nobody looked between the two.
    same = work.facts.get("watched_by") == work.ticket.holder
    if watched is None or last is None or not same or not timedelta() <= last <= LONGEST_GAP:
        watched, facts = timedelta(), {"watched_from": now, "watched_last": now, "watched_by": work.ticket.holder}
        if watchers:
            facts["beside"] = watching.beside(work)
    so_far = {**work.facts, **facts}
    over = (left := work.fleet.watch_time - watched) <= timedelta()
    seen = watching.facts_of(work, so_far["watched_from"], so_far["beside"], over=over) if watchers else {}
    if not over:
        look_early(work, watchers, instance, seen)
        told = f"{instance.name} is healthy, and watched for {words(work.fleet.watch_time)}"
        return Waiting(told, min(pause(work.fleet.watch_time), left), facts)
    told = measure_all(work, work.deps.watch_gates, instance, seen)
    return Moved(f"{instance.name} was healthy for {words(work.fleet.watch_time)}; {told}")


def _new(work: Replacement) -> Identity:
    if work.new is None:
        raise Failing("the new instance is not known any more", hands_off=True)
    return work.new


def _running(work: Replacement) -> Instance:
    """The new instance, read now.

    :raises Failing: it does not run any more, or is another one.
    """
    new = _new(work)
    instance = work.see(new.id)
    if instance is None:
        raise Failing(f"{new.name} is not to be seen any more")
    _still_ours(work, instance)
    if instance.state is not InstanceState.RUNNING:
        raise Failing(f"{instance.name} is {instance.state} and ran before")
    return instance


def _still_ours(work: Replacement, instance: Instance) -> None:
    if difference := _new(work).difference(instance):
        raise Failing(f"what stands there is not {_new(work).name} any more: {difference}", hands_off=True)
    if instance.state in (InstanceState.FAILED, InstanceState.STOPPING, InstanceState.GONE):
        said = f": {instance.message}" if instance.message else ""
        raise Failing(f"{instance.name} is {instance.state}{said}")
