from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.records import RolloutState, SlotState, Ticket
from phoenix_fleet.domain.clock import ManualClock
from phoenix_fleet.domain.errors import Busy, Fenced, Halted, InvalidConfig, Refused
from phoenix_fleet.domain.steps import Step
from tests.unit.catalog.helpers import LEASE, claim, kinds, must_claim, open_rollout, slots

ADVANCING: list[tuple[str, Callable[[Catalog, Ticket], object]]] = [
    ("holds", lambda catalog, ticket: catalog.rollouts.holds(ticket)),
    ("enter", lambda catalog, ticket: catalog.rollouts.enter(ticket, Step.DRAIN)),
    ("finish", lambda catalog, ticket: catalog.rollouts.finish(ticket)),
    ("postpone", lambda catalog, ticket: catalog.rollouts.postpone(ticket, "busy connections")),
    ("give way", lambda catalog, ticket: catalog.rollouts.give_way(ticket, "web-02", "nothing serves there")),
    (
        "begin",
        lambda catalog, ticket: catalog.intents.begin("drain", "old-01", {}, ticket=ticket, purpose="rollout-1"),
    ),
]
"""Everything that takes a replacement forward, or changes the world in its name."""

ENDING: list[tuple[str, Callable[[Catalog, Ticket], object]]] = [
    ("renew", lambda catalog, ticket: catalog.rollouts.renew(ticket, LEASE)),
    ("fail", lambda catalog, ticket: catalog.rollouts.fail(ticket, Step.DRAIN, "stuck")),
    (
        "clean up",
        lambda catalog, ticket: catalog.intents.begin(
            "terminate", "new-01", {}, ticket=ticket, purpose="rollout-1", cleanup=True
        ),
    ),
]
"""What the holder of the newest ticket may do on a halted or cancelled rollout, too."""


def named(cases: list[tuple[str, Callable[[Catalog, Ticket], object]]]) -> list[object]:
    return [pytest.param(call, id=name) for name, call in cases]


def test_a_claim_gets_the_lowest_slot(catalog: Catalog, clock: ManualClock) -> None:
    rollout = open_rollout(catalog)
    ticket = must_claim(catalog, rollout)
    assert (ticket.rollout_id, ticket.fleet, ticket.seq, ticket.slot) == (rollout.id, "web", 1, "web-01")
    assert (ticket.holder, ticket.attempt, ticket.step) == ("task-1/try-1", 1, Step.CHECK)
    slot = catalog.rollouts.slot(rollout.id, 1)
    assert (slot.state, slot.holder, slot.token) == (SlotState.RUNNING, ticket.holder, ticket.token)
    assert (slot.lease_until, slot.started_at) == (clock.now() + LEASE, clock.now())
    catalog.rollouts.holds(ticket)


def test_each_replacement_waits_on_the_one_before(catalog: Catalog, clock: ManualClock) -> None:
    rollout = open_rollout(catalog, slots(2))
    ticket = must_claim(catalog, rollout, holder="task-1/try-1")
    with pytest.raises(Busy, match=r"web-02 waits its turn: web-01 is held by task-1/try-1 until 03:01:00 UTC"):
        claim(catalog, rollout, holder="task-2/try-1")
    catalog.rollouts.finish(ticket)
    assert must_claim(catalog, rollout, holder="task-2/try-1").slot == "web-02"


def test_as_many_at_once_as_may_be_lowest_first(catalog: Catalog) -> None:
    rollout = open_rollout(catalog, slots(4))
    tickets = [must_claim(catalog, rollout, holder=f"task-{n}", max_in_flight=3) for n in (1, 2, 3)]
    assert [ticket.slot for ticket in tickets] == ["web-01", "web-02", "web-03"]
    with pytest.raises(Busy, match="web-04 waits its turn: web-01 is held by task-1"):
        claim(catalog, rollout, holder="task-4", max_in_flight=3)
    catalog.rollouts.finish(tickets[1])
    assert must_claim(catalog, rollout, holder="task-4", max_in_flight=3).slot == "web-04"


