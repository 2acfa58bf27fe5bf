"""The gate seam: it measures one subject. The framework judges (``domain.verdicts``)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.models import Bounds, Subject
from phoenix_fleet.domain.verdicts import Measurement


class Gate(ABC):
    """One way of measuring. Constructors do no I/O; relative paths in settings start at ``home``."""

    Settings: ClassVar[type[BaseModel]]
    watches: ClassVar[bool] = False
    """Whether it judges a watch as a whole: then ``subject.facts`` say who serves beside the new instance, and it is
    also measured at every look before the end, with ``watch_over`` false, where only *failed* counts."""

    def __init__(self, settings: Any, connections: Connections, home: Path) -> None:
        self.settings = settings
        self.connections = connections
        self.home = home
        """Folder of the file that names this gate (``include/images/<family>`` or ``include/fleets``)."""

    @property
    def fetches(self) -> Bounds | None:
        """How much may be copied to give it ``subject.disks`` of an artefact that consists of disks.

        None, as by default: it looks at no disk, and none is copied.
        """
        return None

    @abstractmethod
    def measure(self, subject: Subject) -> Measurement:
        """What was seen, with the files kept as proof below ``subject.workdir``. Changes nothing it measures.

        What could not be measured (tool missing, no answer, empty result, no test collected) comes back with
        ``error`` set, never as passed; bugs may raise.
        """
