"""One seed played from its first event to rest: the real engine, the real SQL, virtual time, one thread."""

from __future__ import annotations

import hashlib
import heapq
import os
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from phoenix_fleet.balancers import none
from phoenix_fleet.balancers.base import Balancer
from phoenix_fleet.catalog.records import RolloutRecord, RolloutState
from phoenix_fleet.config import Fleet
from phoenix_fleet.domain.errors import (
    Busy,
    Fenced,
    Halted,
    NotFound,
    PhoenixError,
    Refused,
    StepFailed,
    TransientError,
)
from phoenix_fleet.domain.fleets import Plan
from phoenix_fleet.domain.models import Backend, Environment, Instance, InstanceState
from phoenix_fleet.domain.windows import Version, Window
from phoenix_fleet.rollout.deps import Deps, NamedGate
from phoenix_fleet.rollout.engine import Engine
from phoenix_fleet.rollout.planning import draw_plan, freeze
from phoenix_fleet.rollout.progress import Progress
from tests.simulator.database import FAMILY, NEW, NEXT, OLD, artefact_of, memory
from tests.simulator.datacentre import START, DataCentre, Machine, SkewedClock, VirtualClock
from tests.simulator.drivers import SimBalancer, SimConfigurator, SimGate, SimPlatform, boot
from tests.simulator.laws import TAKING, Actor, Laws, Violation
from tests.simulator.scenario import Scenario, draw
from tests.simulator.troubles import Troubles

LEASE = timedelta(seconds=60)
MUTATING = ("launch", "admit", *TAKING)
LONGEST = 3 * 24 * 3600.0
"""A seed that is not at rest after so long, in virtual seconds, never comes to rest."""
BUSY_SECONDS = 30.0
"""Between two tries of a holder whose turn it is not."""
MOST_EVENTS = 100_000
PATIENCE = 6
"""So many rollouts at most until the fleet is on its release."""


class Crash(BaseException):
    """The holder's process is gone: nothing of ours may catch this."""


@dataclass
class Outcome:
    """How a seed ended."""

    seed: int
    scenario: Scenario
    story: list[str]
    ending: str
    violation: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    """Calls, checks, steps, and how often each kind of trouble struck."""

    @property
    def hash(self) -> str:
        """SHA-256 of the whole story: the same for the same seed, always."""
        return hashlib.sha256("\n".join(self.story).encode()).hexdigest()


