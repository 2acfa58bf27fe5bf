"""A fake data centre with virtual time: machines, balancer servers, and whatever goes wrong between us and them.

Everything that is true has one moment at which it became so. What reads show may lag behind that; what the laws judge
by is the truth. The whole world is one object in one thread, so the same seed makes the same world.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import Artefact, Backend, Instance, InstanceState

START = datetime(2026, 11, 1, 4, tzinfo=UTC)
FOREVER = 10.0**9
LONGEST_LAG = 300.0
"""No read shows a world older than that, in seconds."""
GOING = (InstanceState.STOPPING, InstanceState.GONE)


class VirtualClock:
    """Seconds since ``START``; moved by the scheduler alone."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._moment = START

    def set(self, seconds: float) -> None:
        """It is that many seconds after ``START`` now."""
        self.seconds = seconds
        self._moment = START + timedelta(seconds=seconds)

    def now(self) -> datetime:
        """The true moment."""
        return self._moment


class SkewedClock:
    """The clock of one computer: the true one, and how far it is off."""

    def __init__(self, true: VirtualClock, skew: timedelta = timedelta()) -> None:
        self.true = true
        self.skew = skew

    def now(self) -> datetime:
        """The moment as that computer believes it to be."""
        return self.true.now() + self.skew


@dataclass(slots=True)
class Machine:
    """One machine, with everything that was ever true of it."""

    now: Instance
    keys: tuple[str, ...]
    fingerprint: str
    ours: bool
    by_engine: bool
    history: list[tuple[float, Instance, bool]]
    """Since when (seconds), what it was, and whether it carried our owner's mark."""
    sick: bool = False
    """Its health checks fail at the balancer."""
    stuck: bool = False
    """It goes on stopping for ever."""
    server: Backend = Backend.ABSENT
    """What the balancer was told about it: absent, starting, healthy (in service as far as it was told), draining."""
    status: Backend = Backend.ABSENT
    """What the balancer says of it: what it was told, and what its checks found."""
    seen: list[tuple[float, Backend]] = field(default_factory=list)
    """What the balancer said, by moment."""
    connections: int = 0
    drained_at: float = FOREVER
    served: bool = False
    """Whether it has ever been in service."""
    down_since: float = -FOREVER
    """When it stopped serving."""
    down_by_us: bool = True
    """Whether that was the engine's doing."""
    marks_since: float = -FOREVER
    """When its marks last changed after its birth."""


