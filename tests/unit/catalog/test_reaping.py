"""What the reaper asks of the catalog, and what keeps it out of every rollout's way, in one transaction."""

from __future__ import annotations

from datetime import timedelta

import pytest

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.records import Action, IntentRecord
from phoenix_fleet.domain.clock import ManualClock
from phoenix_fleet.domain.errors import Busy, Refused
from phoenix_fleet.domain.steps import Step
from tests.unit.catalog.helpers import must_claim, open_rollout


def begin(catalog: Catalog, target: str, action: Action = "terminate", **changes: str) -> IntentRecord:
    params = {"fleet": "web", "slot": "web-01", **changes}
    purpose = params.pop("purpose", "rollout-90")
    return catalog.reaping.begin(action, target, params, purpose=purpose, per_hour=2)


def test_launches_are_found_by_their_tokens(catalog: Catalog) -> None:
    for number in range(3):
        params = {"fleet": "web", "slot": f"web-0{number}", "family": "base"}
        catalog.intents.begin("launch", f"web-0{number}", params, ticket=None, purpose="rollout-1", token=f"t{number}")
    catalog.intents.begin("terminate", "i-1", {"fleet": "web"}, ticket=None, purpose="rollout-1", token="t9")
    found = catalog.reaping.launches(["t1", "t2", "t9", "", *(f"unknown-{number}" for number in range(1500))])
    assert found == {
        "t1": ("rollout-1", "web", "web-01", "base"),
        "t2": ("rollout-1", "web", "web-02", "base"),
    }


def test_who_fills_a_slot_is_what_the_last_completed_replacement_brought(catalog: Catalog) -> None:
    rollout = open_rollout(catalog)
    ticket = must_claim(catalog, rollout)
    catalog.rollouts.finish(catalog.rollouts.enter(ticket, Step.TERMINATE, new_instance="i-new"))
    under_way = must_claim(catalog, rollout, 1)
    catalog.rollouts.enter(under_way, Step.READY, new_instance="i-not-yet")
    assert catalog.reaping.placed(ticket.fleet) == {ticket.slot: "i-new"}
    assert catalog.reaping.placed("shop") == {}


@pytest.mark.parametrize("halted", [False, True])
def test_nothing_of_an_open_or_halted_rollout(catalog: Catalog, halted: bool) -> None:
    rollout = open_rollout(catalog)
    slot = catalog.rollouts.slots(rollout.id)[0].slot
    if halted:
        catalog.rollouts.halt(rollout.fleet, actor="ann", reason="looking")
    for changes in ({"slot": slot}, {"slot": "web-99", "purpose": rollout.purpose}):
        with pytest.raises(Refused):
            begin(catalog, "i-1", fleet=rollout.fleet, **changes)
    assert begin(catalog, "i-1", fleet=rollout.fleet, slot="web-99").outcome is None
    catalog.rollouts.cancel(rollout.fleet, actor="ann", reason="enough")
    assert begin(catalog, "i-2", fleet=rollout.fleet, slot=slot, purpose=rollout.purpose).outcome is None


def test_so_many_terminations_of_a_fleet_in_an_hour(catalog: Catalog, clock: ManualClock) -> None:
    first = begin(catalog, "i-1")
    begin(catalog, "i-2")
    with pytest.raises(Busy):
        begin(catalog, "i-3")
    assert begin(catalog, "i-1").id == first.id
    begin(catalog, "i-3", action="drain")
    begin(catalog, "i-9", fleet="shop")
    clock.advance(timedelta(hours=1, seconds=1))
    begin(catalog, "i-3")


def test_what_is_pending_is_the_reapers_own_and_of_that_fleet(catalog: Catalog) -> None:
    mine = begin(catalog, "i-1")
    begin(catalog, "i-2", fleet="shop")
    catalog.intents.begin("terminate", "i-3", {"fleet": "web"}, ticket=None, purpose="rollout-90", token="attempt-1")
    assert catalog.reaping.pending("web") == [mine]
    unknown = catalog.intents.outcome(mine.id, "unknown", {})
    assert catalog.reaping.pending("web") == [unknown]
    catalog.intents.outcome(mine.id, "done", {})
    assert catalog.reaping.pending("web") == []
