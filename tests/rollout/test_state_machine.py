"""Anything in any order: engines that advance, die, sleep and wake, people who steer, and a world that fails.

What must hold at the moment of a call that changes something is checked at every such call (tests/rollout/strict.py,
scene.py), the rest after every rule (chaos.py). ``PHOENIX_STORIES`` says how many are told.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from phoenix_fleet.domain import errors
from tests.rollout.chaos import NEWER, Chaos
from tests.rollout.conftest import MEMORY
from tests.rollout.scene import NEW
from tests.sampling import WHOLE

holders = st.integers(0, 2)
numbers = st.integers(0, 5)
methods = st.sampled_from(
    ["launch", "terminate", "get_instance", "list_instances", "list_images", "admit", "drain", "remove", "state"]
)
failures = st.sampled_from(
    [
        errors.Unavailable("away"),
        errors.TimedOut("slow"),
        errors.Throttled("slow down"),
        errors.CapacityExhausted("full"),
    ]
)
edits = st.sampled_from(
    [{"max_surge": "1", "max_unavailable": "0"}, {"max_surge": "0", "max_unavailable": "1"}, {"max_surge": "2"}]
)

_chaos: list[Chaos] = []


@pytest.fixture(scope="module", autouse=True)
def chaos() -> Iterator[None]:
    """One scene for every example: each begins by restoring it."""
    folder = Path(tempfile.mkdtemp(prefix="phoenix-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
    _chaos.append(Chaos(folder))
    yield
    _chaos.pop().scene.catalog.close()
    shutil.rmtree(folder, ignore_errors=True)


class Fleet(RuleBasedStateMachine):
    """Every rule is a method of ``Chaos``."""

    @initialize(calm=st.integers(0, 19), version=st.sampled_from([NEW, NEWER]))
    def begin(self, calm: int, version: object) -> None:
        self.chaos = _chaos[-1]
        self.chaos.begin()
        self.ends_calm = calm == 0
        self.chaos.open(NEW if version == NEW else NEWER)

    @rule(newer=st.booleans())
    def open(self, newer: bool) -> None:
        self.chaos.open(NEWER if newer else NEW)

    @rule(holder=holders)
    def claim(self, holder: int) -> None:
        self.chaos.claim(holder)

    @rule(holder=holders, steps=st.integers(1, 25))
    def work(self, holder: int, steps: int) -> None:
        if holder not in self.chaos.tickets:
            self.chaos.claim(holder)
        self.chaos.advance(holder, steps)

    @rule(holder=st.integers(0, 1), steps=st.integers(5, 25))
    def work_long(self, holder: int, steps: int) -> None:
        self.work(holder, steps)

    @rule(holder=holders, steps=st.integers(1, 4))
    def advance(self, holder: int, steps: int) -> None:
        self.chaos.advance(holder, steps)

    @rule(holder=holders, after=st.integers(0, 15))
    def crash(self, holder: int, after: int) -> None:
        self.chaos.crash(holder, after)

    @rule(how=st.sampled_from(["halt", "resume", "resume", "resume", "cancel"]))
    def steer(self, how: str) -> None:
        getattr(self.chaos, how)()

    @rule(changes=edits)
    def edit(self, changes: dict[str, str]) -> None:
        self.chaos.edit(changes)

    @rule(number=numbers, healthy=st.booleans())
    def flip(self, number: int, healthy: bool) -> None:
        self.chaos.flip(number, healthy)

    @rule(number=numbers, count=st.sampled_from([1, 1, 1, 2]))
    def strike(self, number: int, count: int) -> None:
        self.chaos.strike(number, count)

    @rule(number=numbers)
    def retag(self, number: int) -> None:
        self.chaos.retag(number)

    @rule(seconds=st.sampled_from([1, 5, 30, 61, 400]))
    def sleep(self, seconds: int) -> None:
        self.chaos.sleep(seconds)

    @rule(hours=st.sampled_from([-24, -1, 1, 24]))
    def jump(self, hours: int) -> None:
        self.chaos.jump(hours)

    @rule(seconds=st.sampled_from([0, 0, 10, 60, 300]))
    def lag(self, seconds: int) -> None:
        self.chaos.lag(seconds)

    @rule(calls=st.integers(1, 5))
    def throttle(self, calls: int) -> None:
        self.chaos.throttle(calls)

    @rule(method=methods)
    def lose_reply(self, method: str) -> None:
        self.chaos.lose_reply(method)

    @rule(method=methods, error=failures)
    def fail_next(self, method: str, error: errors.PhoenixError) -> None:
        self.chaos.fail_next(method, error)

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "chaos"):
            self.chaos.check()

    def teardown(self) -> None:
        if hasattr(self, "chaos"):
            self.chaos.end()
            if self.ends_calm and not self.chaos.retagged:
                self.chaos.calm()


def run(examples: int, *, random: bool = False) -> None:
    run_state_machine_as_test(
        Fleet,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            derandomize=not random,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.slow
def test_stories_without_a_violation() -> None:
    """Some 0.7 s of one core each, so an eighth of the whole by default."""
    run(int(os.environ.get("PHOENIX_STORIES", "1000" if WHOLE else "90")))
