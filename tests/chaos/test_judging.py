from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from phoenix_fleet.catalog.records import EventRecord
from tests.chaos.judging import (
    Births,
    Rest,
    Span,
    faults_of_births,
    is_progress,
    leaks,
    longest_standstill,
    recovery,
)

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def event(kind: str, **payload: Any) -> EventRecord:
    return EventRecord(1, NOON, kind, "fleets/web/rollouts/1/web-01", "x", payload, "", "")


@pytest.mark.parametrize("kind", ["slot.step", "slot.done", "intent.begun", "intent.ended", "rollout.opened"])
def test_what_gets_a_rollout_further_is_progress(kind: str) -> None:
    assert is_progress(event(kind))


@pytest.mark.parametrize("kind", ["slot.taken_over", "slot.claimed", "rollout.halted", "slot.failed", "image.moved"])
def test_who_only_takes_a_ticket_or_halts_makes_no_progress(kind: str) -> None:
    assert not is_progress(event(kind))


def test_to_note_what_one_waits_for_is_no_progress() -> None:
    assert not is_progress(event("slot.step", facts={"blind_since": "2026-11-25T12:00:00+00:00"}))
    assert is_progress(event("slot.step", facts={"healthy_looks": 1}))


def test_recovery_runs_from_the_end_of_the_blow_to_the_first_progress_after_it() -> None:
    assert recovery(at(10), [at(3), at(9.9), at(25), at(17)]) == 7
    assert recovery(at(10), [at(3), at(9.9)]) is None


def test_a_standstill_is_the_longest_time_between_two_marks_less_the_stops() -> None:
    marks = [at(0), at(100), at(40)]
    assert longest_standstill(marks, []) == 60
    assert longest_standstill(marks, [Span(at(50), at(80))]) == 40
    assert longest_standstill(marks, [Span(at(90), at(130))]) == 50
    assert longest_standstill([at(0)], []) == 0


def test_births_tell_double_launches_even_if_the_first_is_gone() -> None:
    births = Births()
    births.born("a", "token-1")
    births.born("a", "token-1")
    assert births.doubles == []
    births.gone("a")
    births.born("b", "token-1")
    assert births.doubles == ["token-1"]
    assert births.most_alive == 1


def test_births_count_what_stood_there_before() -> None:
    births = Births()
    births.standing("old")
    births.born("new", "token-1")
    births.gone("old")
    assert births.most_alive == 2
    assert births.alive == {"new"}


def test_a_birth_that_no_intent_announced_is_a_fault() -> None:
    births = Births()
    births.born("a", "token-1")
    births.born("b", "token-2")
    assert faults_of_births(births, ["token-1", "token-2", "token-3"], most=2) == []
    assert faults_of_births(births, ["token-1"], most=1) == [
        "born without an intent: token-2",
        "2 containers at once, at most 1 are allowed",
    ]
    births.born("c", "token-2")
    assert "launched twice: token-2" in faults_of_births(births, ["token-1", "token-2"], most=3)


CLEAN = Rest({"web-01": ["one"], "web-02": ["two"]}, ["two", "one"], pending=0, held=0)
SLOTS = ["web-01", "web-02"]


def test_nothing_is_left_over_at_rest() -> None:
    assert leaks(CLEAN, SLOTS) == []


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        (Rest({"web-01": ["one"]}, ["one"], 0, 0), "web-02 has 0 containers instead of 1"),
        (
            Rest({**CLEAN.containers, "web-01": ["one", "more"]}, ["one", "two", "more"], 0, 0),
            "web-01 has 2 containers",
        ),
        (
            Rest({**CLEAN.containers, "web-09": ["x"]}, ["one", "two", "x"], 0, 0),
            "web-09 has 1 containers instead of 0",
        ),
        (Rest(CLEAN.containers, ["one", "two", "ghost"], 0, 0), "the balancer has"),
        (Rest(CLEAN.containers, ["one"], 0, 0), "the balancer has"),
        (Rest(CLEAN.containers, CLEAN.servers, 2, 0), "2 intents"),
        (Rest(CLEAN.containers, CLEAN.servers, 0, 1), "1 tickets"),
        (Rest(CLEAN.containers, CLEAN.servers, 0, 0, "broken at 7"), "broken at 7"),
    ],
)
def test_what_is_left_over_is_told(rest: Rest, told: str) -> None:
    (found,) = leaks(rest, SLOTS)
    assert told in found
