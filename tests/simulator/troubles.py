"""What goes wrong, by kind: on the wire, in machines, in processes, and by other people's hands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from phoenix_fleet.domain.errors import (
    AuthenticationFailed,
    CapacityExhausted,
    NotFound,
    Throttled,
    TimedOut,
    Unavailable,
)
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import Backend, Instance, InstanceState
from phoenix_fleet.domain.windows import Version
from tests.simulator.database import FAMILY, NEW, NEXT, OLD, artefact_of
from tests.simulator.datacentre import Machine
from tests.simulator.holder import Crash
from tests.simulator.scenario import BAD_IMAGE

if TYPE_CHECKING:
    from tests.simulator.play import Play

MUTATING = ("launch", "admit", "drain", "remove", "terminate")
READS = ("get_instance", "list_instances", "state", "list_images")

ELSEWHERE = ("empty listings", "catalog away")
"""Weather that does not stop calls to the outside."""


@dataclass(frozen=True)
class Weather:
    """Between two moments, calls fail that way with that chance."""

    kind: str
    begins: float
    ends: float
    chance: float
    methods: tuple[str, ...] = ()
    """Which calls; none named: all."""


class Troubles:
    """Every call goes through here, and everything that others do to the world comes from here."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.rng = play.rng
        self.kinds = play.scenario.troubles
        self.weather: list[Weather] = []
        self.quiet = False
        """The trouble is over: nothing new happens."""
        self.hopeless = False
        """Going on with this release cannot succeed."""
        self.crashes = 0
        self.pauses = 0
        self.revoked = False
        self.skews = "wrong clocks" in self.kinds
        self.bad = BAD_IMAGE in self.kinds

    # On the wire

    def before(self, method: str, subject: str, machine: Machine | None) -> bool:
        """Whether the reply is to be lost; raises what stops the call."""
        play = self.play
        actor = play.actor
        if actor is not None:
            self._die_or_pause(method in READS or method == "launch")
        if method in MUTATING:
            assert actor is not None
            play.laws.blurred = self._blur()
            play.laws.at_call(actor, method, subject, machine)
            assert actor.ticket is not None
            play.calls.append((f"rollout-{actor.ticket.rollout_id}", method, subject))
        return self._meet_weather(method)

    def after(self, method: str, subject: str, *, lost: bool) -> None:
        """The effect is there; the reply may be lost, the caller may die."""
        if self.play.actor is not None:
            self._die_or_pause(True)
        if lost:
            raise Unavailable(f"{method}: the connection broke before the reply came.")

    def lies(self) -> bool:
        """Whether a listing is empty that should not be."""
        return any(each.kind == "empty listings" and self._strikes(each, "list_instances") for each in self.weather)

    def _strikes(self, each: Weather, method: str) -> bool:
        if not each.begins <= self.play.clock.seconds < each.ends or (each.methods and method not in each.methods):
            return False
        if self.rng.random() >= each.chance:
            return False
        self.play.counts[each.kind] += 1
        return True

    def _meet_weather(self, method: str) -> bool:
        for each in self.weather:
            if each.kind in ELSEWHERE or not self._strikes(each, method):
                continue
            if each.kind == "lost replies":
                return True
            raise _ERRORS[each.kind](f"{method}: {each.kind}.")
        return False

    def _die_or_pause(self, may_pause: bool) -> None:
        if self.crashes and self.rng.random() < 0.01:
            self.crashes -= 1
            raise Crash
        if self.pauses and may_pause and self.rng.random() < 0.01:
            self.pauses -= 1
            self.play.pause(self.rng.choice((5.0, 70.0, 200.0)))

    @contextmanager
    def around_commit(self) -> Iterator[None]:
        """Deaths right before and right after a commit, and a catalog that is away."""
        if self.play.actor is not None:
            if self.weather and any(each.kind == "catalog away" and self._strikes(each, "") for each in self.weather):
                raise Unavailable("the catalog does not answer.")
            self._die_or_pause(False)
        yield
        if self.play.actor is not None:
            self._die_or_pause(False)

    def _blur(self) -> float:
        """How old what reads show may be: the lag now, or that of a moment ago for what was read then."""
        return self.play.world.lag

    def skew(self) -> timedelta:
        """How far the clock of the next computer is off."""
        return timedelta(seconds=self.rng.uniform(-300.0, 300.0)) if self.skews else timedelta()

    def probe(self, instance: Instance) -> tuple[str, ...]:
        """What answers SSH at the instance's address."""
        return self.play.world.machines[instance.id].keys

    # In machines

    def boot(self, machine: Machine) -> tuple[float, InstanceState, str]:
        """How long a new machine boots, how that ends, and from which image if not the right one."""
        shortest, longest = self.play.scenario.boot
        seconds = self.rng.uniform(shortest, longest)
        if self.quiet:
            return seconds, InstanceState.RUNNING, ""
        if self.bad and machine.now.version == str(NEW):
            self.play.world.set_sick(machine, True)
            return seconds, InstanceState.RUNNING, ""
        if "slow boots" in self.kinds and self._chance("slow boots", 0.3):
            seconds *= self.rng.choice((5.0, 20.0))
        if "failed boots" in self.kinds and self._chance("failed boots", 0.2):
            return seconds, InstanceState.FAILED, ""
        if "wrong images" in self.kinds and self._chance("wrong images", 0.2):
            return seconds, InstanceState.RUNNING, artefact_of(OLD).digest
        if "sick newcomers" in self.kinds and self._chance("sick newcomers", 0.3):
            self._later(seconds + self.rng.uniform(0.0, 40.0), lambda: self.play.world.set_sick(machine, True))
        return seconds, InstanceState.RUNNING, ""

    def _chance(self, kind: str, chance: float) -> bool:
        if self.rng.random() >= chance:
            return False
        self.play.counts[kind] += 1
        return True

    def trouble(self, what: str, instance: Instance) -> str:
        """How a gate or the configurator fails on that instance; empty if not."""
        if self.quiet:
            return ""
        if self.bad and instance.version == str(NEW) and not self.play.scenario.balanced and what == "verify":
            return "failed"  # where no balancer looks at health, the fleet's own checks have to
        if what == "configure":
            if "failing configuration" in self.kinds and self._chance("failing configuration", 0.2):
                return self.rng.choice(("failed", "unavailable"))
        elif "failing checks" in self.kinds and self._chance("failing checks", 0.15):
            return self.rng.choice(("failed", "inconclusive", "error", "unavailable"))
        return ""

    def release(self) -> Version:
        """What the next rollout brings: the newest release that nobody has revoked."""
        return NEXT if self.revoked else NEW

    # Its schedule

    def schedule(self) -> None:
        """Everything that is bound to happen, if it does not become quiet before."""
        plans: dict[str, Callable[[], None]] = {
            "lost replies": lambda: self._blow("lost replies", 0.25, MUTATING),
            "errors": lambda: self._blow("errors", 0.2),
            "throttling": self._throttle,
            "lag": self._lag,
            "crashed machines": lambda: self._strike(self._crash_machine, (1, 3)),
            "zone failure": lambda: self._strike(self._zone_fails, (1, 1)),
            "monitoring partition": lambda: self._strike(self._partition, (1, 1)),
            "empty listings": lambda: self._blow("empty listings", 0.5, ("list_instances",)),
            "expired credentials": lambda: self._blow("expired credentials", 1.0, READS),
            "dying holders": lambda: setattr(self, "crashes", self.rng.randint(1, 4)),
            "paused holders": lambda: setattr(self, "pauses", self.rng.randint(1, 3)),
            "clock jumps": lambda: self._strike(self._clock_jumps, (1, 3)),
            "terminated by hand": lambda: self._strike(self._terminate_by_hand, (1, 2)),
            "launched by hand": lambda: self._strike(self._launch_by_hand, (1, 2)),
            "retagged by hand": lambda: self._strike(self._retag, (1, 2)),
            "balancer edits": lambda: self._strike(self._edit_balancer, (1, 3)),
            "no capacity": lambda: self._blow("no capacity", 0.7, ("launch",)),
            "halt by a person": lambda: self._strike(self._halt, (1, 2)),
            "cancel by a person": lambda: self._strike(lambda: self.play.people.cancel("changed her mind"), (1, 1)),
            "revoked release": lambda: self._strike(self._revoke, (1, 1)),
            "stuck connections": self._stick,
            "catalog away": lambda: self._blow("catalog away", 0.3),
        }
        for kind in self.kinds:
            if kind in plans:
                plans[kind]()

    def _blow(self, kind: str, chance: float, methods: tuple[str, ...] = ()) -> None:
        begins = self.rng.uniform(0.0, self.play.scenario.horizon)
        self.weather.append(Weather(kind, begins, begins + self.rng.choice((30.0, 120.0, 700.0)), chance, methods))

    def _throttle(self) -> None:
        begins = self.rng.uniform(0.0, self.play.scenario.horizon)
        chance, seconds = self.rng.choice(((0.5, 600.0), (1.0, 120.0)))
        self.weather.append(Weather("throttling", begins, begins + seconds, chance))

    def _lag(self) -> None:
        seconds = self.rng.choice((2.0, 10.0, 60.0, 300.0, self.rng.uniform(0.0, 300.0)))

        def begin() -> None:
            self.play.say(f"reads lag {seconds:.0f} s behind")
            self.play.counts["lag"] += 1
            self.play.world.lag = seconds

        self._later(self.rng.choice((0.0, self.rng.uniform(0.0, self.play.scenario.horizon))), begin)

    def _strike(self, act: Callable[[], None], times: tuple[int, int]) -> None:
        for _ in range(self.rng.randint(*times)):
            self._later(self.rng.uniform(0.0, self.play.scenario.horizon), act)

    def _later(self, delay: float, act: Callable[[], None]) -> None:
        self.play.after(delay, lambda: None if self.quiet else act())

    def calm(self) -> None:
        """The trouble is over: everything that was not destroyed is as it should be."""
        play = self.play
        if self.quiet:
            return
        self.quiet = True
        play.say("the trouble is over")
        self.weather.clear()
        self.crashes = self.pauses = 0
        play.world.lag = 0.0
        self.bad = False
        self.hopeless = False
        for machine in list(play.world.roster.values()):
            if machine.sick:
                play.world.set_sick(machine, False)
            if machine.stuck:
                machine.stuck, machine.connections = False, 0
                if machine.now.state is InstanceState.STOPPING:
                    play.world.set_state(machine, InstanceState.GONE)
            if machine.server is Backend.DRAINING:
                machine.connections = 0
        for holder in play.holders:
            holder.clock.skew = timedelta()

    # By chance and by hand

    def _some(self, *, serving: bool = True) -> Machine | None:
        world = self.play.world
        found = [
            each
            for each in world.roster.values()
            if each.ours and each.now.fleet == world.fleet and each.now.state is InstanceState.RUNNING
        ]
        if serving:
            found = [each for each in found if each.now.id in world.serving]
        return self.rng.choice(found) if found else None

    def _crash_machine(self) -> None:
        machine = self._some()
        if machine is not None:
            how = self.rng.choice((InstanceState.FAILED, InstanceState.GONE))
            self.play.say(f"{machine.now.name} breaks and is {how}")
            self.play.counts["crashed machines"] += 1
            self.play.world.set_state(machine, how, "the host died")

    def _zone_fails(self) -> None:
        world = self.play.world
        zone = self.rng.choice(world.zones) if world.zones else ""
        hit = [each for each in world.serving.values() if each.now.zone == zone]
        if not zone:
            hit = hit[: max(1, len(hit) // 3)]
        self.play.say(f"zone {zone or 'nowhere'} fails with {len(hit)} machines")
        self.play.counts["zone failure"] += 1
        for each in hit:
            world.set_sick(each, True)
        back = [each.now.id for each in hit]

        def recover() -> None:
            for key in back:
                world.set_sick(world.machines[key], False)
            self.play.say(f"zone {zone or 'nowhere'} is back")

        self._later(self.rng.choice((30.0, 200.0, 900.0)), recover)

    def _partition(self) -> None:
        """The balancer's checks reach nobody: all look sick, and all serve."""
        begins = self.play.clock.seconds
        chance = self.rng.choice((0.6, 1.0))
        self.weather.append(
            Weather("monitoring partition", begins, begins + self.rng.choice((60.0, 800.0)), chance, READS)
        )

    def _clock_jumps(self) -> None:
        if self.play.holders:
            holder = self.rng.choice(self.play.holders)
            hours = self.rng.choice((-24, -1, 1, 24))
            self.play.say(f"the clock of {holder.actor.name} jumps by {hours} h")
            self.play.counts["clock jumps"] += 1
            holder.clock.skew += timedelta(hours=hours)

    def _terminate_by_hand(self) -> None:
        machine = self._some()
        if machine is not None:
            self.play.say(f"bob terminates {machine.now.name}")
            self.play.counts["terminated by hand"] += 1
            self.play.world.stop(machine)

    def _launch_by_hand(self) -> None:
        slot = self.rng.choice(self.play.fleet.slots)
        version = self.rng.choice((OLD, NEW))
        machine = self.play.seed_machine(slot, version, by_hand=True, running=False)
        self.play.say(f"bob launches {machine.now.name} on {version}")
        self.play.counts["launched by hand"] += 1

    def _retag(self) -> None:
        machine = self._some()
        if machine is None:
            return
        change = self.rng.choice(({"ours": False}, {"fleet": "lab"}, {"slot": self.rng.choice(self.play.fleet.slots)}))
        self.play.say(f"bob retags {machine.now.name}: {change}")
        self.play.counts["retagged by hand"] += 1
        self.play.world.change(machine, **change)

    def _edit_balancer(self) -> None:
        machine = self._some()
        if machine is not None and self.play.scenario.balanced:
            word = self.rng.choice((Backend.ABSENT, Backend.DRAINING))
            self.play.say(f"bob makes {machine.now.name} {word} at the balancer")
            self.play.counts["balancer edits"] += 1
            self.play.world.tell_server(machine, word)
            if word is Backend.ABSENT:
                machine.connections = 0  # a balancer forgets nobody whose connections it has not cut

    def _halt(self) -> None:
        try:
            self.play.catalog.rollouts.halt(self.play.fleet.name, actor="alice", reason="wants to look")
        except NotFound:
            return
        self.play.say("alice halts")
        self.play.counts["halt by a person"] += 1
        self.play.people.call_for_help()

    def _revoke(self) -> None:
        self.play.catalog.images.move(FAMILY, NEW, Rung.REVOKED, actor="alice", reason="a hole was found")
        self.play.say(f"alice revokes {NEW}")
        self.play.counts["revoked release"] += 1
        self.revoked = self.hopeless = True
        self.play.laws.revoked_at = self.play.clock.seconds

    def _stick(self) -> None:
        for machine in list(self.play.world.serving.values())[:2]:
            machine.stuck, machine.connections = True, 5
            self.play.counts["stuck connections"] += 1


_ERRORS: dict[str, type[Exception]] = {
    "errors": Unavailable,
    "throttling": Throttled,
    "expired credentials": AuthenticationFailed,
    "no capacity": CapacityExhausted,
    "monitoring partition": TimedOut,
    "catalog away": Unavailable,
}
