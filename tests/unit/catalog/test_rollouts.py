from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import exc

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.records import RolloutRecord, RolloutState, SlotState
from phoenix_fleet.catalog.schema import RolloutRow
from phoenix_fleet.domain.clock import ManualClock
from phoenix_fleet.domain.errors import Busy, Fenced, Halted, InvalidConfig, NotFound, Refused
from phoenix_fleet.domain.planner import PlannedSlot
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.domain.windows import Version
from tests.unit.catalog.helpers import LEASE, NOVEMBER, OCTOBER, V1, Slot, claim, kinds, must_claim, open_rollout, slots

V2 = Version(NOVEMBER, 2)


def finish_all(catalog: Catalog, rollout: RolloutRecord) -> None:
    for wave in sorted({slot.wave for slot in catalog.rollouts.slots(rollout.id)}):
        while ticket := claim(catalog, rollout, wave):
            catalog.rollouts.finish(ticket)


def test_a_rollout_opens_with_its_slots_waiting(catalog: Catalog, clock: ManualClock) -> None:
    rollout = open_rollout(catalog)
    assert (rollout.fleet, rollout.family, rollout.version, rollout.window) == ("web", "debian-base", V1, NOVEMBER)
    assert (rollout.run, rollout.state, rollout.settings) == ("run-1", RolloutState.OPEN, {"size": 4})
    assert (rollout.actor, rollout.reason, rollout.opened_at) == ("alice", "monthly refresh", clock.now())
    assert (rollout.closed_at, rollout.halted_step, rollout.resumed_by) == (None, None, "")
    assert rollout.purpose == f"rollout-{rollout.id}"
    assert [(each.seq, each.slot, each.wave, each.state) for each in catalog.rollouts.slots(rollout.id)] == [
        (1, "web-01", 0, "waiting"),
        (2, "web-02", 1, "waiting"),
        (3, "web-03", 1, "waiting"),
        (4, "web-04", 1, "waiting"),
    ]
    first = catalog.rollouts.slot(rollout.id, 1)
    assert (first.old_instance, first.reason, first.attempt, first.step) == ("old-01", "outdated: 2026.10-1", 1, None)
    assert first.seconds is None


def test_the_planners_slots_are_taken_as_they_are(catalog: Catalog) -> None:
    planned = [PlannedSlot("web-02", 1, "outdated"), PlannedSlot("web-01", 0, "unhealthy", "i-1")]
    rollout = open_rollout(catalog, planned)
    assert [(each.slot, each.old_instance) for each in catalog.rollouts.slots(rollout.id)] == [
        ("web-01", "i-1"),
        ("web-02", ""),
    ]


def test_what_can_be_asked_about_rollouts(catalog: Catalog) -> None:
    assert catalog.rollouts.current("web") is None
    first = open_rollout(catalog)
    assert catalog.rollouts.current("web") == catalog.rollouts.get(first.id) == first
    assert catalog.rollouts.for_run("web", "run-1") == first
    assert catalog.rollouts.for_run("web", "run-2") is None
    assert catalog.rollouts.for_run("db", "run-1") is None
    catalog.rollouts.cancel("web", actor="bob", reason="not now")
    second = open_rollout(catalog, run="run-2")
    assert catalog.rollouts.current("web") == second
    assert [each.id for each in catalog.rollouts.list_rollouts("web")] == [second.id, first.id]


def test_the_same_run_gets_its_rollout_in_whatever_state(catalog: Catalog) -> None:
    rollout = open_rollout(catalog)
    assert open_rollout(catalog, slots(9), version=V2) == rollout
    halted = catalog.rollouts.halt("web", actor="bob", reason="wait")
    assert open_rollout(catalog) == halted
    cancelled = catalog.rollouts.cancel("web", actor="bob", reason="stop")
    assert open_rollout(catalog) == cancelled
    assert len(catalog.rollouts.slots(rollout.id)) == 4


def test_another_rollout_waits_for_the_open_one(catalog: Catalog) -> None:
    open_rollout(catalog, version=Version(OCTOBER, 1), run="october")
    with pytest.raises(Busy, match=r"rollout 1 of web \(to 2026\.10-1, window 2026-10\) is open; opened by october"):
        open_rollout(catalog, run="november")
    open_rollout(catalog, fleet="db", run="november")


def test_another_rollout_is_refused_while_one_is_halted(catalog: Catalog) -> None:
    open_rollout(catalog)
    catalog.rollouts.halt("web", actor="bob", reason="smoke")
    with pytest.raises(Halted, match=r"rollout 1 of web .* is halted: smoke Remedy: .*resumes or cancels"):
        open_rollout(catalog, run="run-2")


