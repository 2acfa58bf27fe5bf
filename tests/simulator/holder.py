"""One worker of a rollout: draws tickets, advances them, keeps its lease, and may die at any call."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from phoenix_fleet.catalog.records import RolloutRecord, RolloutState
from phoenix_fleet.domain.errors import Busy, Fenced, Halted, Refused, StepFailed, TransientError
from phoenix_fleet.rollout.engine import Engine
from phoenix_fleet.rollout.progress import Progress
from tests.simulator.datacentre import SkewedClock
from tests.simulator.laws import Actor

if TYPE_CHECKING:
    from tests.simulator.play import Play

LEASE = timedelta(seconds=60)
BUSY_SECONDS = 30.0
"""Between two tries of a holder whose turn it is not."""


class Crash(BaseException):
    """The holder's process is gone: nothing of ours may catch this."""


class Holder:
    """One worker: draws tickets and advances them, wave by wave, until nothing is left or it must stop."""

    def __init__(self, play: Play, name: str, rollout: RolloutRecord) -> None:
        self.play = play
        self.actor = Actor(name)
        self.rollout = rollout
        self.clock = SkewedClock(play.clock, play.troubles.skew())
        self.catalog = play.database.catalog(self.clock, play.troubles.around_commit)
        self.engine = Engine(play.deps(self), play.fleet, play.image(rollout.version), rollout)
        self.wave = 0
        self.gone = False
        self.said = ""
        self.leased_at = 0.0

    def wake(self) -> None:
        """Do one thing, and come back when it is time for the next one."""
        if self.gone:
            return
        play = self.play
        outer, play.actor = play.actor, self.actor
        self.actor.paused = 0.0
        try:
            delay = self._step()
        except Crash:
            self._dies()
            return
        except TransientError as error:
            self.tell(f"waits: {short(error)}")
            delay = 10.0
        finally:
            play.actor = outer
            play.world.acting = False
        if delay is None:
            self.gone = True
        else:
            play.after(max(delay, play.step_seconds), self.wake)

    def _dies(self) -> None:
        self.gone = True
        self.play.say(f"{self.actor.name} dies")
        self.play.counts["dying holders"] += 1
        self.play.after(self.play.rng.uniform(1.0, 90.0), self.play.hire)

    def tell(self, message: str) -> None:
        """Say it, but not twice in a row."""
        if message != self.said:
            self.said = message
            self.play.say(f"{self.actor.name} {message}")

    def _step(self) -> float | None:
        return self._draw() if self.actor.ticket is None else self._advance()

    def _draw(self) -> float | None:
        rollouts = self.catalog.rollouts
        try:
            limit, _ = self.engine.in_flight_limit()
            ticket = rollouts.claim(self.rollout.id, self.wave, self.actor.name, lease=LEASE, max_in_flight=limit)
            if ticket is None and self.wave < self.play.people.last_wave:
                self.wave += 1
                return 0.0
            if ticket is None:
                rollouts.complete(self.rollout.id)
                self.play.people.completed(self.rollout)
                return None
        except Busy:
            return BUSY_SECONDS
        except Halted as error:
            self.play.people.halted(self, error)
            return None
        except Refused:
            if self.catalog.rollouts.get(self.rollout.id).state is not RolloutState.OPEN:
                return None
            self.wave = 0
            return BUSY_SECONDS
        self.actor.ticket, self.leased_at = ticket, self.play.clock.seconds
        self.play.say(f"{self.actor.name} takes {ticket.slot} at {ticket.step}")
        return 0.0

    def _keep_lease(self, progress: Progress) -> None:
        """Renew it in good time, as a worker's keeper of leases does beside the work."""
        ticket, now = self.actor.ticket, self.play.clock.seconds
        assert ticket is not None
        if progress.state == "waiting" and now + progress.check_after.total_seconds() - self.leased_at > 30.0:
            self.catalog.rollouts.renew(ticket, LEASE + progress.check_after)
            self.leased_at = now

    def _advance(self) -> float | None:
        ticket = self.actor.ticket
        assert ticket is not None
        try:
            progress = self.engine.advance(ticket)
            self._keep_lease(progress)
        except StepFailed as error:
            self.play.people.halted(self, error)
            return None
        except Halted as error:
            with suppress(TransientError):
                self.catalog.rollouts.give_back(ticket)
            self.play.people.halted(self, error)
            return None
        except Fenced as error:
            self.tell(f"steps back: {short(error)}")
            self.actor.ticket = None
            return 10.0 if self.catalog.rollouts.get(self.rollout.id).state is RolloutState.OPEN else None
        self.tell(f"{ticket.slot}: {progress.step}: {progress.message}")
        self.play.counts["steps"] += 1
        if progress.state == "done":
            self.actor.ticket = None
        if progress.state != "waiting":
            return 0.0
        return max(progress.check_after.total_seconds(), self.play.scenario.quantum)


def short(error: Exception) -> str:
    """Its first argument, which is the message without the remedy."""
    return str(error.args[0] if error.args else type(error).__name__)