class Holder:
    """One worker: draws tickets and advances them, wave by wave, until nothing is left or it must stop."""

    def __init__(self, play: Play, name: str, rollout: RolloutRecord) -> None:
        self.play = play
        self.actor = Actor(name)
        self.rollout = rollout
        self.clock = SkewedClock(play.clock, play.troubles.skew())
        self.catalog = play.database.catalog(self.clock, play.troubles.around_commit)
        self.engine = Engine(play.deps(self), play.fleet, play.image(rollout.version), rollout)
        self.wave = 0
        self.gone = False
        self.said = ""
        self.leased_at = 0.0

    def wake(self) -> None:
        """Do one thing, and come back when it is time for the next one."""
        if self.gone:
            return
        play = self.play
        outer, play.actor = play.actor, self.actor
        self.actor.paused = 0.0
        try:
            delay = self._step()
        except Crash:
            self._dies()
            return
        except TransientError as error:
            self.tell(f"waits: {_short(error)}")
            delay = 10.0
        finally:
            play.actor = outer
            play.world.acting = False
        if delay is None:
            self.gone = True
        else:
            play.after(max(delay, play.step_seconds), self.wake)

    def _dies(self) -> None:
        self.gone = True
        self.play.say(f"{self.actor.name} dies")
        self.play.counts["dying holders"] += 1
        self.play.after(self.play.rng.uniform(1.0, 90.0), self.play.hire)

    def tell(self, message: str) -> None:
        """Say it, but not twice in a row."""
        if message != self.said:
            self.said = message
            self.play.say(f"{self.actor.name} {message}")

    def _step(self) -> float | None:
        return self._draw() if self.actor.ticket is None else self._advance()

    def _draw(self) -> float | None:
        rollouts = self.catalog.rollouts
        try:
            limit, _ = self.engine.in_flight_limit()
            ticket = rollouts.claim(self.rollout.id, self.wave, self.actor.name, lease=LEASE, max_in_flight=limit)
            if ticket is None and self.wave < self.play.last_wave:
                self.wave += 1
                return 0.0
            if ticket is None:
                rollouts.complete(self.rollout.id)
                self.play.completed(self.rollout)
                return None
        except Busy:
            return BUSY_SECONDS
        except Halted as error:
            self.play.halted(self, error)
            return None
        except Refused:
            if self.catalog.rollouts.get(self.rollout.id).state is not RolloutState.OPEN:
                return None
            self.wave = 0
            return BUSY_SECONDS
        self.actor.ticket, self.leased_at = ticket, self.play.clock.seconds
        self.play.say(f"{self.actor.name} takes {ticket.slot} at {ticket.step}")
        return 0.0

    def _keep_lease(self, progress: Progress) -> None:
        """Renew it in good time, as a worker's keeper of leases does beside the work."""
        ticket, now = self.actor.ticket, self.play.clock.seconds
        assert ticket is not None
        if progress.state == "waiting" and now + progress.check_after.total_seconds() - self.leased_at > 30.0:
            self.catalog.rollouts.renew(ticket, LEASE + progress.check_after)
            self.leased_at = now

    def _advance(self) -> float | None:
        ticket = self.actor.ticket
        assert ticket is not None
        try:
            progress = self.engine.advance(ticket)
            self._keep_lease(progress)
        except StepFailed as error:
            self.play.halted(self, error)
            return None
        except Halted as error:
            with suppress(TransientError):
                self.catalog.rollouts.give_back(ticket)
            self.play.halted(self, error)
            return None
        except Fenced as error:
            self.tell(f"steps back: {_short(error)}")
            self.actor.ticket = None
            return 10.0 if self.catalog.rollouts.get(self.rollout.id).state is RolloutState.OPEN else None
        self.tell(f"{ticket.slot}: {progress.step}: {progress.message}")
        self.play.counts["steps"] += 1
        if progress.state == "done":
            self.actor.ticket = None
        if progress.state != "waiting":
            return 0.0
        return max(progress.check_after.total_seconds(), self.play.scenario.quantum)


