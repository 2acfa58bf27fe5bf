"""No balancer: the fleet's instances are reached directly, so whatever has an address counts as in service."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from phoenix_fleet.balancers.base import Balancer
from phoenix_fleet.domain.errors import InvalidSpec
from phoenix_fleet.domain.models import Backend, BackendStatus, Instance, InstanceState


class Settings(BaseModel):
    """There is nothing to set."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Driver(Balancer):
    """Says yes to everything, and knows no connections."""

    Settings = Settings

    def admit(self, instance: Instance) -> None:
        """Nothing happens; an instance without an address is refused all the same."""
        if not instance.address:
            raise InvalidSpec(f"{instance.name} has no address.", remedy="Admit it once it is running.")

    def drain(self, instance: Instance) -> None:
        """Nothing happens."""

    def remove(self, instance: Instance) -> None:
        """Nothing happens."""

    def state(self, instance: Instance) -> BackendStatus:
        """Healthy without connections if it runs and has an address, otherwise absent."""
        running = instance.state is InstanceState.RUNNING and bool(instance.address)
        return BackendStatus(Backend.HEALTHY if running else Backend.ABSENT)
