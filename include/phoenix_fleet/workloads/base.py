"""The workload seam: a platform that rolls its own instances is told the image, watched, and undone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel

from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.models import Artefact


@dataclass(frozen=True)
class Progress:
    """How far a workload's own roll has come, in replicas."""

    desired: int
    updated: int
    available: int
    message: str = ""


class Workload(ABC):
    """Something that replaces its own instances once its image changes. Constructors do no I/O."""

    Settings: ClassVar[type[BaseModel]]

    def __init__(self, settings: Any, connections: Connections) -> None:
        self.settings = settings
        self.connections = connections

    @abstractmethod
    def start(self, artefact: Artefact) -> None:
        """Set the image by digest; returns once accepted. Idempotent."""

    @abstractmethod
    def progress(self) -> Progress:
        """How far the roll has come, as the platform reports it."""

    @abstractmethod
    def undo(self) -> None:
        """Go back to the previous released digest; returns once accepted. Idempotent."""
