from __future__ import annotations

from typing import Any

import pytest

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.records import Action, IntentRecord, Ticket
from phoenix_fleet.domain.clock import ManualClock
from phoenix_fleet.domain.errors import IntentMismatch, InvalidConfig, NotFound, Refused
from phoenix_fleet.domain.steps import Step
from tests.unit.catalog.helpers import LEASE, kinds, must_claim, open_rollout

PARAMS = {"image": "registry:5000/debian-base@sha256:aa", "memory": 512}


def begin(
    catalog: Catalog,
    action: Action = "launch",
    target: str = "web-01",
    params: dict[str, Any] | None = None,
    *,
    ticket: Ticket | None = None,
    **more: Any,
) -> IntentRecord:
    more.setdefault("purpose", "rollout-1")
    return catalog.intents.begin(action, target, PARAMS if params is None else params, ticket=ticket, **more)


def test_an_intent_is_committed_before_the_call(catalog: Catalog, clock: ManualClock) -> None:
    ticket = must_claim(catalog, open_rollout(catalog))
    intent = begin(catalog, ticket=ticket, token="abc")
    assert (intent.purpose, intent.action, intent.target, intent.token) == ("rollout-1", "launch", "web-01", "abc")
    assert (intent.params, intent.rollout_id, intent.slot) == (PARAMS, ticket.rollout_id, "web-01")
    assert (intent.fence, intent.outcome, intent.result) == (ticket.token, None, {})
    assert (intent.begun_at, intent.ended_at) == (clock.now(), None)
    assert catalog.intents.pending() == [intent]
    event = catalog.events.list_events("intents/rollout-1/")[0]
    assert (event.kind, event.actor, event.payload["params"]) == ("intent.begun", ticket.holder, PARAMS)


def test_an_outcome_ends_it(catalog: Catalog, clock: ManualClock) -> None:
    intent = begin(catalog)
    ended = catalog.intents.outcome(intent.id, "done", {"instance": "i-1"})
    assert (ended.outcome, ended.result, ended.ended_at) == ("done", {"instance": "i-1"}, clock.now())
    assert catalog.intents.outcome(intent.id, "done", {"instance": "i-1"}) == ended
    assert catalog.intents.pending() == []
    assert catalog.intents.list_intents() == [ended]
    assert kinds(catalog) == ["intent.begun", "intent.ended"]


def test_an_unknown_outcome_is_still_pending(catalog: Catalog) -> None:
    intent = begin(catalog)
    catalog.intents.outcome(intent.id, "unknown", {"error": "reply lost"})
    assert [each.outcome for each in catalog.intents.pending()] == ["unknown"]
    catalog.intents.outcome(intent.id, "failed", {})
    assert catalog.intents.pending() == []


def test_what_is_unsettled_is_known_by_fleet_and_slot_whichever_rollout_it_was_of(catalog: Catalog) -> None:
    first = must_claim(catalog, open_rollout(catalog))
    mine = begin(catalog, ticket=first, token="mine")
    told = begin(catalog, ticket=first, token="told")
    unknown = catalog.intents.outcome(told.id, "unknown", {})
    done = begin(catalog, ticket=first, token="done")
    catalog.intents.outcome(done.id, "done", {})
    theirs = begin(catalog, ticket=must_claim(catalog, open_rollout(catalog, fleet="api")), purpose="rollout-2")
    catalog.rollouts.cancel("web", actor="alice", reason="changed her mind")
    again = must_claim(catalog, open_rollout(catalog, run="run-2"))
    also = begin(catalog, ticket=again, purpose="rollout-3")
    assert mine.slot == theirs.slot == also.slot
    assert catalog.intents.unsettled("web", mine.slot) == [mine, unknown, also]
    assert catalog.intents.unsettled("api", mine.slot) == [theirs]
    assert catalog.intents.unsettled("web", "web-09") == []


def test_done_stays_done_whatever_a_slower_caller_says(catalog: Catalog) -> None:
    intent = begin(catalog)
    done = catalog.intents.outcome(intent.id, "done", {"instance": "i-1"})
    assert catalog.intents.outcome(intent.id, "failed", {"error": "timed out"}) == done
    assert kinds(catalog) == ["intent.begun", "intent.ended", "intent.ended"]


@pytest.mark.parametrize("outcome", ["done", "failed", "unknown"])
def test_begun_again_it_is_the_same_intent_and_pending_again(catalog: Catalog, outcome: Any) -> None:
    intent = begin(catalog)
    catalog.intents.outcome(intent.id, outcome, {"instance": "i-1"})
    again = begin(catalog)
    assert (again.id, again.outcome, again.ended_at, again.result) == (intent.id, None, None, {"instance": "i-1"})
    assert catalog.intents.pending() == [again]
    assert kinds(catalog) == ["intent.begun", "intent.ended", "intent.repeated"]


