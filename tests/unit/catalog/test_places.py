"""Where a slot stands in the queue, and how it comes to another place: put back to the end, or giving way."""

from __future__ import annotations

from datetime import timedelta

import pytest

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.domain.clock import ManualClock
from phoenix_fleet.domain.errors import Fenced
from phoenix_fleet.domain.steps import Step
from tests.unit.catalog.helpers import claim, must_claim, open_rollout, slots


def test_a_postponed_slot_comes_back_last_and_goes_on_where_it_was(catalog: Catalog, clock: ManualClock) -> None:
    rollout = open_rollout(catalog, slots(1, 2))
    ticket = must_claim(catalog, rollout)
    catalog.rollouts.enter(ticket, Step.DRAIN, new_instance="new-01")
    catalog.rollouts.postpone(ticket, "3 connections")
    with pytest.raises(Fenced, match="web-01 is waiting"):
        catalog.rollouts.holds(ticket)
    assert claim(catalog, rollout, 0) is None
    order = []
    while following := claim(catalog, rollout, 1):
        order.append((following.slot, following.step))
        clock.advance(timedelta(seconds=1))
        catalog.rollouts.enter(following, following.step)
        catalog.rollouts.finish(following)
    assert order == [("web-02", Step.CHECK), ("web-03", Step.CHECK), ("web-01", Step.DRAIN)]
    slot = catalog.rollouts.slot(rollout.id, 1)
    assert (slot.wave, slot.postponed, slot.attempt, slot.new_instance) == (1, 1, 1, "new-01")
    assert slot.step_started_at == clock.now()
    assert catalog.rollouts.slots(rollout.id)[-1].slot == "web-01"


def test_a_slot_that_gives_way_changes_places(catalog: Catalog, clock: ManualClock) -> None:
    rollout = open_rollout(catalog, slots(1, 2))
    ticket = must_claim(catalog, rollout)
    assert catalog.rollouts.give_way(ticket, "web-03", "nothing serves there")
    with pytest.raises(Fenced, match="web-01 is waiting"):
        catalog.rollouts.holds(ticket)
    order = []
    for wave in (0, 1):
        while following := claim(catalog, rollout, wave):
            order.append((following.slot, wave))
            assert following.token > ticket.token
            catalog.rollouts.finish(following)
    assert order == [("web-03", 0), ("web-02", 1), ("web-01", 1)]
    assert catalog.rollouts.slot(rollout.id, 1).message == "nothing serves there"
    catalog.events.verify()


def test_nobody_gives_way_to_a_slot_that_does_not_wait(catalog: Catalog, clock: ManualClock) -> None:
    rollout = open_rollout(catalog, slots(1, 2))
    catalog.rollouts.finish(must_claim(catalog, rollout))
    ticket = claim(catalog, rollout, 1)
    assert ticket
    assert not catalog.rollouts.give_way(ticket, "web-01", "it is done")
    assert not catalog.rollouts.give_way(ticket, "web-09", "there is none")
    assert catalog.rollouts.holds(ticket).slot == ticket.slot