class Play:
    """The stage: the world, the scheduler, the people and the laws."""

    def __init__(self, seed: int, troubles: tuple[str, ...] | None = None, size: int | None = None) -> None:
        self.rng = random.Random(seed)  # noqa: S311
        self.scenario = draw(seed, self.rng, troubles, size)
        self.clock = VirtualClock()
        self.story: list[str] = self.scenario.lines()
        self.counts: Counter[str] = Counter()
        self.calls: list[tuple[str, str, str]] = []
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.ticks = 0
        self.step_seconds = 0.2
        self.actor: Actor | None = None
        self.holders: list[Holder] = []
        self.hired = 0
        self.rollout: RolloutRecord | None = None
        self.last_wave = 0
        self.opened = 0
        self.halts = 0
        self.asked_for_help = False
        self.ending = ""
        self.fleet = Fleet.model_validate(self.scenario.fleet())
        self.database = memory(os.getpid())
        self.database.reset()
        self.catalog = self.database.catalog(self.clock)
        self.world = DataCentre(self.rng, self.clock, self.fleet.name, balanced=self.scenario.balanced)
        self.laws = Laws(self.world, self.fleet, self.database.raw)
        self.troubles = Troubles(self)
        self.platform = SimPlatform(self.world, self.troubles)
        self.balancer: Balancer = (
            SimBalancer(self.world, self.troubles) if self.scenario.balanced else none.Driver(none.Settings(), _nobody)
        )
        self.configurator = SimConfigurator(self.troubles)
        self.gates = {name: SimGate(self.troubles, name) for name in ("verify", "watch")}
        self._set_up()

    # Before the curtain

    def _set_up(self) -> None:
        world, scenario = self.world, self.scenario
        world.after, world.say = self.after, self.say
        world.boot = self.troubles.boot
        world.zones = tuple("abc"[: scenario.zones])
        world.hosts = scenario.hosts
        world.stop_seconds, world.start_seconds = scenario.stop, scenario.start
        for version in (OLD, NEW, NEXT):
            world.add_image(artefact_of(version), FAMILY, str(version))
        for slot in self.fleet.slots:
            self.seed_machine(slot, OLD, by_hand=False)
        for number in range(scenario.foreign):
            self._seed_foreign(number)

    def seed_machine(self, slot: str, version: Version, *, by_hand: bool, running: bool = True) -> Machine:
        """A machine in that slot that no rollout launched."""
        machine_id, address = self.world.new_id()
        zone, host = self.world.place("")
        born = self.clock.now() if by_hand else START - timedelta(days=20, minutes=self.world.serial)
        now = Instance(
            id=machine_id,
            name=f"{slot}-{machine_id}",
            fleet=self.fleet.name,
            slot=slot,
            version=str(version),
            token=f"seed-{machine_id}",
            state=InstanceState.RUNNING if running else InstanceState.STARTING,
            address=address if running else "",
            digest=artefact_of(version).digest if running else "",
            launched_at=born,
            zone=zone,
            host=host,
        )
        machine = self.world.born(now, fingerprint="seed", ours=True, by_engine=False)
        if by_hand:
            self.laws.outsiders.add(machine_id)
            self.after(
                2.0, lambda: boot(self.world, machine, InstanceState.RUNNING, address, artefact_of(version).digest)
            )
        else:
            # What stands there has stood there for long: no lag hides it.
            machine.history[0] = (-(10.0**6), now, True)
            machine.server = Backend.HEALTHY
            machine.connections = self.rng.choice((0, 0, 0, 3, 9)) if self.scenario.balanced else 0
            self.world._weigh(machine)
            machine.seen[:] = [(-(10.0**6), machine.status)]
        return machine

    def _seed_foreign(self, number: int) -> None:
        """Somebody else's machine, made to look like ours."""
        machine = self.seed_machine(self.fleet.slots[number % self.scenario.size], OLD, by_hand=False)
        marks = ({"ours": False}, {"fleet": "web-2"}, {"ours": False, "fleet": "webs"})[number % 3]
        machine.served = False
        self.world.change(machine, **marks)
        _, now, ours = machine.history.pop()
        machine.history[:] = [(-(10.0**6), now, ours)]

    def deps(self, holder: Holder) -> Deps:
        """What that holder's engine works with."""
        return Deps(
            catalog=holder.catalog,
            platform=self.platform,
            balancer=self.balancer,
            configurator=self.configurator,
            verify_gates=(NamedGate("checks", self.gates["verify"]),),  # type: ignore[arg-type]
            watch_gates=(NamedGate("metrics", self.gates["watch"]),),  # type: ignore[arg-type]
            environment=Environment("production"),
            ssh_probe=self.troubles.probe,
            workdir=_NoFolder(),
            log=lambda line: self.say(f"  {line}"),
            clock=holder.clock,
        )

    def image(self, version: Version) -> Any:
        """The release as the catalog has it."""
        return self.catalog.images.get(FAMILY, version)

    # The scheduler

    def after(self, delay: float, act: Callable[[], None]) -> None:
        """Let that happen so many seconds from now."""
        self.ticks += 1
        heapq.heappush(self.heap, (self.clock.seconds + delay, self.ticks, act))

    def run_until(self, moment: float) -> None:
        """Everything that happens before that moment, in order."""
        while self.heap and self.heap[0][0] <= moment and not self.ending:
            at, _, act = heapq.heappop(self.heap)
            if at > self.clock.seconds:
                self.clock.set(at)
            act()
            self.laws.after_step()
        if moment > self.clock.seconds and not self.ending:
            self.clock.set(moment)

    def pause(self, seconds: float) -> None:
        """The holder that is at it stands still, and the world goes on without it."""
        actor = self.actor
        assert actor is not None
        self.say(f"{actor.name} stands still for {seconds:.0f} s")
        self.counts["paused holders"] += 1
        self.run_until(self.clock.seconds + seconds)
        actor.paused += seconds
        self.actor = actor
        self.say(f"{actor.name} goes on")

    def say(self, line: str) -> None:
        """One line of the story."""
        seconds = int(self.clock.seconds)
        self.story.append(f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d} {line}")

    # The people

    def open(self) -> None:
        """Somebody, or the schedule, opens a rollout, and holders begin."""
        version = self.troubles.release()
        holder = self.catalog
        try:
            image = self.image(version)
            plan = draw_plan(_ReadDeps(self).deps(), self.fleet, image)
        except PhoenixError as error:
            self.say(f"no plan: {_short(error)}")
            self.after(60.0, self.open)
            return
        if not plan.slots:
            self._at_rest(plan)
            return
        self.opened += 1
        if self.opened > PATIENCE:
            raise Violation(f"I16: {PATIENCE} rollouts, and the fleet is not on its release: {plan.lines()[:3]}")
        self.halts = 0
        self.rollout = holder.rollouts.open(
            self.fleet.name,
            FAMILY,
            version,
            Window(2026, 11),
            f"run-{self.opened}",
            plan.slots,
            settings=freeze(self.fleet),
            actor="airflow",
            reason="scheduled refresh",
        )
        self.last_wave = max(each.wave for each in plan.slots)
        self.say(f"rollout {self.rollout.id} to {version}: {len(plan.slots)} of {self.scenario.size} machines")
        unfilled = frozenset(each.slot for each in plan.slots if not each.old_instance)
        self.laws.aim(str(version), artefact_of(version).digest, unfilled)
        for _ in range(self.scenario.engines):
            self.hire()

    def hire(self) -> None:
        """One more holder goes to work on the rollout, if it is still open."""
        rollout = self.rollout
        if rollout is None or self.catalog.rollouts.get(rollout.id).state is not RolloutState.OPEN:
            return
        self.hired += 1
        holder = Holder(self, f"worker-{self.hired}", rollout)
        self.holders.append(holder)
        self.after(0.0, holder.wake)

    def halted(self, holder: Holder, error: Exception) -> None:
        """A holder has come to a halt: somebody is told and looks into it."""
        holder.tell(f"stops: {_short(error)}")
        if not self.asked_for_help:
            self.asked_for_help = True
            self.after(self.rng.uniform(30.0, 600.0), self.help)

    def help(self) -> None:
        """Alice looks: she resumes, or gives up on this rollout and begins another once the trouble is over."""
        self.asked_for_help = False
        rollout = self.rollout
        if rollout is None or self.catalog.rollouts.get(rollout.id).state is not RolloutState.HALTED:
            return
        self.halts += 1
        if self.halts >= 3 or self.troubles.hopeless:
            self.cancel("gives up")
            return
        self.say("alice resumes")
        self.catalog.rollouts.resume(self.fleet.name, actor="alice", reason="looked into it")
        for _ in range(self.scenario.engines):
            self.hire()

    def cancel(self, why: str) -> None:
        """Alice cancels what is open; when the weather is better there is another rollout."""
        try:
            self.catalog.rollouts.cancel(self.fleet.name, actor="alice", reason=why)
        except NotFound:
            return
        self.say(f"alice cancels: {why}")
        self.troubles.calm()
        self.after(400.0, self._begin_again)

    def _begin_again(self) -> None:
        """Once every lag is over: what is broken beyond repair is terminated by hand, then a rollout opens."""
        for machine in list(self.world.roster.values()):
            if machine.ours and machine.now.fleet == self.fleet.name and machine.now.state is InstanceState.FAILED:
                self.say(f"alice terminates {machine.now.name}")
                self.world.tell_server(machine, Backend.ABSENT)
                self.world.set_state(machine, InstanceState.GONE)
        self._undo_doubles()
        self._admit_by_hand()
        self.after(60.0, self.open)

    def _undo_doubles(self) -> None:
        """What serves on the release is never taken (I13), so a person takes one of two that people put in one slot."""
        for slot in self.fleet.slots:
            there = [
                each
                for each in self.world.roster.values()
                if each.ours and (each.now.fleet, each.now.slot) == (self.fleet.name, slot)
                if each.now.state is InstanceState.RUNNING and each.now.version == self.laws.target
            ]
            doubles = [each for each in there if each.marks_since > 0 or each.now.id in self.laws.outsiders]
            for machine in doubles[: len(there) - 1]:
                self.say(f"alice terminates {machine.now.name}")
                self.world.tell_server(machine, Backend.ABSENT)
                self.world.set_state(machine, InstanceState.GONE)

    def _admit_by_hand(self) -> None:
        """Where the brake would stop every rollout, a person first lets what runs serve again."""
        world = self.world
        dark = [slot for slot in self.fleet.slots if not world.lit[slot]]
        if len(dark) <= self.laws.brake.most:
            return
        for machine in list(world.roster.values()):
            known = machine.ours and machine.now.fleet == self.fleet.name and machine.now.slot in dark
            if known and machine.now.state is InstanceState.RUNNING and machine.server is not Backend.HEALTHY:
                self.say(f"alice admits {machine.now.name}")
                world.tell_server(machine, Backend.STARTING)

    def completed(self, rollout: RolloutRecord) -> None:
        """A rollout is done: whatever is still not right is a matter for the next one."""
        if self.rollout is not None and rollout.id == self.rollout.id:
            self.say(f"rollout {rollout.id} is done")
            self.rollout = None
            self.troubles.calm()
            self.after(400.0, self._begin_again)

    def _at_rest(self, plan: Plan) -> None:
        self.laws.at_rest(frozenset(slot for slot, _ in plan.refusals))
        self.say(f"at rest: {len(self.world.serving)} machines serve on {self.laws.target}")
        self.ending = "at rest"

    # From the first event to the last

    def run(self) -> Outcome:
        """The whole seed."""
        violation = ""
        try:
            self.troubles.schedule()
            self.after(0.0, self.open)
            while self.heap and not self.ending:
                self.run_until(self.heap[0][0])
                if self.clock.seconds > LONGEST or self.ticks > MOST_EVENTS:
                    raise Violation("L: it never comes to rest")
            self._settle_accounts()
        except Violation as found:
            violation = str(found)
        except Exception as error:
            violation = f"unexpected {type(error).__name__}: {error}"
            if os.environ.get("PHOENIX_SIMULATOR_TRACE"):
                raise
        if violation:
            self.say(f"VIOLATION {violation}")
        self.counts["calls that change something"] = len(self.calls)
        self.counts["rollouts"] = self.opened
        return Outcome(self.scenario.seed, self.scenario, self.story, self.ending, violation, self.counts)

    def _settle_accounts(self) -> None:
        if not self.ending:
            raise Violation("L: nothing more happens, and the fleet is not at rest")
        self.laws.journals(self.calls)
        self.catalog.events.verify()


class _ReadDeps:
    """What a plan is drawn with: the same world, seen by nobody's process."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.catalog = play.catalog
        self.clock = play.clock

    def deps(self) -> Deps:
        """Reads only."""
        return self.play.deps(self)  # type: ignore[arg-type]


class _NoFolder(type(Path())):  # type: ignore[misc]
    """A folder that is never made: gates here keep no files."""

    def mkdir(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is made."""


def _nobody(conn_id: str) -> Any:
    raise AssertionError(f"the simulator needs no connection, and {conn_id} was asked for")


def _short(error: Exception) -> str:
    return str(error.args[0] if error.args else type(error).__name__)


def play(seed: int, troubles: tuple[str, ...] | None = None, size: int | None = None) -> Outcome:
    """That seed from its first event to its last."""
    return Play(seed, troubles, size).run()