def test_those_under_way_count_when_the_limit_is_lowered(catalog: Catalog) -> None:
    rollout = open_rollout(catalog, slots(4))
    first, *_ = [must_claim(catalog, rollout, holder=f"task-{n}", max_in_flight=3) for n in (1, 2, 3)]
    catalog.rollouts.finish(first)
    with pytest.raises(Busy):
        claim(catalog, rollout, holder="task-4", max_in_flight=2)


def test_the_last_of_a_wave_are_waited_for(catalog: Catalog) -> None:
    rollout = open_rollout(catalog, slots(1))
    ticket = must_claim(catalog, rollout)
    with pytest.raises(Busy, match="Wave 0 waits its turn: web-01"):
        claim(catalog, rollout, holder="task-2")
    catalog.rollouts.finish(ticket)
    assert claim(catalog, rollout, holder="task-2") is None


def test_a_wave_that_is_done_is_done_whoever_is_at_a_later_one(catalog: Catalog) -> None:
    rollout = open_rollout(catalog)
    catalog.rollouts.finish(must_claim(catalog, rollout))
    must_claim(catalog, rollout, wave=1)
    assert claim(catalog, rollout, wave=0, holder="another") is None


def test_a_wave_waits_for_the_one_before(catalog: Catalog) -> None:
    rollout = open_rollout(catalog)
    with pytest.raises(Refused, match=r"Wave 1 of rollout 1 of web waits: web-01 of wave 0 is waiting"):
        claim(catalog, rollout, wave=1)
    ticket = must_claim(catalog, rollout)
    with pytest.raises(Refused, match="web-01 of wave 0 is running"):
        claim(catalog, rollout, wave=1, max_in_flight=9)
    catalog.rollouts.finish(ticket)
    assert must_claim(catalog, rollout, wave=1).slot == "web-02"


@pytest.mark.parametrize(
    ("holder", "lease", "max_in_flight"), [(" ", LEASE, 1), ("task", timedelta(0), 1), ("task", LEASE, 0)]
)
def test_a_claim_that_makes_no_sense_is_refused(
    catalog: Catalog, holder: str, lease: timedelta, max_in_flight: int
) -> None:
    rollout = open_rollout(catalog)
    with pytest.raises(InvalidConfig):
        catalog.rollouts.claim(rollout.id, 0, holder, lease=lease, max_in_flight=max_in_flight)


def test_a_live_lease_is_respected_to_its_last_moment(catalog: Catalog, clock: ManualClock) -> None:
    rollout = open_rollout(catalog)
    ticket = must_claim(catalog, rollout)
    clock.advance(LEASE - timedelta(microseconds=1))
    with pytest.raises(Busy):
        claim(catalog, rollout, holder="task-1/try-2")
    catalog.rollouts.renew(ticket, LEASE)
    clock.advance(LEASE - timedelta(microseconds=1))
    with pytest.raises(Busy):
        claim(catalog, rollout, holder="task-1/try-2")


def test_a_lease_that_is_given_back_is_waited_for_by_nobody(catalog: Catalog, clock: ManualClock) -> None:
    rollout = open_rollout(catalog)
    ticket = must_claim(catalog, rollout)
    catalog.rollouts.enter(ticket, Step.CONFIGURE)
    catalog.rollouts.halt("web", actor="ada", reason="the shop rings")
    catalog.rollouts.give_back(ticket)
    catalog.rollouts.resume("web", actor="ada", reason="it was nothing")
    again = must_claim(catalog, rollout, holder="task-1/try-2")
    assert (again.slot, again.attempt, again.step) == (ticket.slot, ticket.attempt, Step.CONFIGURE)
    catalog.rollouts.give_back(ticket)
    with pytest.raises(Busy):
        claim(catalog, rollout, holder="task-1/try-3")


