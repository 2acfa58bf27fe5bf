"""What the catalog hands out: frozen values, never database rows. All moments are aware and in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal, Protocol

from phoenix_fleet.domain.steps import Step
from phoenix_fleet.domain.verdicts import Measurement, Verdict
from phoenix_fleet.domain.windows import Version, Window

Settled = Literal["released", "unchanged", "covered"]
"""How a refresh window ended: a release was made, nothing had changed, or a newer release covers it."""

Action = Literal[
    "launch",
    "admit",
    "drain",
    "remove",
    "terminate",
    "tag_image",
    "delete_image",
    "stop",
    "create_volume",
    "snapshot",
    "delete_snapshot",
    "detach",
    "attach",
]
"""The mutating calls; each has an intent before and an outcome after."""

Outcome = Literal["done", "failed", "unknown"]
"""How a call ended; ``unknown`` when its reply was lost."""


class RolloutState(StrEnum):
    """Where a rollout stands."""

    OPEN = "open"
    HALTED = "halted"
    DONE = "done"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"

    @property
    def is_closed(self) -> bool:
        """Whether nothing more will happen in its name."""
        return self not in (RolloutState.OPEN, RolloutState.HALTED)


class RolloutKind(StrEnum):
    """What a rollout is for."""

    REFRESH = "refresh"
    ROLLBACK = "rollback"
    EMERGENCY = "emergency"


class QueueState(StrEnum):
    """What became of a run that asked for its turn."""

    WAITING = "waiting"
    BEGUN = "begun"
    SUPERSEDED = "superseded"


class SlotState(StrEnum):
    """Where one replacement of a rollout stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Planned(Protocol):
    """What ``open`` needs of each planned replacement (``domain.planner.PlannedSlot`` is one)."""

    @property
    def slot(self) -> str:
        """The slot's name."""
        ...

    @property
    def wave(self) -> int:
        """Its wave, from 0, the canary."""
        ...

    @property
    def reason(self) -> str:
        """Why it is replaced."""
        ...

    @property
    def old_instance(self) -> str:
        """Id of the instance that fills it now; empty for none."""
        ...


@dataclass(frozen=True)
class Errand:
    """What a rollout is opened for, where it is more than bringing a release."""

    kind: RolloutKind = RolloutKind.REFRESH
    undoes: int | None = None
    """The rollout that a rollback undoes."""
    undone: Version | None = None
    """The version that goes although it may be newer: the one rolled back, or the one revoked."""
    forced: bool = False
    """Whether what stands in the planned slots goes even if it is up to date."""
    deadline_in: timedelta | None = None
    """How long after the revocation an emergency must be over."""


REFRESH = Errand()


@dataclass(frozen=True)
class BlockRecord:
    """A release that a fleet must not get, and who said so."""

    fleet: str
    family: str
    version: Version
    actor: str
    reason: str
    at: datetime


@dataclass(frozen=True)
class QueueRecord:
    """One run's place in a fleet's queue."""

    fleet: str
    run: str
    version: Version
    kind: RolloutKind
    whole: bool
    """Whether it is about every slot that needs it, so that a newer release makes it needless."""
    state: QueueState
    note: str
    """Why it was superseded; empty if it was not."""
    queued_at: datetime
    seen_at: datetime
    """When its run asked last: a run that no longer asks is dead and counts no more."""


@dataclass(frozen=True)
class RollbackRecord:
    """What a rollback goes back from and to, and over which slots."""

    fleet: str
    family: str
    undoes: int
    """The rollout that is rolled back."""
    undone: Version
    version: Version
    """What the slots go back to."""
    slots: tuple[str, ...]
    """Those that it replaced, and those that it had begun to replace."""


@dataclass(frozen=True)
class WindowRecord:
    """How an image family's refresh window ended."""

    family: str
    window: Window
    version: Version
    how: Settled
    actor: str
    reason: str
    at: datetime


@dataclass(frozen=True)
class MeasurementRecord:
    """The latest measurement by one gate of one subject."""

    stage: str
    gate: str
    subject: str
    measurement: Measurement
    verdict: Verdict
    at: datetime


@dataclass(frozen=True)
class CertificateRecord:
    """One component proven, or not, on one artefact of an image."""

    platform: str
    digest: str
    component: str
    component_version: str
    verdict: Verdict
    artefacts: tuple[str, ...]
    """Paths of the files kept as proof."""
    at: datetime


