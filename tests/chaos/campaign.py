"""A campaign: rollouts one after another under traffic, struck again and again, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from lab import traffic
from lab.api import ENDED
from lab.older import FAMILY
from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.records import EventRecord, SlotRecord
from phoenix_fleet.config import Project
from phoenix_fleet.domain.errors import PhoenixError
from phoenix_fleet.domain.windows import Version, Window
from tests.chaos.blows import Blow, Part
from tests.chaos.dealing import Dealer, Dealt
from tests.chaos.judging import (
    RECOVERY_LIMIT,
    Births,
    Rest,
    Span,
    faults_of_births,
    is_progress,
    leaks,
    longest_standstill,
    recovery,
)
from tests.chaos.seeing import Records, Watcher, rest
from tests.chaos.world import DAG, FLEET, ChaosLab, Releases, Supervisor, patiently

GIVE_UP = 300.0
"""Seconds without any progress after which nothing more is expected of a run."""
AT_THE_STEP = 20.0
"""Seconds to wait for a replacement to get to the step that a blow is meant for."""
_LAST_EVENTS, _MOST_EVENTS = 200, 5000
"""How many are looked at again and again, and at the end of a rollout."""


@dataclass(frozen=True)
class Struck:
    """A blow with what came of it."""

    dealt: Dealt
    rollout: int
    at: str
    """Slot and step, or what else was under way."""
    recovery: float | None


@dataclass(frozen=True)
class Ran:
    """A rollout's run that has ended."""

    version: Version
    state: str
    seconds: float
    standstill: float


@dataclass
class Outcome:
    """What a campaign came to."""

    seed: int
    asked: int
    struck: list[Struck] = field(default_factory=list)
    runs: list[Ran] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    births: Births = field(default_factory=Births)
    restarts: dict[str, int] = field(default_factory=dict)
    out_of_time: bool = False
    """Whether fewer blows were dealt because the time that it was given was over."""
    missed: int = 0
    """Blows that found nothing to strike and were dealt later."""
    traffic: dict[str, Any] = field(default_factory=dict)
    events: int = 0
    seconds: float = 0.0
    limit: float = RECOVERY_LIMIT
    """Seconds that a fleet may stand still after a blow."""

    @property
    def broken(self) -> list[str]:
        """Every promise that did not hold, in words."""
        failed = self.traffic.get("failed", 0)
        lost = [f"{failed} requests failed: {self.traffic.get('reasons')}"] if failed else []
        whole = self.out_of_time or len(self.struck) >= self.asked
        short = [] if whole else [f"{len(self.struck)} of {self.asked} blows were dealt"]
        return [*self.faults, *self.leaks, *lost, *short]


