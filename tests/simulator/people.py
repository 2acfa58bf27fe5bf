"""The people of a seed: they open rollouts, look into what has halted, give up, and tidy up by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phoenix_fleet.catalog.records import RolloutRecord, RolloutState
from phoenix_fleet.domain.errors import NotFound, PhoenixError
from phoenix_fleet.domain.fleets import Plan
from phoenix_fleet.domain.models import Backend, InstanceState
from phoenix_fleet.domain.windows import Version, Window
from phoenix_fleet.rollout import pending
from phoenix_fleet.rollout.deps import Deps
from phoenix_fleet.rollout.planning import draw_plan, freeze
from tests.simulator.database import FAMILY, artefact_of
from tests.simulator.holder import Holder, short
from tests.simulator.laws import Violation

if TYPE_CHECKING:
    from tests.simulator.play import Play

PATIENCE = 6
"""So many rollouts at most that bring the fleet no nearer to its release: how many it needs in all depends on its size,
where the drain's policy halts at each machine whose sessions outlast the limit."""
TRIED = 3
"""After so many a person tidies up whatever people have put where it does not belong."""


class People:
    """Whoever opens rollouts, looks into what has halted, and tidies up by hand."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.rollout: RolloutRecord | None = None
        self.last_wave = 0
        self.opened = 0
        self.aim: Version | None = None
        self.least = 0
        """So few slots were left when a rollout to ``aim`` opened."""
        self.futile = 0
        """So many rollouts opened since then."""
        self.halts = 0
        self.asked_for_help = False

    def open(self) -> None:
        """Somebody, or the schedule, opens a rollout, and holders begin."""
        version = self.play.troubles.release()
        holder = self.play.catalog
        try:
            image = self.play.image(version)
            plan = draw_plan(_ReadDeps(self.play).deps(), self.play.fleet, image)
        except PhoenixError as error:
            self.play.say(f"no plan: {short(error)}")
            self.play.after(60.0, self.open)
            return
        if not plan.slots:
            self._at_rest(plan)
            return
        self._lose_patience(version, plan)
        self.opened += 1
        self.halts = 0
        self.rollout = holder.rollouts.open(
            self.play.fleet.name,
            FAMILY,
            version,
            Window(2026, 11),
            f"run-{self.opened}",
            plan.slots,
            settings=freeze(self.play.fleet),
            actor="airflow",
            reason="scheduled refresh",
        )
        self.last_wave = max(each.wave for each in plan.slots)
        self.play.say(
            f"rollout {self.rollout.id} to {version}: {len(plan.slots)} of {self.play.scenario.size} machines"
        )
        unfilled = frozenset(each.slot for each in plan.slots if not each.old_instance)
        self.play.laws.aim(str(version), artefact_of(version).digest, unfilled)
        for _ in range(self.play.scenario.engines):
            self.play.hire()

    def _lose_patience(self, version: Version, plan: Plan) -> None:
        """:raises Violation: as many rollouts as anybody waits for have brought the fleet no nearer to that release."""
        if version != self.aim or len(plan.slots) < self.least:
            self.aim, self.least, self.futile = version, len(plan.slots), 0
        self.futile += 1
        if self.futile > PATIENCE:
            told = f"{PATIENCE} rollouts have brought the fleet no nearer to its release"
            raise Violation(f"I16: {told}: {plan.lines()[:3]}")

    def halted(self, holder: Holder, error: Exception) -> None:
        """A holder has come to a halt: somebody is told and looks into it."""
        holder.tell(f"stops: {short(error)}")
        self.call_for_help()

    def call_for_help(self) -> None:
        """Let somebody look after some time, unless somebody is on the way."""
        if not self.asked_for_help:
            self.asked_for_help = True
            self.play.after(self.play.rng.uniform(30.0, 600.0), self.help)

    def help(self) -> None:
        """Alice looks: she resumes, or gives up on this rollout and begins another once the trouble is over."""
        self.asked_for_help = False
        rollout = self.rollout
        if rollout is None or self.play.catalog.rollouts.get(rollout.id).state is not RolloutState.HALTED:
            return
        self.halts += 1
        if self.halts >= 3 or self.play.troubles.hopeless:
            self.cancel("gives up")
            return
        self.play.say("alice resumes")
        self.play.catalog.rollouts.resume(self.play.fleet.name, actor="alice", reason="looked into it")
        for _ in range(self.play.scenario.engines):
            self.play.hire()

    def cancel(self, why: str) -> None:
        """Alice cancels what is open; when the weather is better there is another rollout."""
        try:
            self.play.catalog.rollouts.cancel(self.play.fleet.name, actor="alice", reason=why)
        except NotFound:
            return
        self.play.say(f"alice cancels: {why}")
        self.play.troubles.calm()
        self.play.after(400.0, self._begin_again)

    def _begin_again(self) -> None:
        """Once every lag is over: what is broken beyond repair is terminated by hand, then a rollout opens."""
        for machine in list(self.play.world.roster.values()):
            if machine.ours and machine.now.fleet == self.play.fleet.name and machine.now.state is InstanceState.FAILED:
                self.play.say(f"alice terminates {machine.now.name}")
                self.play.world.tell_server(machine, Backend.ABSENT)
                self.play.world.set_state(machine, InstanceState.GONE)
        self._undo_doubles()
        self._admit_by_hand()
        self.play.after(60.0, self.open)

    def _undo_doubles(self) -> None:
        """What serves on the release is never taken (I13), so a person takes one of two that people put in one slot.

        After some rollouts that came to nothing also one that stands beside another release: it may hold the last of
        a zone in the wrong slot, and only a person can say where it belongs.
        """
        for slot in self.play.fleet.slots:
            there = [
                each
                for each in self.play.world.roster.values()
                if each.ours and (each.now.fleet, each.now.slot) == (self.play.fleet.name, slot)
                if each.now.state is InstanceState.RUNNING
                if each.now.version == self.play.laws.target or self.opened >= TRIED
            ]
            doubles = [each for each in there if each.marks_since > 0 or each.now.id in self.play.laws.outsiders]
            for machine in doubles[: len(there) - 1]:
                self.play.say(f"alice terminates {machine.now.name}")
                self.play.world.tell_server(machine, Backend.ABSENT)
                self.play.world.set_state(machine, InstanceState.GONE)

    def _admit_by_hand(self) -> None:
        """Where the brake would stop every rollout, a person first lets what runs serve again."""
        world = self.play.world
        dark = [slot for slot in self.play.fleet.slots if not world.lit[slot]]
        if len(dark) <= self.play.laws.brake.most:
            return
        for machine in list(world.roster.values()):
            known = machine.ours and machine.now.fleet == self.play.fleet.name and machine.now.slot in dark
            if known and machine.now.state is InstanceState.RUNNING and machine.server is not Backend.HEALTHY:
                self.play.say(f"alice admits {machine.now.name}")
                world.tell_server(machine, Backend.STARTING)

    def completed(self, rollout: RolloutRecord) -> None:
        """A rollout is done: whatever is still not right is a matter for the next one."""
        if self.rollout is not None and rollout.id == self.rollout.id:
            self.play.say(f"rollout {rollout.id} is done")
            self.rollout = None
            self.play.troubles.calm()
            self.play.after(400.0, self._begin_again)

    def _at_rest(self, plan: Plan) -> None:
        # As the reaper does each hour; the rest of what it does is none of a rollout's promises.
        deps = _ReadDeps(self.play).deps()
        pending.settle_left(deps, self.play.catalog, self.play.fleet.name, deps.log)
        self.play.laws.at_rest(frozenset(slot for slot, _ in plan.refusals))
        self.play.say(f"at rest: {len(self.play.world.serving)} machines serve on {self.play.laws.target}")
        self.play.ending = "at rest"


class _ReadDeps:
    """What a plan is drawn with: the same world, seen by nobody's process."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.catalog = play.catalog
        self.clock = play.clock

    def deps(self) -> Deps:
        """Reads only."""
        return self.play.deps(self)  # type: ignore[arg-type]
