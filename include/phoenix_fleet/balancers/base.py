"""The balancer seam: it lets traffic reach an instance, and takes it away. It never waits or judges."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from pydantic import BaseModel

from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.models import BackendStatus, Instance


class Balancer(ABC):
    """What sends traffic to the instances of one fleet.

    Constructors do no I/O. All methods are idempotent, synchronous and thread-safe, touch only servers that we
    added, and may raise ``Unavailable``.
    """

    Settings: ClassVar[type[BaseModel]]

    drains_in_turns: ClassVar[bool] = False
    """Whether ``drain`` has to be called time and again until no connection is left. Default: once is enough."""

    def __init__(self, settings: Any, connections: Connections) -> None:
        self.settings = settings
        self.connections = connections

    @abstractmethod
    def admit(self, instance: Instance) -> None:
        """Let traffic reach the instance as soon as the balancer finds it healthy. Also undoes a drain.

        :raises InvalidSpec: the instance has no address.
        """

    @abstractmethod
    def drain(self, instance: Instance) -> None:
        """Send no new connections; those that are open go on. Draining an absent instance does nothing."""

    @abstractmethod
    def remove(self, instance: Instance) -> None:
        """Forget the instance. Removing an absent one does nothing.

        :raises InUse: connections are still open and the balancer refuses to cut them.
        """

    @abstractmethod
    def state(self, instance: Instance) -> BackendStatus:
        """What the balancer itself says of the instance now, with the connections open at this moment."""