class DataCentre:
    """The truth. ``serving``, ``lit`` and the zones are kept up to date by every change."""

    def __init__(self, rng: random.Random, clock: VirtualClock, fleet: str, *, balanced: bool = True) -> None:
        self.rng = rng
        self.clock = clock
        self.fleet = fleet
        self.balanced = balanced
        self.machines: dict[str, Machine] = {}
        self.roster: dict[str, Machine] = {}
        """Ours that reads may still show, by id."""
        self.launched: dict[str, str] = {}
        self.images: dict[str, tuple[Artefact, str, str]] = {}
        self.zones: tuple[str, ...] = ()
        self.hosts = 0
        self.serial = 0
        self.serving: dict[str, Machine] = {}
        self.lit: Counter[str] = Counter()
        self.by_zone: Counter[str] = Counter()
        self.living = 0
        self.lag = 0.0
        self.acting = False
        """Whether the engine makes the change that is being made."""
        self.after: Callable[[float, Callable[[], None]], None] = lambda delay, act: None
        self.say: Callable[[str], None] = lambda line: None
        self.boot: Callable[[Machine], tuple[float, InstanceState, str]] = lambda m: (2.0, InstanceState.RUNNING, "")
        self.stop_seconds = 2.0
        self.start_seconds = 1.0
        self.address_pool: list[int] = []

    # Machines

    def born(self, now: Instance, *, fingerprint: str, ours: bool, by_engine: bool) -> Machine:
        """A new machine in ``starting`` (or as given), known to the platform from now on."""
        machine = Machine(now, (f"ssh-ed25519 {now.id}",), fingerprint, ours, by_engine, [(self.at, now, ours)])
        self.machines[now.id] = machine
        if ours:
            self.roster[now.id] = machine
            self.living += now.fleet == self.fleet
        self._weigh(machine)
        return machine

    @property
    def at(self) -> float:
        """Seconds since ``START``."""
        return self.clock.seconds

    def new_id(self) -> tuple[str, str]:
        """The next machine's id and address. Addresses of machines that are gone come back, as they do in life."""
        self.serial += 1
        number = self.address_pool.pop(0) if self.address_pool else self.serial
        return f"i-{self.serial:06d}", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"

    def place(self, zone: str) -> tuple[str, str]:
        """The zone that was asked for, or the next in turn, and a host there."""
        zone = zone or (self.zones[self.serial % len(self.zones)] if self.zones else "")
        return zone, f"{zone or 'host'}-{self.serial // max(1, len(self.zones)) % self.hosts + 1}" if self.hosts else ""

    def change(self, machine: Machine, **to: object) -> None:
        """That is true of the machine from now on."""
        ours = bool(to.pop("ours", machine.ours))
        before = machine.now
        machine.now = replace(before, **to) if to else before  # type: ignore[arg-type]
        if ours != machine.ours or any(name in to for name in ("fleet", "slot", "version", "token")):
            machine.marks_since = self.at
        counted = machine.ours and before.fleet == self.fleet and before.state is not InstanceState.GONE
        machine.ours = ours
        counts = ours and machine.now.fleet == self.fleet and machine.now.state is not InstanceState.GONE
        self.living += counts - counted
        machine.history.append((self.at, machine.now, ours))
        self._weigh(machine)

    def set_state(self, machine: Machine, state: InstanceState, message: str = "") -> None:
        """It is in that state from now on."""
        if machine.now.state is InstanceState.GONE or machine.now.state is state:
            return
        known = state in (InstanceState.RUNNING, InstanceState.STOPPING)
        self.change(machine, state=state, message=message if state is InstanceState.FAILED or not known else "")
        if state is InstanceState.GONE:
            machine.connections = 0
            self.address_pool.append(int(machine.now.id[2:]))

    def stop(self, machine: Machine) -> None:
        """Let it be stopping, and gone a little later."""
        if machine.now.state not in GOING:
            self.set_state(machine, InstanceState.STOPPING)
            if not machine.stuck:
                self.after(self.stop_seconds, lambda: self.set_state(machine, InstanceState.GONE))

    # The balancer

    def tell_server(self, machine: Machine, word: Backend) -> None:
        """The balancer was told that of the machine."""
        machine.server = word
        if word is Backend.DRAINING:
            machine.drained_at = min(machine.drained_at, self.at)
        elif word is not Backend.ABSENT:
            machine.drained_at = FOREVER
        if word is Backend.STARTING:
            self.after(self.start_seconds, lambda: self._started(machine))
        self._weigh(machine)

    def set_sick(self, machine: Machine, sick: bool) -> None:
        """From now on its health checks fail, or pass."""
        machine.sick = sick
        self._weigh(machine)

    def _started(self, machine: Machine) -> None:
        if machine.server is Backend.STARTING:
            machine.server = Backend.HEALTHY
            self._weigh(machine)

    def _weigh(self, machine: Machine) -> None:
        """Work out what the balancer says of it, and whether it serves."""
        now, runs = machine.now, machine.now.state is InstanceState.RUNNING
        status = machine.server
        if not self.balanced:
            status = Backend.HEALTHY if runs else Backend.ABSENT
        elif status is Backend.HEALTHY and (machine.sick or not runs):
            status = Backend.UNHEALTHY
        if status is not machine.status or not machine.seen:
            machine.status = status
            machine.seen.append((self.at, status))
        serves = status is Backend.HEALTHY and runs and machine.ours and now.fleet == self.fleet
        known = self.serving.get(now.id)
        if serves and known is None:
            self.serving[now.id] = machine
            self.lit[now.slot] += 1
            self.by_zone[now.zone] += 1
            machine.served = True
        elif known is not None and not serves:
            was = machine.history[-2][1] if len(machine.history) > 1 else now
            slot = now.slot if self.lit[now.slot] else was.slot
            del self.serving[now.id]
            self.lit[slot] -= 1
            self.by_zone[now.zone] -= 1
            machine.down_since, machine.down_by_us = self.at, self.acting

    # What reads show

    def shown(self, machine: Machine) -> tuple[Instance, bool] | None:
        """The machine as reads show it now, and whether its marks are ours; None if it is not to be seen."""
        if not self.lag:
            return None if machine.now.state is InstanceState.GONE else (machine.now, machine.ours)
        horizon = self.at - self.lag
        for since, now, ours in reversed(machine.history):
            if since <= horizon:
                return None if now.state is InstanceState.GONE else (now, ours)
        return None

    def status_shown(self, machine: Machine) -> Backend:
        """What the balancer says of it, as reads show it now."""
        if not self.lag:
            return machine.status
        horizon = self.at - self.lag
        return next((word for since, word in reversed(machine.seen) if since <= horizon), Backend.ABSENT)

    def forget_the_old(self) -> None:
        """Machines that no read can show any more leave the roster."""
        over = [
            key
            for key, each in self.roster.items()
            if each.now.state is InstanceState.GONE and each.history[-1][0] < self.at - LONGEST_LAG
        ]
        for key in over:
            del self.roster[key]

    def listed(self, fleet: str) -> Sequence[Instance]:
        """The fleet's machines as reads show them, by name."""
        found = [shown[0] for each in self.roster.values() if (shown := self.shown(each)) and shown[1]]
        return sorted([each for each in found if each.fleet == fleet], key=lambda each: each.name)

    def add_image(self, artefact: Artefact, family: str, version: str) -> None:
        """The platform holds that artefact."""
        self.images[artefact.digest] = (artefact, family, version)

    def list_images(self, family: str) -> list[tuple[Artefact, dict[str, str]]]:
        """What the platform holds."""
        return [
            (artefact, {"version": version, "status": str(Rung.RELEASED)})
            for artefact, of, version in self.images.values()
            if of == family
        ]
