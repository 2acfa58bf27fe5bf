"""One replacement as it stands: what the catalog remembers of it, fresh looks at the world, and the calls it makes.

Every call that changes something goes through ``act``: its intent is committed under a ticket that still holds,
then the call is made, then its outcome is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from phoenix_fleet.config import Fleet
from phoenix_fleet.domain.brake import check_brake
from phoenix_fleet.domain.errors import Blind, CapacityExhausted, PhoenixError, Throttled, TransientError
from phoenix_fleet.domain.models import Artefact, BackendStatus, Image, Instance, InstanceState, LaunchIntent
from phoenix_fleet.domain.planner import FleetShape, Observed
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.rollout import gone
from phoenix_fleet.rollout.deps import Deps
from phoenix_fleet.rollout.planning import brake_of, look_at, shape_of
from phoenix_fleet.rollout.progress import Failing

if TYPE_CHECKING:
    from phoenix_fleet.catalog.database import Transaction
    from phoenix_fleet.catalog.records import Action, Outcome, RolloutRecord, SlotRecord, Ticket

Reply = TypeVar("Reply")

GOING_FOR = timedelta(minutes=15)
"""So long what was told to terminate counts as on its way out, whatever is read: longer than listings lag (minutes,
EC2's guide on eventual consistency). What still runs after that was not terminated, and counts again."""

LONGEST_GAP = timedelta(seconds=90)
"""Between two looks further apart nobody looked, or the clock jumped: that time says nothing."""


@dataclass(frozen=True)
class Identity:
    """Which instance exactly: what must still be the same right before it is terminated."""

    id: str
    name: str
    slot: str
    token: str
    version: str
    address: str = ""
    launched_at: str = ""
    fleet: str = ""
    """Whose it is; empty for one that was never read."""

    @classmethod
    def of(cls, instance: Instance) -> Identity:
        """The identity of an instance as it was read."""
        born = instance.launched_at.isoformat() if instance.launched_at else ""
        return cls(
            instance.id,
            instance.name,
            instance.slot,
            instance.token,
            instance.version,
            instance.address,
            born,
            instance.fleet,
        )

    def facts(self) -> dict[str, str]:
        """As JSON-able data."""
        return asdict(self)

    def params(self) -> dict[str, str]:
        """What an intent about it says: only what never changes, so that it is the same in every try."""
        return {"name": self.name, "slot": self.slot, "token": self.token, "version": self.version}

    def difference(self, instance: Instance) -> str:
        """How what is there now differs from it, in words; empty if it is the same instance.

        An address may come later, and a platform may not know the moment of launch.
        """
        now = Identity.of(instance)
        differing = [
            f"{name} is {getattr(now, name)!r}, not {getattr(self, name)!r}"
            for name in ("id", "slot", "token", "version")
            if getattr(now, name) != getattr(self, name)
        ]
        if self.fleet and self.fleet != now.fleet:
            differing.append(f"it belongs to {now.fleet or 'nobody'}, not {self.fleet}")
        if self.launched_at and now.launched_at and self.launched_at != now.launched_at:
            differing.append(f"it was launched at {now.launched_at}, not {self.launched_at}")
        return "; ".join(differing)

    def as_gone(self, fleet: str) -> Instance:
        """Enough of an instance to let the balancer forget one that is no longer there."""
        return Instance(
            id=self.id,
            name=self.name,
            fleet=fleet,
            slot=self.slot,
            version=self.version,
            token=self.token,
            state=InstanceState.GONE,
            address=self.address,
        )


class Replacement:
    """What the steps work on, for the length of one ``advance``."""

    def __init__(
        self, deps: Deps, fleet: Fleet, image: Image, rollout: RolloutRecord, ticket: Ticket, slot: SlotRecord
    ) -> None:
        self.deps = deps
        self.fleet = fleet
        self.shape: FleetShape = shape_of(fleet)
        self.image = image
        self.rollout = rollout
        self.ticket = ticket
        self.slot = slot
        self.step: Step = slot.step or Step.CHECK
        self.facts: dict[str, Any] = dict(slot.facts)

    # What is remembered

    @property
    def name(self) -> str:
        """The slot's name."""
        return self.slot.slot

    @property
    def round(self) -> int:
        """How many machines of its own the slot has needed, with this one: each has its own idempotency token."""
        return self.slot.attempt + self.slot.postponed

    @property
    def old(self) -> Identity | None:
        """The instance to be taken out, as ``check`` saw it; None if nothing stood there."""
        return Identity(**self.facts["old"]) if self.facts.get("old") else None

    @property
    def new(self) -> Identity | None:
        """The instance that comes in; None until it is launched."""
        return Identity(**self.facts["new"]) if self.facts.get("new") else None

    @property
    def domain(self) -> tuple[str, str]:
        """Zone and host of the instance that goes out, as read when the replacement began; empty where unknown."""
        zone, host = self.facts.get("domain") or ("", "")
        return zone, host

    @property
    def asked_to_terminate_old(self) -> bool:
        """Whether the old instance was told to terminate, or to stop, so that it cannot be brought back."""
        old = self.old
        return old is not None and any(self.facts.get(f"{word} {old.id}") for word in ("asked", "stopping"))

    @property
    def has_balancer(self) -> bool:
        """Whether traffic goes through a balancer; otherwise running is all that can be asked for."""
        return self.fleet.balancer.name != "none"

    @property
    def now(self) -> datetime:
        """The moment."""
        return self.deps.clock.now()

    @property
    def elapsed(self) -> timedelta:
        """How long the step has taken so far, not counting what it waited patiently before that."""
        started, held = self.slot.step_started_at, self.since("held_until")
        passed = self.now - started if started else timedelta()
        return passed if held is None else min(passed, held)

    def since(self, fact: str) -> timedelta | None:
        """How long ago the moment was that is remembered under that name; None if there is none."""
        kept = self.facts.get(fact)
        return self.now - datetime.fromisoformat(kept) if kept else None

    def counted_from(self, fact: str) -> datetime | None:
        """The moment since which that has been so, less the time in which nobody looked; None if it is not so.

        So neither a clock that jumps nor a holder that slept makes anything seem to have lasted longer than it did.
        Nor does a holder whose clock differs: what passed between its first look and another one's last is left out.
        """
        if not self.facts.get(fact):
            return None
        since = datetime.fromisoformat(self.facts[fact])
        last = datetime.fromisoformat(self.facts.get(f"{fact}, last") or self.facts[fact])
        gap = self.now - last
        return since if self._looked(fact) and timedelta() <= gap <= LONGEST_GAP else since + gap

    def _looked(self, fact: str) -> bool:
        """Whether it was this holder who noted that last."""
        return bool(self.facts.get(f"{fact}, by") == self.ticket.holder)

    def lasting(self, fact: str) -> timedelta:
        """How long that has been so, seen now once more; nothing at the first look."""
        now = self.now
        since = self.counted_from(fact) or now
        self.note_since(fact, since, now)
        return now - since

    def note_since(self, fact: str, since: datetime, now: datetime) -> None:
        """Remember since when that has been so, and that it was so just now: not at every look, but often enough."""
        noted = self.facts.get(f"{fact}, last")
        recent = noted and timedelta() <= now - datetime.fromisoformat(noted) < LONGEST_GAP / 3
        if not recent or not self._looked(fact) or self.facts.get(fact) != since.isoformat():
            self.note(**self.seen_since(fact, since, now))

    def seen_since(self, fact: str, since: datetime, now: datetime) -> dict[str, str]:
        """The facts that say since when something has been so, and that this holder saw it just now."""
        return {fact: since.isoformat(), f"{fact}, last": now.isoformat(), f"{fact}, by": self.ticket.holder}

    def note(self, **facts: Any) -> None:
        """Remember these facts before anything else happens, for whoever goes on from here."""
        self.deps.catalog.rollouts.enter(self.ticket, self.step, facts=facts)
        self.facts.update(facts)

    def say(self, message: str) -> None:
        """One line for people."""
        self.deps.log(f"{self.name}: {message}")

    # What is seen

    def observe(self) -> Observed:
        """The whole fleet, read now.

        :raises Blind: what was read cannot be true.
        :raises Failing: so much of the fleet is out of service that nothing may be touched any more.
        """
        seen = self._without_the_going(look_at(self.deps, self.fleet))
        rollouts, rollout = self.deps.catalog.rollouts, self.rollout.id
        excused = set(rollouts.unfilled(rollout))
        if not self.shape.budget.max_surge:
            # Without surge the old one goes before the new one comes, so those in hand are dark for a while.
            excused |= {each.slot for each in rollouts.under_way(rollout) if _taken_out(each)}
        expected = bool(seen.instances) or rollouts.is_expected(rollout)
        braking = check_brake(self.shape, brake_of(self.fleet), seen, excused=excused, expected=expected)
        if braking.state == "blind":
            raise Blind(f"{braking.reason}.")
        if braking.state == "meltdown":
            raise Failing(braking.reason, alarm="meltdown")
        return seen

    def _without_the_going(self, seen: Observed) -> Observed:
        """The same, with what was told to terminate on its way out, whatever lagging reads still show.

        Such an instance is never one that serves, and never one to adopt. It still counts as living.
        """
        going = self.deps.catalog.intents.told_to_terminate(self.now - GOING_FOR)
        if not going:
            return seen

        def as_going(each: Instance) -> Instance:
            told = each.id in going and going[each.id] == each.token
            up = each.state in (InstanceState.STARTING, InstanceState.RUNNING)
            return replace(each, state=InstanceState.STOPPING) if told and up else each

        return Observed(tuple(as_going(each) for each in seen.instances), seen.backends)

    def see(self, instance_id: str) -> Instance | None:
        """That instance, read now; None if it is not to be seen, which does not prove that it is gone."""
        return gone.see(self.deps.platform, instance_id)

    def status(self, instance: Instance) -> BackendStatus:
        """What the balancer says of it now."""
        return self.deps.balancer.state(instance)

    @property
    def artefact(self) -> Artefact:
        """What new instances are born from: bound when the rollout opened.

        :raises Failing: the image has none on this platform.
        """
        found = self.image.artefacts.get(self.fleet.artefact_platform)
        if found is None:
            raise Failing(f"{self.image} has no artefact on {self.fleet.artefact_platform}")
        return found

    # What is done

    def launch_intent(self) -> LaunchIntent:
        """Everything that this attempt's launch needs: the same in every try, so it is the same machine."""
        return LaunchIntent(
            fleet=self.fleet.name,
            slot=self.name,
            purpose=self.rollout.purpose,
            attempt=self.round,
            family=self.image.family,
            version=str(self.image.version),
            artefact=self.artefact,
            authorized_key=self.deps.authorized_key,
            settings=dict(self.fleet.runs_on.settings),
            zone=self.facts.get("volume_zone") or self.domain[0],
        )

    def act(
        self,
        action: Action,
        target: Identity,
        call: Callable[[], Reply],
        *,
        params: Mapping[str, Any] | None = None,
        token: str = "",
        allowed: Callable[[Transaction], None] | None = None,
    ) -> Reply:
        """Make a call that changes something: intent, call, outcome. The call's errors are raised through.

        :param params: what the intent says. Default: which instance.
        :param token: the call's own idempotency token, where it has one.
        :param allowed: raises, in the intent's transaction, if the call may not be made now.
        :raises Fenced: the ticket no longer holds; nothing was called.
        :raises Halted: the rollout is halted; nothing was called.
        :raises Failing: the call raised what no driver may raise, so nothing is known.
        """
        self.say(f"{action} {target.name}")
        intents = self.deps.catalog.intents
        intent = intents.begin(
            action,
            target.id,
            params if params is not None else target.params(),
            ticket=self.ticket,
            purpose=self.rollout.purpose,
            token=token,
            allowed=allowed,
        )
        try:
            reply = call()
        except PhoenixError as error:
            outcome: Outcome = "unknown" if may_have_happened(error) else "failed"
            intents.outcome(intent.id, outcome, {"error": type(error).__name__, "message": str(error)})
            raise
        except Exception as error:
            intents.outcome(intent.id, "unknown", {"error": type(error).__name__, "message": str(error)})
            raise Failing(f"{action} {target.name}: unexpected {type(error).__name__}: {error}") from error
        result = {"instance": reply.id} if isinstance(reply, Instance) else {}
        intents.outcome(intent.id, "done", result)
        return reply


def _taken_out(slot: SlotRecord) -> bool:
    """Whether it is dark because we took its old instance out: one that died by itself is no more meant than others."""
    if slot.facts.get("old_served") is False:
        return False
    told = ("drain_asked", "drained ", "stopping ", "asked ")
    return any(kept and fact.startswith(told) for fact, kept in slot.facts.items())


def may_have_happened(error: PhoenixError) -> bool:
    """Whether a call that ended so may have taken effect all the same."""
    return isinstance(error, TransientError) and not isinstance(error, (Throttled, CapacityExhausted))
