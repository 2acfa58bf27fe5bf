"""One seed played from its first event to rest: the real engine, the real SQL, virtual time, one thread."""

from __future__ import annotations

import hashlib
import heapq
import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from phoenix_fleet.balancers import none
from phoenix_fleet.balancers.base import Balancer
from phoenix_fleet.catalog.records import RolloutState
from phoenix_fleet.config import Fleet
from phoenix_fleet.domain.models import Backend, Environment, Instance, InstanceState
from phoenix_fleet.domain.windows import Version
from phoenix_fleet.rollout.deps import Deps, NamedGate
from tests.simulator.database import FAMILY, NEW, NEXT, OLD, artefact_of, memory
from tests.simulator.datacentre import START, DataCentre, Machine, VirtualClock
from tests.simulator.drivers import SimBalancer, SimConfigurator, SimGate, SimPlatform, boot
from tests.simulator.holder import Holder
from tests.simulator.laws import Actor, Laws, Violation
from tests.simulator.people import People
from tests.simulator.scenario import Scenario, draw
from tests.simulator.troubles import Troubles

LONGEST = 3 * 24 * 3600.0
"""A seed that is not at rest after so long, in virtual seconds, never comes to rest."""
MOST_EVENTS = 100_000


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
        self.ending = ""
        self.fleet = Fleet.model_validate(self.scenario.fleet())
        self.database = memory(os.getpid())
        self.database.reset()
        self.catalog = self.database.catalog(self.clock)
        self.world = DataCentre(self.rng, self.clock, self.fleet.name, balanced=self.scenario.balanced)
        self.laws = Laws(self.world, self.fleet, self.database.raw)
        self.troubles = Troubles(self)
        self.people = People(self)
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

    def hire(self) -> None:
        """One more holder goes to work on the rollout, if it is still open; if it is halted, somebody hears of that.

        The one before may have died between the halt and the telling.
        """
        rollout = self.people.rollout
        if rollout is None:
            return
        state = self.catalog.rollouts.get(rollout.id).state
        if state is RolloutState.HALTED:
            self.people.call_for_help()
        if state is not RolloutState.OPEN:
            return
        self.hired += 1
        holder = Holder(self, f"worker-{self.hired}", rollout)
        self.holders.append(holder)
        self.after(0.0, holder.wake)

    # From the first event to the last

    def run(self) -> Outcome:
        """The whole seed."""
        violation = ""
        try:
            self.troubles.schedule()
            self.after(0.0, self.people.open)
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
        self.counts["rollouts"] = self.people.opened
        return Outcome(self.scenario.seed, self.scenario, self.story, self.ending, violation, self.counts)

    def _settle_accounts(self) -> None:
        if not self.ending:
            raise Violation("L: nothing more happens, and the fleet is not at rest")
        self.laws.journals(self.calls)
        self.catalog.events.verify()


class _NoFolder(type(Path())):  # type: ignore[misc]
    """A folder that is never made: gates here keep no files."""

    def mkdir(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is made."""


def _nobody(conn_id: str) -> Any:
    raise AssertionError(f"the simulator needs no connection, and {conn_id} was asked for")


def play(seed: int, troubles: tuple[str, ...] | None = None, size: int | None = None) -> Outcome:
    """That seed from its first event to its last."""
    return Play(seed, troubles, size).run()
