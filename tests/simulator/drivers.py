"""The seams of the fake data centre: what the engine is given for a platform, a balancer, a configurator and gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from phoenix_fleet.balancers.base import Balancer
from phoenix_fleet.configurators.base import Configurator
from phoenix_fleet.domain.errors import (
    IntentMismatch,
    InUse,
    InvalidSpec,
    NotFound,
    NotOurs,
    NotSupported,
    PhoenixError,
    StepFailed,
    Unavailable,
)
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import (
    Artefact,
    Backend,
    BackendStatus,
    Environment,
    Instance,
    InstanceState,
    LaunchIntent,
    Subject,
)
from phoenix_fleet.domain.verdicts import Measurement
from phoenix_fleet.gates.base import Gate
from phoenix_fleet.platforms.base import Platform
from tests.simulator.datacentre import DataCentre, Machine


class Wire(Protocol):
    """What every call goes through on its way to the world and back."""

    def before(self, method: str, subject: str, machine: Machine | None) -> bool:
        """Whether the reply is to be lost; may raise whatever stops the call from having any effect."""
        ...

    def after(self, method: str, subject: str, *, lost: bool) -> None:
        """The call has had its effect; raises if its reply is lost or its caller dies."""
        ...

    def lies(self) -> bool:
        """Whether a listing is to be empty although it should not."""
        ...

    def trouble(self, method: str, instance: Instance) -> str:
        """What goes wrong with that gate or configurator on the instance; empty if nothing."""
        ...


def refuse(conn_id: str) -> Any:
    """Nothing here needs a connection."""
    raise AssertionError(f"the simulator needs no connection, and {conn_id} was asked for")


class SimPlatform(Platform):
    """A platform that is as strict as the strictest real one, over the fake data centre."""

    def __init__(self, world: DataCentre, wire: Wire) -> None:
        super().__init__(None, refuse)
        self.world = world
        self.wire = wire

    def launch(self, intent: LaunchIntent) -> Instance:
        """One machine per token, for ever: also the dead one."""
        world, token = self.world, intent.token
        lost = self.wire.before("launch", token, None)
        world.acting = True
        try:
            known = world.launched.get(token)
            machine = world.machines[known] if known else self._born(intent)
            if machine.fingerprint != intent.fingerprint:
                raise IntentMismatch(f"{intent.name} was launched with the same token and other parameters.")
        finally:
            world.acting = False
        self.wire.after("launch", token, lost=lost)
        return machine.now

    def _born(self, intent: LaunchIntent) -> Machine:
        world = self.world
        if intent.artefact.digest not in world.images:
            raise InvalidSpec(f"There is no image {intent.artefact.reference}.")
        machine_id, address = world.new_id()
        zone, host = world.place(intent.zone)
        now = Instance(
            id=machine_id,
            name=intent.name,
            fleet=intent.fleet,
            slot=intent.slot,
            version=intent.version,
            token=intent.token,
            state=InstanceState.STARTING,
            launched_at=world.clock.now(),
            zone=zone,
            host=host,
        )
        machine = world.born(now, fingerprint=intent.fingerprint, ours=True, by_engine=True)
        world.launched[intent.token] = machine_id
        seconds, fate, digest = world.boot(machine)
        world.after(seconds, lambda: boot(world, machine, fate, address, digest or intent.artefact.digest))
        return machine

    def get_instance(self, instance_id: str) -> Instance:
        """As reads show it; host keys once it runs."""
        self.wire.after("get_instance", instance_id, lost=self.wire.before("get_instance", instance_id, None))
        machine = self.world.machines.get(instance_id)
        shown = self.world.shown(machine) if machine else None
        if machine is None or shown is None:
            raise NotFound(f"There is no instance {instance_id} to be seen.")
        now, ours = shown
        if not ours:
            raise NotOurs(f"{now.name} ({instance_id}) is not ours.")
        return keyed(now, machine.keys) if now.state is InstanceState.RUNNING else now

    def list_instances(self, fleet: str) -> Sequence[Instance]:
        """As reads show them, whole or an error."""
        self.wire.after("list_instances", fleet, lost=self.wire.before("list_instances", fleet, None))
        return () if self.wire.lies() else self.world.listed(fleet)

    def terminate(self, instance_id: str) -> None:
        """Stopping, and gone a little later."""
        machine = self.world.machines.get(instance_id)
        lost = self.wire.before("terminate", instance_id, machine)
        if machine is None or self.world.shown(machine) is None:
            raise NotFound(f"There is no instance {instance_id} to be seen.")
        if not machine.ours:
            raise NotOurs(f"{machine.now.name} ({instance_id}) is not ours.")
        self.world.acting = True
        try:
            self.world.stop(machine)
        finally:
            self.world.acting = False
        self.wire.after("terminate", instance_id, lost=lost)

    def hostspec(self, instance: Instance) -> str:
        """No way in is needed."""
        return f"fake://{instance.id}"

    def list_images(self, family: str) -> Sequence[tuple[Artefact, dict[str, str]]]:
        """What it holds."""
        self.wire.after("list_images", family, lost=self.wire.before("list_images", family, None))
        return self.world.list_images(family)

    def tag_image(self, artefact: Artefact, status: Rung) -> Artefact:
        """Never asked by an engine."""
        raise NotSupported("The simulator tags no images.")

    def delete_image(self, artefact: Artefact) -> None:
        """Never asked by an engine."""
        raise NotSupported("The simulator deletes no images.")


def keyed(now: Instance, keys: tuple[str, ...]) -> Instance:
    """The instance with its host keys."""
    return Instance(
        id=now.id,
        name=now.name,
        fleet=now.fleet,
        slot=now.slot,
        version=now.version,
        token=now.token,
        state=now.state,
        address=now.address,
        digest=now.digest,
        launched_at=now.launched_at,
        host_keys=keys,
        message=now.message,
        zone=now.zone,
        host=now.host,
    )


def boot(world: DataCentre, machine: Machine, fate: InstanceState, address: str, digest: str) -> None:
    """The machine has booted, or failed to, unless somebody stopped it meanwhile."""
    if machine.now.state is not InstanceState.STARTING:
        return
    if fate is InstanceState.RUNNING:
        world.change(machine, state=fate, address=address, digest=digest)
    else:
        world.set_state(machine, fate, "the boot failed")


class SimBalancer(Balancer):
    """A balancer over the fake data centre; without one, running is serving and its calls are not journalled."""

    def __init__(self, world: DataCentre, wire: Wire) -> None:
        super().__init__(None, refuse)
        self.world = world
        self.wire = wire

    def admit(self, instance: Instance) -> None:
        """Starting at first."""
        if not instance.address:
            raise InvalidSpec(f"{instance.name} has no address.")

        def take(machine: Machine) -> None:
            if machine.server in (Backend.ABSENT, Backend.DRAINING):
                self.world.tell_server(machine, Backend.STARTING)

        self._act("admit", instance, take)

    def drain(self, instance: Instance) -> None:
        """Draining; what is connected stays."""

        def stop(machine: Machine) -> None:
            if machine.server not in (Backend.ABSENT, Backend.DRAINING):
                self.world.tell_server(machine, Backend.DRAINING)
                self._let_go(machine)

        self._act("drain", instance, stop)

    def _let_go(self, machine: Machine) -> None:
        """Connections end one after another, unless they are the sort that stays."""
        if machine.connections and not machine.stuck:
            self.world.after(2.0 + machine.connections, lambda: setattr(machine, "connections", 0))

    def remove(self, instance: Instance) -> None:
        """Absent, unless connections are open."""

        def forget(machine: Machine) -> None:
            if machine.server is Backend.ABSENT:
                return
            if machine.connections:
                raise InUse(f"{instance.name} still has {machine.connections} open connections.")
            self.world.tell_server(machine, Backend.ABSENT)

        self._act("remove", instance, forget)

    def _act(self, method: str, instance: Instance, effect: Callable[[Machine], None]) -> None:
        machine = self.world.machines[instance.id]
        lost = self.wire.before(method, instance.id, machine)
        self.world.acting = True
        try:
            effect(machine)
        finally:
            self.world.acting = False
        self.wire.after(method, instance.id, lost=lost)

    def state(self, instance: Instance) -> BackendStatus:
        """As reads show it."""
        self.wire.after("state", instance.id, lost=self.wire.before("state", instance.id, None))
        machine = self.world.machines[instance.id]
        word = self.world.status_shown(machine)
        return BackendStatus(word, machine.connections if word is not Backend.ABSENT else 0)


class SimConfigurator(Configurator):
    """Remembers what it configured."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(None, refuse)
        self.wire = wire
        self.applied: dict[str, str] = {}

    def apply(self, instance: Instance, environment: Environment, log: Callable[[str], None]) -> None:
        """Done, unless the story says otherwise."""
        found = self.wire.trouble("configure", instance)
        if found == "failed":
            raise StepFailed(f"{instance.name}: a task of the role failed.")
        if found:
            raise Unavailable(f"{instance.name} does not answer.")
        self.applied[instance.id] = environment.name


class SimGate(Gate):
    """Says passed, unless the story says otherwise."""

    def __init__(self, wire: Wire, name: str) -> None:
        self.wire = wire
        self.name = name

    def measure(self, subject: Subject) -> Measurement:
        """Passed, failed, inconclusive or an error."""
        assert subject.instance is not None
        found = self.wire.trouble(self.name, subject.instance)
        if found == "unavailable":
            raise Unavailable(f"{subject.instance.name} does not answer.")
        if found == "error":
            return Measurement("not measured", None, error="the probe broke")
        passed = {"": True, "failed": False}.get(found)
        return Measurement(found or "all checks passed", passed)


__all__ = ["PhoenixError", "SimBalancer", "SimConfigurator", "SimGate", "SimPlatform", "Wire"]
