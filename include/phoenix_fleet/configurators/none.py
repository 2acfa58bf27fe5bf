"""No configuration: for images that are complete as they are."""

from __future__ import annotations

from collections.abc import Callable

from phoenix_fleet.config import Frozen
from phoenix_fleet.configurators.base import Configurator
from phoenix_fleet.domain.models import Environment, Instance


class Settings(Frozen):
    """There is nothing to set."""


class Driver(Configurator):
    """Leaves every instance as it was born, and never contacts one."""

    Settings = Settings

    def apply(self, instance: Instance, environment: Environment, log: Callable[[str], None]) -> None:
        """Say that there is nothing to do."""
        log(f"{instance.name}: no configurator: the image is complete as it is.")