class Campaign:
    """One campaign in one lab."""

    def __init__(
        self, lab: ChaosLab, seed: int, blows: list[Blow], minutes: float = 0.0, limit: float = RECOVERY_LIMIT
    ) -> None:
        self._lab, self._left = lab, list(blows)
        self._until = time.monotonic() + minutes * 60 if minutes else float("inf")
        self._engine = lab.connections("docker")
        self._slots = Project.find().fleet(FLEET).slots
        self._records = Records(lab)
        self._dealer = Dealer(lab.airflow, self._records)
        self._catalog: Catalog = lab.catalog()
        self._stops: list[Span] = []
        self.outcome = Outcome(seed, len(blows), limit=limit)

    def play(self) -> Outcome:
        """Deal every blow; ends early at the first run that does not end well, or when the time is over."""
        began = time.monotonic()
        base = self._catalog.images.newest_released(FAMILY)
        assert base is not None
        releases = Releases(self._catalog, self._engine, base)
        window = base.version.window.next()
        with Supervisor(self._lab.airflow) as supervisor, Watcher(self._engine) as watcher:
            self.outcome.births = watcher.births
            while self._left and not self.outcome.faults and time.monotonic() < self._until:
                window = window.next()
                try:
                    self._roll_out(releases, window)
                except (
                    TimeoutError,
                    PhoenixError,
                    httpx.HTTPError,
                ) as error:  # what was seen so far is told all the same
                    self.outcome.faults.append(f"the rollout for {window} stopped: {error}")
        self.outcome.out_of_time = time.monotonic() >= self._until
        self.outcome.restarts = dict(supervisor.restarts)
        self._lab.stop_traffic()
        self._conclude(time.monotonic() - began)
        return self.outcome

    def _conclude(self, seconds: float) -> None:
        outcome = self.outcome
        outcome.traffic = traffic.read(self._lab.places.traffic)
        intended = [intent.token for intent in self._catalog.intents.list_intents() if intent.action == "launch"]
        outcome.faults += faults_of_births(outcome.births, intended, len(self._slots) + 1)
        outcome.events, outcome.seconds = self._catalog.events.head().count, seconds
        self._catalog.close()

    # One rollout

    def _roll_out(self, releases: Releases, window: Window) -> None:
        version = releases.stage(window)
        run_id = self._begin(window)
        self._lab.log(f"{version}: {len(self._left)} blows are left")
        early = self._strike_while_it_waits(run_id)
        began = datetime.now(UTC)
        releases.release(version)
        if early is not None:
            self._await_recovery(early, run_id, began, "waits for the release")
        while self._records.state(run_id) not in ENDED and not self.outcome.faults:
            if not self._strike_next(run_id) and self._is_stuck(began):
                self._fault(f"{version} has not moved for {GIVE_UP:.0f} s", run_id)
        if not self.outcome.faults:
            self._judge(version, run_id, began)

    def _begin(self, window: Window) -> str:
        api = self._lab.airflow.api("demo")
        try:
            _until(api.healthy, "Airflow to be healthy", 180)
            api.unpause(DAG)
            return api.trigger(DAG, {"reason": "a campaign", "window": str(window)})
        finally:
            api.close()

    def _judge(self, version: Version, run_id: str, began: datetime) -> None:
        ended, state = datetime.now(UTC), self._records.state(run_id)
        moved = [event.at for event in self._progress(began, _MOST_EVENTS)]
        standstill = longest_standstill([began, *moved, ended], self._stops)
        self.outcome.runs.append(Ran(version, state, (ended - began).total_seconds(), standstill))
        self._lab.log(f"{version}: {state}, stood still for {standstill:.0f} s at most")
        if state != "success":
            self._fault(f"{version} ended as {state}", run_id)
        if standstill > self.outcome.limit:
            self.outcome.faults.append(f"{version} stood still for {standstill:.0f} s")
        self._lab.airflow.end_orphans()
        self.outcome.leaks += self._leaks()

    def _leaks(self) -> list[str]:
        """What is left over, once it has had a moment to go."""
        found: list[str] = []
        for _ in range(20):
            now: Rest = rest(self._lab, self._catalog, self._engine)
            if not (found := leaks(now, self._slots)):
                return []
            time.sleep(1)
        return found

    # One blow

    def _strike_while_it_waits(self, run_id: str) -> Dealt | None:
        """A blow at the triggerer falls while a run waits there for its release: only then does it matter."""
        blow = next((each for each in self._left[:10] if each.part is Part.TRIGGERER), None)
        if blow is None:
            return None
        _until(lambda: self._records.task_state(run_id, "release") == "deferred", "the release to be waited for", 120)
        self._left.remove(blow)
        return self._deal(blow, run_id)

    def _strike_next(self, run_id: str) -> bool:
        """Deal the next blow when its moment has come; False if there is none, or the run ended before."""
        blow = next((each for each in self._left if each.part is not Part.TRIGGERER), None)
        if blow is None or not self._comes(blow, run_id):
            time.sleep(0.5)
            return False
        at = self._where()
        self._left.remove(blow)
        dealt = self._deal(blow, run_id)
        if dealt is None:
            self.outcome.missed += 1
            self._left.append(blow)
            return False
        self._await_recovery(dealt, run_id, dealt.span.end, at)
        return True

    def _comes(self, blow: Blow, run_id: str) -> bool:
        """Wait for the blow's moment; False if the run ended before it came."""
        over = time.monotonic() + blow.pause
        while time.monotonic() < over:
            if self._records.state(run_id) in ENDED:
                return False
            time.sleep(0.2)
        give_up = time.monotonic() + AT_THE_STEP
        while blow.step is not None and time.monotonic() < give_up and f" at {blow.step}" not in self._where():
            if self._records.state(run_id) in ENDED:
                return False
            time.sleep(0.05)
        return True

    def _deal(self, blow: Blow, run_id: str) -> Dealt | None:
        dealt = self._dealer.deal(blow, run_id)
        if dealt is not None and dealt.span.seconds > 1:
            self._stops.append(dealt.span)
        return dealt

    def _await_recovery(self, dealt: Dealt, run_id: str, since: datetime, at: str) -> None:
        took = None
        give_up = time.monotonic() + GIVE_UP
        while took is None and time.monotonic() < give_up:
            time.sleep(0.25)
            took = recovery(since, [event.at for event in self._progress(since)])
            if took is None and self._records.state(run_id) in ENDED:
                took = (datetime.now(UTC) - since).total_seconds()
        rollout = self._catalog.rollouts.current(FLEET)
        self.outcome.struck.append(Struck(dealt, rollout.id if rollout else 0, at, took))
        blow = dealt.blow
        told = f"{took:.1f} s" if took is not None else "never"
        self._lab.log(f"{blow.number}: {blow.act} of {blow.part} ({dealt.target}) at {at}: went on after {told}")
        if took is None:
            self._fault(f"nothing went on after blow {blow.number}, {blow.act} of {blow.part} at {at}", run_id)
        elif took > self.outcome.limit:
            self.outcome.faults.append(f"blow {blow.number}, {blow.act} of {blow.part} at {at}: {took:.0f} s")

    # What is seen

    def _progress(self, since: datetime, limit: int = _LAST_EVENTS) -> list[EventRecord]:
        seen: list[EventRecord] = patiently(lambda: self._catalog.events.list_events(limit=limit), [])
        return [event for event in seen if event.at >= since and is_progress(event)]

    def _where(self) -> str:
        """Which slot is at which step."""
        rollout = patiently(lambda: self._catalog.rollouts.current(FLEET), None)
        if rollout is None:
            return "between rollouts"
        slots: list[SlotRecord] = patiently(lambda: list(self._catalog.rollouts.under_way(rollout.id)), [])
        return ", ".join(f"{slot.slot} at {slot.step}" for slot in slots) or "between replacements"

    def _is_stuck(self, began: datetime) -> bool:
        last = max([began, *(event.at for event in self._progress(began))])
        return (datetime.now(UTC) - last).total_seconds() > GIVE_UP

    def _fault(self, what: str, run_id: str) -> None:
        rollout = self._catalog.rollouts.list_rollouts(FLEET)
        halted = f" Rollout {rollout[0].id} is {rollout[0].state}: {rollout[0].halted_reason}" if rollout else ""
        self.outcome.faults.append(f"{what}.{halted} Tasks: {'; '.join(self._records.told(run_id))}")


def _until(question: Callable[[], bool], what: str, seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while not question():
        if time.monotonic() > give_up:
            raise TimeoutError(f"waited for {what} for {seconds:.0f} s")
        time.sleep(0.3)