@dataclass(frozen=True)
class ApprovalRecord:
    """What a named person answered about exactly these digests."""

    digest_set: Mapping[str, str]
    """Digest by platform: what was seen when answering."""
    responder: str
    approved: bool
    reason: str
    at: datetime


@dataclass(frozen=True)
class RolloutRecord:
    """One rollout of one image version over one fleet."""

    id: int
    fleet: str
    family: str
    version: Version
    window: Window
    run: str
    """What opened it (an Airflow run id): the same run never opens a second one."""
    state: RolloutState
    settings: Mapping[str, Any]
    """The fleet file as it was when the rollout opened."""
    actor: str
    reason: str
    opened_at: datetime
    closed_at: datetime | None = None
    closed_by: str = ""
    halted_slot: str = ""
    """The slot whose failure halted it; empty if a person did, or if it is not halted."""
    halted_step: Step | None = None
    halted_reason: str = ""
    halted_by: str = ""
    """The holder or person that halted it; empty if it is not halted."""
    halted_at: datetime | None = None
    resumed_by: str = ""
    """Who resumed it last; empty if nobody had to."""
    paused_by: str = ""
    """Who paused it; empty if it is not paused."""
    paused_reason: str = ""
    paused_at: datetime | None = None
    kind: RolloutKind = RolloutKind.REFRESH
    undoes: int | None = None
    """The rollout that this one rolls back; None if it is no rollback."""
    undone: Version | None = None
    """The version whose instances go although it may be newer than ``version``."""
    forced: bool = False
    """Whether what was planned to go goes even if it is up to date."""
    deadline: datetime | None = None
    """When an emergency must be over; None for any other rollout."""

    @property
    def purpose(self) -> str:
        """The purpose of its intents and of the instances it launches: ``rollout-17``."""
        return f"rollout-{self.id}"


@dataclass(frozen=True)
class SlotRecord:
    """One replacement within a rollout."""

    seq: int
    """Its number within the rollout, from 1; never changes."""
    slot: str
    wave: int
    state: SlotState
    step: Step | None
    """The step last entered; None before the first."""
    attempt: int
    """Counts up from 1 each time the slot needs a new machine."""
    token: int
    """The newest ticket's fencing token; 0 before the first."""
    holder: str
    """Who holds, or last held, its ticket."""
    lease_until: datetime | None
    old_instance: str
    new_instance: str
    """Id of the instance launched in this attempt; empty until known."""
    reason: str
    """Why it is replaced."""
    message: str = ""
    """Why it failed or was postponed last."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the steps of this attempt noted with ``enter``, merged."""
    postponed: int = 0
    """How often it was put back to the end."""
    started_at: datetime | None = None
    """When this attempt was first claimed."""
    finished_at: datetime | None = None
    step_started_at: datetime | None = None

    @property
    def seconds(self) -> float | None:
        """How long the replacement took once it might begin, in seconds; None while it is not done."""
        if self.began_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.began_at).total_seconds()

    @property
    def began_at(self) -> datetime | None:
        """When it began, not counting what it waited for a window, a freeze or another fleet; or was claimed."""
        began = self.facts.get("began_at")
        return datetime.fromisoformat(began) if began else self.started_at


@dataclass(frozen=True)
class Ticket:
    """The right to replace one slot, until someone draws a newer one.

    Tokens are drawn from the fleet's epoch, so of two tickets of one fleet the newer has the higher token,
    whatever their slots or rollouts.
    """

    rollout_id: int
    fleet: str
    seq: int
    slot: str
    token: int
    holder: str
    attempt: int
    step: Step
    """Where to begin, or to go on: ``check`` for a replacement that has not begun."""


@dataclass(frozen=True)
class IntentRecord:
    """A mutating call, written down before it is made."""

    id: int
    purpose: str
    action: Action
    target: str
    token: str
    """Idempotency token under which the call is made."""
    params: Mapping[str, Any]
    rollout_id: int | None
    slot: str
    """Empty without a ticket."""
    fence: int | None
    """Fencing token of the ticket that last meant to make the call; None without one."""
    outcome: Outcome | None
    """None until known."""
    result: Mapping[str, Any]
    begun_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True)
class EventRecord:
    """One link of the event chain."""

    seq: int
    at: datetime
    kind: str
    subject: str
    actor: str
    payload: Mapping[str, Any]
    prev_hash: str
    hash: str


@dataclass(frozen=True)
class ChainHead:
    """The chain's length and last hash, for keeping elsewhere as proof that nothing was cut off."""

    count: int
    hash: str
