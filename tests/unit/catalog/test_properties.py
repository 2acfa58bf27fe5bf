"""Whatever holders and operators do in whatever order, the promises about tickets hold."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.records import RolloutState, SlotRecord, SlotState, Ticket
from phoenix_fleet.domain.clock import ManualClock
from phoenix_fleet.domain.errors import Busy, Fenced, Halted, NotFound, Refused
from phoenix_fleet.domain.steps import Step
from tests.unit.catalog.helpers import LEASE, open_rollout, slots

MAX_IN_FLIGHT = 2
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 (thousands of commits need no disk here)
HOLDERS = st.sampled_from(["task-1", "task-2", "task-3"])
STEPS = st.sampled_from(list(Step))
WAVES = st.sampled_from([0, 1])
ANY = st.integers(min_value=0, max_value=1000)


class Tickets(RuleBasedStateMachine):
    """One rollout of five slots in two waves, two at once, three holders, an operator, and time."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="phoenix-tickets-", dir=MEMORY)
        self.clock = ManualClock(datetime(2026, 11, 1, tzinfo=UTC))
        self.catalog = Catalog(f"sqlite:///{Path(self._folder.name)}/catalog.db", self.clock)
        self.catalog.migrate()
        self.drawn: list[Ticket] = []
        self.was: list[SlotRecord] = []

    @initialize()
    def open(self) -> None:
        self.rollout = open_rollout(self.catalog, slots(2, 3))
        self.was = self.slots()

    def teardown(self) -> None:
        self.catalog.events.verify()
        self.catalog.close()
        self._folder.cleanup()

    def slots(self) -> list[SlotRecord]:
        return sorted(self.catalog.rollouts.slots(self.rollout.id), key=lambda each: each.seq)

    def state(self) -> RolloutState:
        return self.catalog.rollouts.get(self.rollout.id).state

    def newest(self, ticket: Ticket) -> bool:
        """By the test's own book: whether nobody has drawn a ticket for that slot since."""
        return max(each.token for each in self.drawn if each.seq == ticket.seq) == ticket.token

    def use(self, which: int, call: Callable[[Ticket], Any], *, when_stopped: bool = False) -> None:
        """Do something with one of all tickets ever drawn, and check that it is refused exactly when it must be."""
        ticket = self.drawn[which % len(self.drawn)]
        slot, state = self.catalog.rollouts.slot(self.rollout.id, ticket.seq), self.state()
        alive = self.newest(ticket) and slot.state == SlotState.RUNNING
        may = alive and (state == RolloutState.OPEN or when_stopped)
        if may:
            call(ticket)
            return
        ended = self.newest(ticket) and slot.state in (SlotState.DONE, SlotState.FAILED)
        expected = Halted if alive and state == RolloutState.HALTED else Fenced
        refused = None
        try:
            call(ticket)
        except Refused as refusal:
            refused = type(refusal)
        # Saying the same again with a ticket that has had its use is harmless, and changes nothing either.
        assert refused == expected or (ended and refused is None)
        assert self.slots() == self.was

    @rule(holder=HOLDERS, wave=WAVES)
    def claim(self, holder: str, wave: int) -> None:
        state = self.state()
        try:
            ticket = self.catalog.rollouts.claim(
                self.rollout.id, wave, holder, lease=LEASE, max_in_flight=MAX_IN_FLIGHT
            )
        except (Refused, Busy):
            assert self.slots() == self.was
            return
        assert state in (RolloutState.OPEN, RolloutState.DONE)
        if ticket is None:
            assert all(each.state == SlotState.DONE for each in self.was if each.wave == wave)
            return
        before = self.was[ticket.seq - 1]
        assert before.wave == wave
        assert all(each.state == SlotState.DONE for each in self.was if each.wave < wave)
        assert all(ticket.token > earlier.token for earlier in self.drawn)
        if before.state == SlotState.RUNNING and before.holder != holder:
            assert before.lease_until is not None
            assert before.lease_until <= self.clock.now()
        self.drawn.append(ticket)

    @precondition(lambda self: self.drawn)
    @rule(which=ANY, step=STEPS)
    def enter(self, which: int, step: Step) -> None:
        self.use(which, lambda ticket: self.catalog.rollouts.enter(ticket, step))

    @precondition(lambda self: self.drawn)
    @rule(which=ANY)
    def finish(self, which: int) -> None:
        self.use(which, self.catalog.rollouts.finish)

    @precondition(lambda self: self.drawn)
    @rule(which=ANY, step=STEPS, resume_at=st.none() | STEPS)
    def fail(self, which: int, step: Step, resume_at: Step | None) -> None:
        self.use(
            which,
            lambda ticket: self.catalog.rollouts.fail(ticket, step, "broken", resume_at=resume_at),
            when_stopped=True,
        )

    @precondition(lambda self: self.drawn)
    @rule(which=ANY)
    def postpone(self, which: int) -> None:
        self.use(which, lambda ticket: self.catalog.rollouts.postpone(ticket, "later"))

    @precondition(lambda self: self.drawn)
    @rule(which=ANY)
    def renew(self, which: int) -> None:
        self.use(which, lambda ticket: self.catalog.rollouts.renew(ticket, LEASE), when_stopped=True)

    @precondition(lambda self: self.drawn)
    @rule(which=ANY)
    def begin(self, which: int) -> None:
        self.use(
            which,
            lambda ticket: self.catalog.intents.begin("drain", "old", {}, ticket=ticket, purpose=self.rollout.purpose),
        )

    @rule(seconds=st.sampled_from([1, 30, 61, -3600]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    @rule()
    def halt(self) -> None:
        with suppress(NotFound):
            self.catalog.rollouts.halt("web", actor="bob", reason="smoke")

    @rule()
    def resume(self) -> None:
        with suppress(NotFound, Refused):
            self.catalog.rollouts.resume("web", actor="bob", reason="no fire")
            self.was = self.slots()

    @rule(sure=st.sampled_from([False] * 9 + [True]))
    def cancel(self, sure: bool) -> None:
        if sure:
            with suppress(NotFound):
                self.catalog.rollouts.cancel("web", actor="bob", reason="enough")

    @rule()
    def complete(self) -> None:
        try:
            self.catalog.rollouts.complete(self.rollout.id)
        except Refused:
            assert self.state() != RolloutState.DONE
        else:
            assert all(each.state == SlotState.DONE for each in self.slots())

    @invariant()
    def promises_hold(self) -> None:
        if not self.was:
            return
        now, state = self.slots(), self.state()
        for before, after in zip(self.was, now, strict=True):
            assert after.token >= before.token
            assert after.attempt >= before.attempt
            if before.state == SlotState.DONE:
                assert after == before
            if state != RolloutState.OPEN and self.was_stopped:
                # Whoever was under way may only say that it failed, or that it is still there.
                assert (after.state, after.token, after.attempt) == (before.state, before.token, before.attempt) or (
                    before.state == SlotState.RUNNING and after.state == SlotState.FAILED
                )
        assert sum(each.state == SlotState.RUNNING for each in now) <= MAX_IN_FLIGHT
        for seq in {ticket.seq for ticket in self.drawn}:
            assert sum(self.is_live(ticket) for ticket in self.drawn if ticket.seq == seq) <= 1
        self.was, self.was_stopped = now, state != RolloutState.OPEN

    was_stopped = False

    def is_live(self, ticket: Ticket) -> bool:
        try:
            self.catalog.rollouts.holds(ticket)
        except Refused:
            return False
        return True


TestTickets = Tickets.TestCase
TestTickets.settings = settings(
    max_examples=15,
    stateful_step_count=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
