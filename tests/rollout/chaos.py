"""A fleet to which anything may happen between two steps of its engines, and what must hold all the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from phoenix_fleet.catalog.records import RolloutState, SlotState, Ticket
from phoenix_fleet.domain import errors
from phoenix_fleet.domain.models import InstanceState
from phoenix_fleet.domain.windows import Version
from phoenix_fleet.rollout.engine import Engine
from tests.rollout.scene import LEASE, OLD, Scene
from tests.rollout.snapshots import Snapshot
from tests.rollout.worlds import QUICK

NEWER = Version.parse("2026.11-2")
REFUSALS = (
    errors.Fenced,
    errors.Halted,
    errors.StepFailed,
    errors.Busy,
    errors.Refused,
    errors.NotFound,
    errors.TransientError,
)
"""What an engine or a person may be told; anything else is a bug."""


class Crash(BaseException):
    """The process is gone."""


class Chaos:
    """A scene, up to three holders, and everything that can go wrong, each as one method."""

    def __init__(self, folder: Path) -> None:
        self.scene = Scene(folder, size=3, **QUICK, drain={"limit": "30s", "policy": "force"})
        self.scene.prepare()
        self.scene.release(NEWER)
        self.scene.strict = True
        self.foreign = [
            self.scene.platform.add_foreign("web-01-9", fleet="web", slot="web-01", version=str(OLD), token="t"),
            self.scene.platform.add_foreign("web-02-copy", owner="", fleet="web", slot="web-02"),
        ]
        self.file = self.scene.fleet
        self.beginning: Snapshot = self.scene.snapshot()

    def begin(self) -> None:
        """Everything as in the beginning."""
        scene = self.scene
        scene.restore(self.beginning)
        scene.fleet = self.file
        self.tickets: dict[int, tuple[Engine, Ticket]] = {}
        self.runs = 0
        self.highest: dict[int, int] = {}
        self.retagged: set[str] = set()

    # What engines do

    def open(self, version: Version) -> None:
        """The next rollout, by the file as it is now; the catalog refuses it while another one is current."""
        self.runs += 1
        self._tried(lambda: self.scene.open(run=f"run-{self.runs}", version=version))

    def claim(self, holder: int) -> None:
        """This holder draws a ticket, like another try: whatever it held before it knows no more."""
        rollout = self.scene.catalog.rollouts.current("web")
        if rollout is None:
            return
        self.tickets.pop(holder, None)
        engine = self.scene.engine(rollout)
        left = [each.wave for each in self.scene.catalog.rollouts.slots(rollout.id) if each.state is not SlotState.DONE]
        if not left:
            self._tried(lambda: self.scene.catalog.rollouts.complete(rollout.id))
            return
        ticket = self._tried(
            lambda: self.scene.catalog.rollouts.claim(
                rollout.id, min(left), self.scene.holder(), lease=LEASE, max_in_flight=engine.in_flight_limit()[0]
            )
        )
        if ticket is not None:
            assert ticket.token > self.highest.get(rollout.id, 0), "tokens only count up"
            self.highest[rollout.id] = ticket.token
            self.tickets[holder] = (engine, ticket)

    def advance(self, holder: int, steps: int) -> None:
        """So many looks, each after the wait that the one before asked for, unless it is refused."""
        for _ in range(steps):
            if holder not in self.tickets:
                return
            engine, ticket = self.tickets[holder]
            progress = self._tried(lambda e=engine, t=ticket: e.advance(t))  # type: ignore[misc]
            if progress is None or progress.state == "done":
                del self.tickets[holder]
                return
            self.scene.clock.advance(progress.check_after)

    def crash(self, holder: int, after: int) -> None:
        """The holder dies at the so-maniest moment around a call of its next look."""
        left = after

        def meet(position: str, method: str, subject: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash

        self.scene.on_call = meet
        try:
            self.advance(holder, 1)
        except Crash:
            self.tickets.pop(holder, None)
        finally:
            self.scene.on_call = lambda position, method, subject: None

    # What people do

    def halt(self) -> None:
        self._tried(lambda: self.scene.catalog.rollouts.halt("web", actor="alice", reason="looks wrong"))

    def resume(self) -> None:
        self._tried(lambda: self.scene.catalog.rollouts.resume("web", actor="alice", reason="looked into it"))

    def cancel(self) -> None:
        self._tried(lambda: self.scene.catalog.rollouts.cancel("web", actor="alice", reason="not today"))

    def edit(self, changes: dict[str, Any]) -> None:
        """The fleet file changes; the rollout that is open goes on as it was frozen."""
        if self.scene.catalog.rollouts.current("web") is None:
            self.scene.fleet = self.file.model_copy(update=changes)

    # What the world does

    def flip(self, number: int, healthy: bool) -> None:
        names = sorted(each["name"] for each in self.scene.living().values())
        if names:
            self.scene.balancer.set_health(names[number % len(names)], healthy=healthy)

    def strike(self, number: int, count: int) -> None:
        """Somebody else terminates machines, or a zone goes down: so many at once."""
        living = sorted(self.scene.living())
        for key in [living[(number + each) % len(living)] for each in range(min(count, len(living)))]:
            with self.scene.platform.world.transaction() as data:
                machine = data["machines"][key]
                machine["timeline"].append([self.scene.platform.world.now(), str(InstanceState.GONE)])
            self.scene.balancer.set_health(self.scene.platform.machines()[key]["name"], healthy=False)

    def retag(self, number: int) -> None:
        """Somebody takes our mark off a machine."""
        living = sorted(self.scene.living())
        if living and not self.retagged:
            key = living[number % len(living)]
            with self.scene.platform.world.transaction() as data:
                data["machines"][key]["owner"] = ""
            self.retagged.add(key)

    def sleep(self, seconds: int) -> None:
        self.scene.clock.advance(timedelta(seconds=seconds))

    def jump(self, hours: int) -> None:
        """The clock that catalog and engines go by is set forward or back; the world's own time goes on."""
        off = self.scene.watch_on_the_wall.off + timedelta(hours=hours)
        if abs(off) <= timedelta(hours=24):
            self.scene.watch_on_the_wall.off = off

    def lag(self, seconds: int) -> None:
        self.scene.platform.lag(float(seconds))

    def throttle(self, calls: int) -> None:
        self.scene.platform.throttle(calls)

    def lose_reply(self, method: str) -> None:
        self._driver(method).lose_reply(method)

    def fail_next(self, method: str, error: errors.PhoenixError) -> None:
        self._driver(method).fail_next(method, error)

    # What must hold

    def check(self) -> None:
        """After every step; what must hold at the moment of a call the scene itself checks at every call."""
        scene = self.scene
        assert not scene.violations, scene.violations
        machines = scene.platform.machines()
        touched = {call.subject for call in scene.platform.calls("terminate")}
        assert not touched & set(self.foreign), "a machine that is not ours was terminated"
        tokens = [each["token"] for each in machines.values() if each["state"] is not InstanceState.GONE]
        assert len([t for t in tokens if t and t != "t"]) == len({t for t in tokens if t and t != "t"})
        rollout = scene.catalog.rollouts.current("web")
        if rollout is not None:
            under_way = scene.catalog.rollouts.under_way(rollout.id)
            assert len(under_way) <= json.loads(json.dumps(dict(rollout.settings)))["max_in_flight"]
            assert rollout.state in (RolloutState.OPEN, RolloutState.HALTED)

    def end(self) -> None:
        """The record of it all is whole, and no call was made that was not meant."""
        self.scene.catalog.events.verify()

    def calm(self) -> None:
        """Nothing goes wrong any more: with persons who resume, the fleet comes to its target."""
        scene = self.scene
        for driver in (scene.platform, scene.balancer):
            with driver.world.transaction() as data:
                data.update(faults=[], throttle=0, lag=0.0, sick=[])
        scene.watch_on_the_wall.off = timedelta()
        scene.clock.advance(timedelta(hours=25))
        self.cancel()
        rollout = scene.open(run="the-last", version=NEWER)
        for _ in range(8):
            try:
                assert scene.run(rollout).state is RolloutState.DONE
            except (errors.StepFailed, errors.Halted):
                self.resume()
            else:
                break
        assert scene.state(rollout) is RolloutState.DONE, "\n".join(scene.story)
        assert set(scene.versions()) == set(self.file.slots) | {m["slot"] for m in scene.living().values()}
        assert {v for found in scene.versions().values() for v in found} == {str(NEWER)}, scene.versions()

    def _driver(self, method: str) -> Any:
        return self.scene.balancer if method in ("admit", "drain", "remove", "state") else self.scene.platform

    def _tried(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except REFUSALS:
            return None