def test_an_expired_lease_is_taken_over_where_it_stood(catalog: Catalog, clock: ManualClock) -> None:
    rollout = open_rollout(catalog)
    stale = must_claim(catalog, rollout)
    catalog.rollouts.enter(stale, Step.LAUNCH, new_instance="new-01", facts={"a": 1})
    entered = clock.now()
    clock.advance(LEASE)
    ticket = must_claim(catalog, rollout, holder="task-1/try-2")
    assert (ticket.slot, ticket.attempt, ticket.step) == ("web-01", 1, Step.LAUNCH)
    assert ticket.token > stale.token
    slot = catalog.rollouts.slot(rollout.id, 1)
    assert (slot.new_instance, slot.facts, slot.step_started_at, slot.started_at) == (
        "new-01",
        {"a": 1},
        entered,
        entered,
    )
    assert catalog.events.list_events()[0].payload["from"] == "task-1/try-1"


def test_what_expired_is_taken_over_before_anything_new_begins(catalog: Catalog, clock: ManualClock) -> None:
    rollout = open_rollout(catalog, slots(3))
    must_claim(catalog, rollout, holder="task-1", max_in_flight=2)
    clock.advance(LEASE / 2)
    must_claim(catalog, rollout, holder="task-2", max_in_flight=2)
    clock.advance(LEASE / 2)
    assert must_claim(catalog, rollout, holder="task-3", max_in_flight=2).slot == "web-01"
    with pytest.raises(Busy):
        claim(catalog, rollout, holder="task-4", max_in_flight=2)


@pytest.mark.parametrize("call", named(ADVANCING + ENDING))
def test_a_stale_ticket_can_do_nothing(
    catalog: Catalog, clock: ManualClock, call: Callable[[Catalog, Ticket], object]
) -> None:
    rollout = open_rollout(catalog)
    stale = must_claim(catalog, rollout)
    clock.advance(LEASE)
    must_claim(catalog, rollout, holder="task-1/try-2")
    before = catalog.rollouts.slots(rollout.id), catalog.events.head(), catalog.intents.list_intents()
    with pytest.raises(Fenced, match=r"web-01 was taken over by task-1/try-2 with token \d+: token \d+ is stale"):
        call(catalog, stale)
    assert (catalog.rollouts.slots(rollout.id), catalog.events.head(), catalog.intents.list_intents()) == before


@pytest.mark.parametrize("call", named(ADVANCING + ENDING))
def test_nor_can_a_ticket_that_was_never_drawn(catalog: Catalog, call: Callable[[Catalog, Ticket], object]) -> None:
    rollout = open_rollout(catalog)
    ticket = must_claim(catalog, rollout)
    before = catalog.events.head()
    for forged in (
        replace(ticket, token=ticket.token + 1),
        replace(ticket, holder="eve"),
        replace(ticket, seq=2, slot="web-02"),
        replace(ticket, fleet="db"),
        replace(ticket, slot="web-02"),
        replace(ticket, rollout_id=99),
    ):
        with pytest.raises(Fenced):
            call(catalog, forged)
    assert catalog.events.head() == before


@pytest.mark.parametrize("call", named(ADVANCING))
def test_a_halt_stops_those_under_way(catalog: Catalog, call: Callable[[Catalog, Ticket], object]) -> None:
    ticket = must_claim(catalog, open_rollout(catalog))
    catalog.rollouts.halt("web", actor="bob", reason="smoke")
    before = catalog.events.head()
    with pytest.raises(Halted, match="web-01 waits: halted by bob: smoke"):
        call(catalog, ticket)
    assert catalog.events.head() == before


@pytest.mark.parametrize("call", named(ADVANCING))
def test_cancelling_stops_those_under_way(catalog: Catalog, call: Callable[[Catalog, Ticket], object]) -> None:
    ticket = must_claim(catalog, open_rollout(catalog))
    catalog.rollouts.cancel("web", actor="bob", reason="enough")
    with pytest.raises(Fenced, match="is cancelled by bob"):
        call(catalog, ticket)


@pytest.mark.parametrize("stop", ["halt", "cancel"])
@pytest.mark.parametrize("call", named(ENDING))
def test_whoever_is_stopped_may_still_clean_up_and_say_so(
    catalog: Catalog, stop: str, call: Callable[[Catalog, Ticket], object]
) -> None:
    ticket = must_claim(catalog, open_rollout(catalog))
    getattr(catalog.rollouts, stop)("web", actor="bob", reason="enough")
    call(catalog, ticket)


