"""The quorum gates: what must hold among the others before an instance is taken out and after its replacement."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from phoenix_fleet.domain.fleets import Observed
from phoenix_fleet.domain.models import Instance, InstanceState
from phoenix_fleet.rollout.measuring import find_bad
from phoenix_fleet.rollout.progress import LATER, Failing, Moved, Waiting, pause, words
from phoenix_fleet.rollout.replacement import Identity, Replacement

WITNESSES = 3
"""So many others are asked, the first by name: of a large fleet not all can be, and one alone may be mistaken."""
FRESH_FOR = timedelta(minutes=1)
"""What held so long ago need not be asked again right before the end."""
_DONE, _SINCE, _HELD = "but for the quorum", "quorum asked", "quorum held"


def before(work: Replacement, observed: Observed, old: Instance | None) -> Waiting | None:
    """None if the replacement may begin; what does not run is no part of a quorum, so nothing is asked for that."""
    if old is None or old.state not in (InstanceState.RUNNING, InstanceState.STARTING):
        return None
    if not (lost := _lost(work, observed)):
        return None
    return Waiting(f"{old.name} has to stay for now: {lost}", max(LATER, pause(work.elapsed)))


def check_still(work: Replacement, old: Identity) -> None:
    """Return if the old instance may really go, or does not run any more.

    :raises Failing: the quorum was lost since the replacement began; the old instance still runs.
    """
    held = work.since(_HELD)
    if not work.deps.quorum_gates or (held is not None and timedelta() <= held < FRESH_FOR):
        return
    instance = work.see(old.id)
    if instance is None or instance.state is not InstanceState.RUNNING:
        return
    if lost := _lost(work, work.observe()):
        raise Failing(f"{old.name} has to stay: {lost}")


def after(work: Replacement, result: Moved) -> Moved | Waiting:
    """The result once the quorum holds without what was taken out. Where nothing was, there was nothing to lose.

    So a new fleet can be filled before there is a quorum to hold.

    :raises Failing: it does not for too long; the new instance stays as it is.
    """
    if not work.deps.quorum_gates or not (work.old or work.slot.old_instance):
        return result
    if work.since(_SINCE) is None:
        work.note(**{_DONE: result.message, _SINCE: work.now.isoformat()})
    lost = _lost(work, work.observe())
    if not lost:
        return result
    passed, limit = work.since(_SINCE) or timedelta(), work.fleet.timeouts.quorum
    if passed > limit:
        raise Failing(f"{words(limit)} after the replacement {lost}")
    return Waiting(lost, max(LATER, pause(passed)), patient=True)


def remembered(work: Replacement) -> Moved | None:
    """What the last step came to, if only the quorum has been missing since."""
    return Moved(str(work.facts[_DONE])) if work.facts.get(_DONE) else None


def anew(work: Replacement) -> dict[str, Any]:
    """The facts that let the time for it run anew, once somebody has looked into why it did not hold."""
    return {_SINCE: None} if work.facts.get(_SINCE) else {}


def _lost(work: Replacement, observed: Observed) -> str:
    """Why it does not hold; empty if it does, which is noted, or if no gate is declared."""
    gates = work.deps.quorum_gates
    if not gates:
        return ""
    others = sorted((each for each in observed.serving if each.slot != work.name), key=lambda each: each.name)
    if not others:
        return "nobody else is in service to ask whether the quorum holds"
    for each in others[:WITNESSES]:
        if bad := find_bad(work, gates, each):
            return f"the quorum does not hold: {bad}"
    work.note(**{_HELD: work.now.isoformat()})
    return ""