@pytest.mark.parametrize("halt", [True, False])
def test_a_staging_fleets_rollout_may_be_superseded(catalog: Catalog, halt: bool) -> None:
    old = open_rollout(catalog)
    if halt:
        catalog.rollouts.halt("web", actor="bob", reason="broken rehearsal")
    new = open_rollout(catalog, run="run-2", version=V2, supersede=True)
    assert catalog.rollouts.get(old.id).state == RolloutState.SUPERSEDED
    assert catalog.rollouts.current("web") == new
    with pytest.raises(Refused, match="is superseded"):
        claim(catalog, old)


def test_nobody_at_work_is_superseded(catalog: Catalog, clock: ManualClock) -> None:
    old = open_rollout(catalog)
    ticket = must_claim(catalog, old)
    with pytest.raises(Busy, match="task-1/try-1 is at web-01"):
        open_rollout(catalog, run="run-2", supersede=True)
    clock.advance(LEASE)
    open_rollout(catalog, run="run-2", supersede=True)
    with pytest.raises(Fenced, match="newer rollout of web has begun"):
        catalog.rollouts.enter(ticket, Step.LAUNCH)


@pytest.mark.parametrize(
    ("planned", "message"),
    [([Slot("web-01"), Slot("web-01", 1)], "more than once: web-01"), ([Slot("web-01", -1)], "below that: web-01")],
)
def test_a_plan_that_makes_no_sense_is_refused(catalog: Catalog, planned: list[Slot], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        open_rollout(catalog, planned)
    assert catalog.rollouts.current("web") is None


def test_settings_that_are_not_json_are_refused(catalog: Catalog) -> None:
    with pytest.raises(InvalidConfig, match="timedelta cannot be stored"):
        open_rollout(catalog, settings={"watch_time": LEASE})
    with pytest.raises(InvalidConfig, match="run"):
        open_rollout(catalog, run="")


def test_two_current_rollouts_of_a_fleet_cannot_even_be_written_down(catalog: Catalog, clock: ManualClock) -> None:
    open_rollout(catalog)
    texts = dict.fromkeys(("family", "version", "refresh_window", "actor", "reason"), "x")
    rogue = RolloutRow(fleet="web", run="rogue", state="halted", settings={}, opened_at=clock.now(), **texts)
    with pytest.raises(exc.IntegrityError), catalog.rollouts._database.write() as tx:
        tx.session.add(rogue)


def test_an_operator_halts_and_resumes(catalog: Catalog, clock: ManualClock) -> None:
    rollout = open_rollout(catalog)
    halted = catalog.rollouts.halt("web", actor="bob", reason="smoke in the building")
    assert (halted.state, halted.halted_by, halted.halted_reason) == ("halted", "bob", "smoke in the building")
    assert (halted.halted_slot, halted.halted_step, halted.halted_at) == ("", None, clock.now())
    assert catalog.rollouts.halt("web", actor="eve", reason="me too") == halted
    with pytest.raises(Halted, match=r"web-01 waits: halted by bob: smoke in the building"):
        claim(catalog, rollout)
    resumed = catalog.rollouts.resume("web", actor="carol", reason="no fire")
    assert (resumed.state, resumed.resumed_by, resumed.halted_by) == ("open", "carol", "")
    assert must_claim(catalog, rollout).attempt == 1
    assert kinds(catalog) == ["rollout.opened", "rollout.halted", "rollout.resumed", "slot.claimed"]


@pytest.mark.parametrize("actor", ["", "   "])
def test_only_a_named_person_resumes(catalog: Catalog, actor: str) -> None:
    open_rollout(catalog)
    catalog.rollouts.halt("web", actor="bob", reason="smoke")
    with pytest.raises(Refused, match="somebody's name"):
        catalog.rollouts.resume("web", actor=actor, reason="go on")
    current = catalog.rollouts.current("web")
    assert current is not None
    assert current.state == RolloutState.HALTED


def test_there_is_nothing_to_resume_unless_it_is_halted(catalog: Catalog) -> None:
    open_rollout(catalog)
    with pytest.raises(Refused, match="is open, so there is nothing to resume"):
        catalog.rollouts.resume("web", actor="bob", reason="go on")


@pytest.mark.parametrize("halt", [True, False])
def test_cancelling_sticks(catalog: Catalog, clock: ManualClock, halt: bool) -> None:
    rollout = open_rollout(catalog)
    if halt:
        catalog.rollouts.halt("web", actor="bob", reason="smoke")
    cancelled = catalog.rollouts.cancel("web", actor="bob", reason="enough")
    assert (cancelled.state, cancelled.closed_by, cancelled.closed_at) == ("cancelled", "bob", clock.now())
    assert catalog.rollouts.cancel("web", actor="eve", reason="again") == cancelled
    assert catalog.rollouts.current("web") is None
    with pytest.raises(Refused, match="is cancelled by bob"):
        claim(catalog, rollout)
    with pytest.raises(NotFound):
        catalog.rollouts.resume("web", actor="bob", reason="no, go on")
    with pytest.raises(Refused, match="not complete"):
        catalog.rollouts.complete(rollout.id)


def test_a_rollout_is_complete_once_every_slot_is_done(catalog: Catalog, clock: ManualClock) -> None:
    rollout = open_rollout(catalog)
    with pytest.raises(Refused, match=r"not done: web-01 \(waiting\), web-02 \(waiting\)"):
        catalog.rollouts.complete(rollout.id)
    finish_all(catalog, rollout)
    done = catalog.rollouts.complete(rollout.id)
    assert (done.state, done.closed_at) == (RolloutState.DONE, clock.now())
    assert catalog.rollouts.complete(rollout.id) == done
    assert claim(catalog, rollout) is None
    assert catalog.rollouts.current("web") is None


def test_a_halted_rollout_is_not_complete(catalog: Catalog) -> None:
    rollout = open_rollout(catalog)
    finish_all(catalog, rollout)
    catalog.rollouts.halt("web", actor="bob", reason="look first")
    with pytest.raises(Halted, match="look first"):
        catalog.rollouts.complete(rollout.id)


def test_a_rollout_with_nothing_to_do_is_complete_at_once(catalog: Catalog) -> None:
    rollout = open_rollout(catalog, [])
    assert claim(catalog, rollout) is None
    assert catalog.rollouts.complete(rollout.id).state == RolloutState.DONE


def test_a_done_rollout_cannot_be_cancelled(catalog: Catalog) -> None:
    rollout = open_rollout(catalog, [])
    catalog.rollouts.complete(rollout.id)
    with pytest.raises(NotFound):
        catalog.rollouts.cancel("web", actor="bob", reason="too late")


@pytest.mark.parametrize(
    "ask",
    [
        lambda catalog: catalog.rollouts.get(7),
        lambda catalog: catalog.rollouts.slots(7),
        lambda catalog: catalog.rollouts.slot(7, 1),
        lambda catalog: catalog.rollouts.complete(7),
        lambda catalog: catalog.rollouts.claim(7, 0, "x", lease=LEASE, max_in_flight=1),
        lambda catalog: catalog.rollouts.halt("web", actor="bob", reason="x"),
        lambda catalog: catalog.rollouts.resume("web", actor="bob", reason="x"),
        lambda catalog: catalog.rollouts.cancel("web", actor="bob", reason="x"),
    ],
)
def test_what_does_not_exist_is_not_found(catalog: Catalog, ask: Callable[[Catalog], object]) -> None:
    with pytest.raises(NotFound):
        ask(catalog)


def test_resuming_gives_what_failed_a_new_attempt(catalog: Catalog, clock: ManualClock) -> None:
    rollout = open_rollout(catalog)
    ticket = must_claim(catalog, rollout)
    catalog.rollouts.enter(ticket, Step.VERIFY, new_instance="new-01", facts={"born": 1})
    catalog.rollouts.fail(ticket, Step.VERIFY, "2 checks failed")
    catalog.rollouts.resume("web", actor="bob", reason="tests mended")
    slot = catalog.rollouts.slot(rollout.id, 1)
    assert (slot.state, slot.attempt, slot.step, slot.new_instance) == (SlotState.WAITING, 2, None, "")
    assert (slot.facts, slot.started_at, slot.message) == ({}, None, "2 checks failed")
    clock.advance(LEASE)
    again = must_claim(catalog, rollout, holder="task-1/try-2")
    assert (again.attempt, again.step) == (2, Step.CHECK)
    assert again.token > ticket.token
    assert catalog.rollouts.slot(rollout.id, 1).started_at == clock.now()


@pytest.mark.parametrize(
    ("resume_at", "attempt", "step", "new_instance"),
    [
        (Step.CHECK, 2, Step.CHECK, ""),
        (Step.LAUNCH, 2, Step.LAUNCH, ""),
        (Step.DRAIN, 1, Step.DRAIN, "new-01"),
        (Step.TERMINATE, 1, Step.TERMINATE, "new-01"),
    ],
)
def test_a_failure_says_where_to_go_on(
    catalog: Catalog, clock: ManualClock, resume_at: Step, attempt: int, step: Step, new_instance: str
) -> None:
    rollout = open_rollout(catalog)
    ticket = must_claim(catalog, rollout)
    catalog.rollouts.enter(ticket, Step.TERMINATE, new_instance="new-01")
    catalog.rollouts.fail(ticket, Step.TERMINATE, "will not go", resume_at=resume_at)
    catalog.rollouts.resume("web", actor="bob", reason="looked at it")
    again = must_claim(catalog, rollout)
    assert (again.attempt, again.step) == (attempt, step)
    clock.advance(LEASE / 2)
    catalog.rollouts.enter(again, step)
    slot = catalog.rollouts.slot(rollout.id, 1)
    assert (slot.new_instance, slot.step_started_at) == (new_instance, clock.now())
