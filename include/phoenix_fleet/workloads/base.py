"""The workload seam: a platform that rolls its own instances is told the image, watched, and undone."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, ClassVar

from pydantic import BaseModel

from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.models import LaunchIntent


@dataclass(frozen=True, slots=True)
class Revision:
    """What a workload was told to run, once: an image, and the launch that brought it."""

    reference: str
    """The image, by digest: ``host:port/name@sha256:…``."""
    digest: str
    version: str = ""
    """Of the release, as text; empty if somebody else brought it."""
    token: str = ""
    """Of the launch intent; empty if somebody else brought it."""
    started_at: datetime | None = None
    """When the workload was told; for what somebody else brought, when the workload was made."""

    @property
    def key(self) -> str:
        """What tells it from the workload's other revisions: its token, or a hash of the image that was found."""
        return self.token or hashlib.sha256(self.reference.encode()).hexdigest()[:32]

    def data(self) -> dict[str, str]:
        """As JSON-able data, to be kept on the workload itself."""
        return {**asdict(self), "started_at": self.started_at.isoformat() if self.started_at else ""}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Revision:
        """The revision that ``data`` was made of.

        :raises ValueError: it is none.
        """
        texts = {name: data.get(name, "") for name in ("reference", "digest", "version", "token", "started_at")}
        if not all(isinstance(text, str) for text in texts.values()) or not texts["reference"]:
            raise ValueError("this is no revision")
        began = texts.pop("started_at")
        return cls(**texts, started_at=datetime.fromisoformat(began) if began else None)


@dataclass(frozen=True, slots=True)
class Place:
    """One workload, and where it stands."""

    id: str
    """Names it for good: another one that has its name later has another id."""
    zone: str = ""
    """The failure domain: the cluster."""
    address: str = ""
    """Where what it serves is reached, for gates that measure from outside; empty for nowhere."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a workload's own roll has come, in replicas, and between which revisions."""

    current: Revision
    """What it is told to run."""
    desired: int
    updated: int
    """Replicas of the current revision, in service or not."""
    available: int
    """Replicas in service, of whichever revision."""
    minimum: int
    """So many are in service at least while it rolls, by the workload's own strategy."""
    complete: bool
    """Whether the roll to the current revision has come to its end: nothing of another one is left."""
    previous: Revision | None = None
    """What ``undo`` goes back to; None once the roll is settled."""
    undone: Revision | None = None
    """The last one that was undone."""
    failure: str = ""
    """Why the roll cannot come to its end by itself, in the platform's words; empty if nothing says so."""
    running: str = ""
    """Digest that replicas of the current revision really run; empty until the platform tells it."""
    message: str = ""
    """For people."""

    @property
    def healthy(self) -> bool:
        """Whether as many are in service as must be, and at least one of those that there should be."""
        return self.available >= min(self.desired, max(1, self.minimum))


class Workload(ABC):
    """The workloads of one fleet, which replace their own instances once their image changes.

    Constructors do no I/O. Methods are synchronous, safe to call from several threads, wait for nothing and judge
    nothing. Nothing that does not carry the fleet's ownership marks is ever changed: its owner puts them there.
    What can be undone is remembered on the workload itself, so anybody can undo it. Every driver translates its
    vendor's errors: ``Unavailable``, ``Throttled`` and ``AuthenticationFailed`` may come from any method.
    """

    Settings: ClassVar[type[BaseModel]]
    """What a fleet file may say about them."""

    artefacts: ClassVar[str]
    """The platform whose artefacts they run."""

    def __init__(self, settings: Any, connections: Connections) -> None:
        self.settings = settings
        self.connections = connections

    @abstractmethod
    def list_workloads(self, fleet: str) -> Sequence[Place]:
        """All workloads that the settings name, in that order, and by name where one entry selects several.

        All of them or an error: one that cannot be read is never left out.

        :raises NotFound: one that is named is not there.
        :raises NotOurs: one of them does not carry the marks of that fleet.
        """

    @abstractmethod
    def progress(self, workload_id: str) -> Progress:
        """How far the roll has come, as the platform reports it now.

        :raises NotFound: there is no such workload any more.
        :raises NotOurs: it lacks our marks.
        :raises InvalidSpec: nobody can roll it as it stands: its image has no digest, its strategy replaces nothing.
        """

    @abstractmethod
    def start(self, workload_id: str, intent: LaunchIntent, *, dry_run: bool = False) -> None:
        """Set the image by digest, with all marks; returns once accepted. Idempotent by the intent's token.

        One that was undone before is not started anew. ``dry_run`` has the platform check all of it, and change
        nothing.

        :raises IntentMismatch: it was started by that token with other parameters.
        :raises InvalidSpec: it can never work, or somebody else holds on to what would be changed.
        :raises InUse: an earlier roll is not settled.
        :raises NotFound: there is no such workload. :raises NotOurs: it lacks our marks; nothing was touched.
        """

    @abstractmethod
    def undo(self, workload_id: str, key: str) -> None:
        """Go back from the revision with that key to the one before; returns once accepted. Idempotent.

        :raises InvalidSpec: it does not run that revision, so there is nothing to go back from, or somebody else has
            changed the image. Nothing was touched.
        :raises NotFound: there is no such workload. :raises NotOurs: it lacks our marks; nothing was touched.
        """

    @abstractmethod
    def settle(self, workload_id: str, key: str) -> None:
        """Let the revision before the one with that key be over: nobody will go back to it. Idempotent.

        Replicas are not touched. Nothing happens if another revision came meanwhile.

        :raises NotFound: there is no such workload. :raises NotOurs: it lacks our marks; nothing was touched.
        """