def test_every_call_has_its_own_outcome_on_the_chain(catalog: Catalog) -> None:
    for _ in range(2):
        catalog.intents.outcome(begin(catalog).id, "done", {"instance": "i-1"})
    assert kinds(catalog) == ["intent.begun", "intent.ended", "intent.repeated", "intent.ended"]


def test_parameters_are_frozen(catalog: Catalog) -> None:
    intent = begin(catalog)
    assert begin(catalog, params={"memory": 512, "image": PARAMS["image"]}).id == intent.id
    with pytest.raises(IntentMismatch, match="'launch web-01' was begun with other parameters"):
        begin(catalog, params={**PARAMS, "memory": 1024})
    assert catalog.intents.list_intents()[0].params == PARAMS


def test_after_a_takeover_it_is_the_same_intent_with_the_frozen_parameters(
    catalog: Catalog, clock: ManualClock
) -> None:
    rollout = open_rollout(catalog)
    intent = begin(catalog, ticket=must_claim(catalog, rollout))
    clock.advance(LEASE)
    ticket = must_claim(catalog, rollout, holder="task-1/try-2")
    again = begin(catalog, ticket=ticket)
    assert (again.id, again.fence) == (intent.id, ticket.token)
    with pytest.raises(IntentMismatch):
        begin(catalog, ticket=ticket, params={})


def test_a_new_attempt_is_a_new_intent(catalog: Catalog) -> None:
    rollout = open_rollout(catalog)
    ticket = must_claim(catalog, rollout)
    first = begin(catalog, ticket=ticket)
    catalog.rollouts.fail(ticket, Step.READY, "it never answered")
    catalog.rollouts.resume("web", actor="bob", reason="again")
    second = begin(catalog, ticket=must_claim(catalog, rollout), params={"other": True})
    assert (first.token, second.token) == ("attempt-1", "attempt-2")
    assert first.id != second.id


@pytest.mark.parametrize(
    "changes", [{"purpose": "rollout-2"}, {"action": "admit"}, {"target": "web-02"}, {"token": "other"}]
)
def test_any_other_call_is_another_intent(catalog: Catalog, changes: dict[str, Any]) -> None:
    first, second = begin(catalog), begin(catalog, **changes)
    assert first.id != second.id
    assert catalog.intents.pending() == [first, second]


def test_intents_are_listed_by_purpose(catalog: Catalog) -> None:
    one = begin(catalog, "tag_image", "registry:5000/x", purpose="image-run-1")
    two = begin(catalog, purpose="rollout-1")
    assert catalog.intents.list_intents("image-run-1") == catalog.intents.pending("image-run-1") == [one]
    assert catalog.intents.list_intents("rollout-1") == [two]
    assert catalog.intents.list_intents("rollout") == []


def test_words_that_do_not_exist_are_refused(catalog: Catalog) -> None:
    with pytest.raises(InvalidConfig, match="'kill' is not a mutating call: launch, admit"):
        begin(catalog, "kill")  # type: ignore[arg-type]
    with pytest.raises(InvalidConfig, match="'maybe' is not an outcome: done, failed, unknown"):
        catalog.intents.outcome(begin(catalog).id, "maybe", {})  # type: ignore[arg-type]
    with pytest.raises(NotFound, match="intent 99"):
        catalog.intents.outcome(99, "done", {})


@pytest.mark.parametrize("known", [True, False])
def test_clean_up_touches_the_new_instance_alone(catalog: Catalog, known: bool) -> None:
    ticket = must_claim(catalog, open_rollout(catalog))
    if known:
        catalog.rollouts.enter(ticket, Step.READY, new_instance="new-01")
    catalog.rollouts.halt("web", actor="bob", reason="smoke")
    refused: list[tuple[Action, str]] = [
        ("terminate", "old-01"),
        ("terminate", ""),
        ("launch", "new-01"),
        ("admit", "new-01"),
    ]
    if known:
        refused.append(("terminate", "someone-elses"))
    for action, target in refused:
        with pytest.raises(Refused, match="is not the clean-up of a new instance"):
            begin(catalog, action, target, ticket=ticket, cleanup=True)
    for allowed in ("remove", "drain", "terminate"):
        begin(catalog, allowed, "new-01", ticket=ticket, cleanup=True)
    assert [intent.target for intent in catalog.intents.pending()] == ["new-01"] * 3