@pytest.mark.parametrize("call", named(ADVANCING + ENDING))
def test_once_another_rollout_has_begun_even_that_is_over(
    catalog: Catalog, call: Callable[[Catalog, Ticket], object]
) -> None:
    ticket = must_claim(catalog, open_rollout(catalog))
    catalog.rollouts.cancel("web", actor="bob", reason="enough")
    open_rollout(catalog, run="run-2")
    with pytest.raises(Fenced, match="newer rollout of web has begun"):
        call(catalog, ticket)


def test_a_halt_without_a_failure_goes_on_where_it_was(catalog: Catalog) -> None:
    rollout = open_rollout(catalog)
    ticket = catalog.rollouts.enter(must_claim(catalog, rollout), Step.WATCH)
    catalog.rollouts.halt("web", actor="bob", reason="smoke")
    catalog.rollouts.resume("web", actor="bob", reason="no fire")
    catalog.rollouts.finish(ticket)
    assert catalog.rollouts.slot(rollout.id, 1).state == SlotState.DONE


def test_the_same_holder_gets_its_own_slot_back(catalog: Catalog, clock: ManualClock) -> None:
    rollout = open_rollout(catalog, slots(3))
    first = must_claim(catalog, rollout)
    catalog.rollouts.enter(first, Step.READY)
    second = must_claim(catalog, rollout)
    assert (second.slot, second.step, second.attempt) == ("web-01", Step.READY, 1)
    assert second.token > first.token
    with pytest.raises(Fenced):
        catalog.rollouts.enter(first, Step.CONFIGURE)
    clock.advance(LEASE * 2)
    third = must_claim(catalog, rollout)
    assert (third.slot, kinds(catalog)[-1]) == ("web-01", "slot.reclaimed")


def test_a_failure_halts_the_rollout_at_once(catalog: Catalog, clock: ManualClock) -> None:
    rollout = open_rollout(catalog)
    catalog.rollouts.finish(must_claim(catalog, rollout))
    ticket = must_claim(catalog, rollout, 1)
    catalog.rollouts.fail(ticket, Step.VERIFY, "2 checks failed")
    halted = catalog.rollouts.get(rollout.id)
    assert (halted.state, halted.halted_slot, halted.halted_step) == (RolloutState.HALTED, "web-02", Step.VERIFY)
    assert (halted.halted_reason, halted.halted_by) == ("2 checks failed", "task-1/try-1")
    slot = catalog.rollouts.slot(rollout.id, 2)
    assert (slot.state, slot.step, slot.message) == (SlotState.FAILED, Step.VERIFY, "2 checks failed")
    clock.advance(timedelta(days=30))
    with pytest.raises(Halted, match=r"^web-03 waits: halted by web-02 at verify: 2 checks failed Remedy: "):
        claim(catalog, rollout, 1, holder="task-2/try-1")
    assert kinds(catalog)[-2:] == ["slot.failed", "rollout.halted"]


def test_the_first_failure_is_the_reason_of_the_halt(catalog: Catalog) -> None:
    rollout = open_rollout(catalog, slots(2))
    one, two = (must_claim(catalog, rollout, holder=f"task-{n}", max_in_flight=2) for n in (1, 2))
    catalog.rollouts.fail(one, Step.READY, "first")
    catalog.rollouts.fail(two, Step.VERIFY, "second")
    halted = catalog.rollouts.get(rollout.id)
    assert (halted.halted_slot, halted.halted_reason) == ("web-01", "first")
    assert catalog.rollouts.slot(rollout.id, 2).state == SlotState.FAILED
    catalog.rollouts.resume("web", actor="bob", reason="again")
    assert [slot.attempt for slot in catalog.rollouts.slots(rollout.id)] == [2, 2]


