"""The configurator seam: it makes a fresh instance one of the fleet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import BaseModel

from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.models import Environment, Instance


class Configurator(ABC):
    """Puts components and their values on an instance. Constructors do no I/O."""

    Settings: ClassVar[type[BaseModel]]

    def __init__(self, settings: Any, connections: Connections) -> None:
        self.settings = settings
        self.connections = connections

    @abstractmethod
    def apply(self, instance: Instance, environment: Environment, log: Callable[[str], None]) -> None:
        """Configure the instance and return when it is done; each line of output goes to ``log``, redacted.

        Idempotent: applying it again changes nothing. Reaches the instance only if its SSH host key is one of
        ``instance.host_keys``.

        :raises StepFailed: the configuration failed, with the task that failed and its message.
        :raises Unavailable: the instance cannot be reached.
        :raises AuthenticationFailed: the host key is not the one the platform reports.
        """
