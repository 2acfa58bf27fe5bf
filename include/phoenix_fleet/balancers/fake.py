"""A balancer without traffic, for tests and simulations: it keeps every promise of the seam, and breaks on order."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from phoenix_fleet import fakeworld
from phoenix_fleet.balancers.base import Balancer
from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.clock import Clock
from phoenix_fleet.domain.errors import InUse, InvalidSpec, NotOurs
from phoenix_fleet.domain.models import Backend, BackendStatus, Instance


class Settings(BaseModel):
    """How the fake behaves; by default it is quick and in memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: str = Field("", description="JSON file that processes share. Default: none, in memory.")
    start_reads: int = Field(1, ge=0, description="How many reads see an admitted instance starting. Default: 1.")
    start_seconds: float = Field(0.0, ge=0, description="How long it is at least starting, in seconds.")


class Driver(fakeworld.Faults, Balancer):
    """The fake balancer, with what a test needs to set it up and to look into it."""

    Settings = Settings

    def __init__(
        self,
        settings: Any,
        connections: Connections,
        *,
        clock: Clock | None = None,
        hook: fakeworld.Hook | None = None,
    ) -> None:
        super().__init__(settings, connections)
        self.world = fakeworld.World("balancer", settings.state, clock, hook)

    # The seam

    def admit(self, instance: Instance) -> None:
        """Starting at first, then healthy after ``start_reads`` and ``start_seconds`` unless told to be sick."""
        with self.world.call("admit", instance.name) as data:
            if not instance.address:
                raise InvalidSpec(f"{instance.name} has no address.", remedy="Admit it once it is running.")
            server = _server(data, instance)
            if server is None:
                server = _servers(data)[instance.name] = {"address": instance.address, "ours": True, "timeline": []}
            moved = server["address"] != instance.address
            server["address"] = instance.address
            if moved or _last(server) in (Backend.ABSENT, Backend.DRAINING):
                server["reads_left"] = self.settings.start_reads
                fakeworld.put(server["timeline"], self.world.now(), str(Backend.STARTING))

    def drain(self, instance: Instance) -> None:
        """Draining; the connections stay as ``set_connections`` told."""
        with self.world.call("drain", instance.name) as data:
            server = _server(data, instance)
            if server is not None and _last(server) not in (Backend.ABSENT, Backend.DRAINING):
                fakeworld.put(server["timeline"], self.world.now(), str(Backend.DRAINING))

    def remove(self, instance: Instance) -> None:
        """Absent, unless connections are open."""
        with self.world.call("remove", instance.name) as data:
            server = _server(data, instance)
            if server is None or _last(server) == Backend.ABSENT:
                return
            if count := _connections(data, instance.name):
                raise InUse(f"{instance.name} still has {count} open connections.", remedy="Drain it first.")
            fakeworld.put(server["timeline"], self.world.now(), str(Backend.ABSENT))

    def state(self, instance: Instance) -> BackendStatus:
        """As reads show it; each call brings a starting one a read further."""
        with self.world.call("state", instance.name) as data:
            server = _server(data, instance)
            if server is None:
                return BackendStatus(Backend.ABSENT)
            self._advance(server)
            server["reads_left"] = max(0, server["reads_left"] - 1)
            word = Backend(fakeworld.seen(server["timeline"], self.world.horizon(data)) or Backend.ABSENT)
            if word is Backend.ABSENT:
                return BackendStatus(Backend.ABSENT)
            moved = instance.address not in ("", server["address"])
            if moved or (word is Backend.HEALTHY and instance.name in _sick(data)):
                word = Backend.UNHEALTHY
            return BackendStatus(word, _connections(data, instance.name))

    # What a test sets up and looks at

    def set_health(self, name: str, healthy: bool) -> None:
        """From now on the checks of the instance of that name pass, or fail; also before it is admitted."""
        with self.world.transaction() as data:
            sick = _sick(data)
            if healthy and name in sick:
                sick.remove(name)
            elif not healthy and name not in sick:
                sick.append(name)

    def set_connections(self, name: str, count: int) -> None:
        """So many connections are open to the instance of that name."""
        with self.world.transaction() as data:
            data.setdefault("connections", {})[name] = count

    def add_foreign(self, name: str, address: str) -> None:
        """Put a server there that we did not add."""
        with self.world.transaction() as data:
            timeline = [[self.world.now(), str(Backend.HEALTHY)]]
            _servers(data)[name] = {"address": address, "ours": False, "timeline": timeline, "reads_left": 0}

    def forget_all(self) -> None:
        """The balancer restarted and lost every server that was added at run time."""
        with self.world.transaction() as data:
            for server in _servers(data).values():
                if server["ours"]:
                    fakeworld.put(server["timeline"], self.world.now(), str(Backend.ABSENT))

    def servers(self) -> dict[str, Backend]:
        """The truth without lag or reading effects: every server by name, ours or not, with its state now."""
        with self.world.transaction() as data:
            found: dict[str, Backend] = {}
            for name, server in _servers(data).items():
                self._advance(server)
                word = Backend(_last(server))
                if word is not Backend.ABSENT:
                    found[name] = Backend.UNHEALTHY if word is Backend.HEALTHY and name in _sick(data) else word
            return found

    # Inside

    def _advance(self, server: dict[str, Any]) -> None:
        if _last(server) != Backend.STARTING or server["reads_left"] > 0:
            return
        now, due = self.world.now(), server["timeline"][-1][0] + self.settings.start_seconds
        if now >= due:
            # By time alone it happened when it was due, not when somebody looked.
            fakeworld.put(server["timeline"], now if self.settings.start_reads else due, str(Backend.HEALTHY))


def _servers(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    servers: dict[str, dict[str, Any]] = data.setdefault("servers", {})
    return servers


def _server(data: dict[str, Any], instance: Instance) -> dict[str, Any] | None:
    server = _servers(data).get(instance.name)
    if server is None:
        return None
    if not server["ours"]:
        raise NotOurs(f"The server {instance.name} at {server['address']} is not ours.", remedy="Ask whose it is.")
    return server


def _last(server: dict[str, Any]) -> str:
    return str(server["timeline"][-1][1]) if server["timeline"] else str(Backend.ABSENT)


def _sick(data: dict[str, Any]) -> list[str]:
    sick: list[str] = data.setdefault("sick", [])
    return sick


def _connections(data: dict[str, Any], name: str) -> int:
    return int(data.get("connections", {}).get(name, 0))