def test_failing_and_finishing_twice_is_harmless(catalog: Catalog) -> None:
    rollout = open_rollout(catalog, slots(2))
    one, two = (must_claim(catalog, rollout, holder=f"task-{n}", max_in_flight=2) for n in (1, 2))
    catalog.rollouts.finish(one)
    catalog.rollouts.finish(one)
    catalog.rollouts.fail(two, Step.VERIFY, "first words")
    catalog.rollouts.fail(two, Step.VERIFY, "other words")
    assert catalog.rollouts.get(rollout.id).halted_reason == "first words"
    assert kinds(catalog)[3:] == ["slot.done", "slot.failed", "rollout.halted"]
    catalog.rollouts.resume("web", actor="bob", reason="again")
    with pytest.raises(Fenced, match="web-02 is waiting"):
        catalog.rollouts.fail(two, Step.VERIFY, "too late")
    with pytest.raises(Fenced, match="web-01 is done"):
        catalog.rollouts.fail(one, Step.VERIFY, "too late")


def test_a_steps_clock_starts_when_the_step_changes(catalog: Catalog, clock: ManualClock) -> None:
    rollout = open_rollout(catalog)
    ticket = must_claim(catalog, rollout)
    begun = clock.now()
    assert catalog.rollouts.enter(ticket, Step.WATCH, facts={"a": 1, "b": 1}).step == Step.WATCH
    clock.advance(timedelta(seconds=5))
    catalog.rollouts.enter(ticket, Step.WATCH, facts={"b": 2}, new_instance="new-01")
    catalog.rollouts.enter(ticket, Step.WATCH)
    slot = catalog.rollouts.slot(rollout.id, 1)
    assert (slot.step_started_at, slot.facts, slot.new_instance) == (begun, {"a": 1, "b": 2}, "new-01")
    assert kinds(catalog).count("slot.step") == 2
    catalog.rollouts.enter(ticket, Step.DRAIN)
    assert catalog.rollouts.slot(rollout.id, 1).step_started_at == clock.now()


def test_a_finished_slot_says_how_long_it_took(catalog: Catalog, clock: ManualClock) -> None:
    rollout = open_rollout(catalog)
    ticket = must_claim(catalog, rollout)
    clock.advance(timedelta(seconds=42.5))
    catalog.rollouts.finish(ticket)
    slot = catalog.rollouts.slot(rollout.id, 1)
    assert (slot.seconds, slot.finished_at, slot.lease_until) == (42.5, clock.now(), None)


def test_the_time_in_which_nobody_had_a_lease_is_none_of_the_steps(catalog: Catalog, clock: ManualClock) -> None:
    rollout = open_rollout(catalog)
    ticket = must_claim(catalog, rollout)
    catalog.rollouts.enter(ticket, Step.ADMIT)
    began = clock.now()
    clock.advance(LEASE + timedelta(minutes=20))
    taken = catalog.rollouts.claim(rollout.id, 0, "another", lease=LEASE, max_in_flight=1)
    assert taken
    assert catalog.rollouts.slot(rollout.id, 1).step_started_at == began + timedelta(minutes=20)
    clock.advance(LEASE - timedelta(seconds=1))
    catalog.rollouts.renew(taken, LEASE)
    assert catalog.rollouts.slot(rollout.id, 1).step_started_at == began + timedelta(minutes=20)
    clock.advance(LEASE + timedelta(minutes=3))
    catalog.rollouts.renew(taken, LEASE)
    assert catalog.rollouts.slot(rollout.id, 1).step_started_at == began + timedelta(minutes=23)


def test_a_holder_past_its_lease_goes_on_as_long_as_nobody_took_over(catalog: Catalog, clock: ManualClock) -> None:
    rollout = open_rollout(catalog)
    ticket = must_claim(catalog, rollout)
    clock.advance(timedelta(hours=24))
    catalog.rollouts.enter(ticket, Step.LAUNCH)
    catalog.rollouts.renew(ticket, LEASE)
    with pytest.raises(Busy):
        claim(catalog, rollout, holder="task-1/try-2")


def test_a_clock_set_back_takes_no_lease_away(catalog: Catalog, clock: ManualClock) -> None:
    rollout = open_rollout(catalog)
    must_claim(catalog, rollout)
    clock.advance(timedelta(hours=-24))
    with pytest.raises(Busy):
        claim(catalog, rollout, holder="task-1/try-2")
