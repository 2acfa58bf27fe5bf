"""The catalog's tables. Rows stay inside this package; callers get the values of ``records``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from phoenix_fleet.catalog import canonical


class Words(TypeDecorator[str]):
    """Text from anywhere: what no database can hold is replaced on the way in, and so in comparisons too."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Clean it; enumerations become plain text."""
        return None if value is None else canonical.clean(str(value))


class Json(TypeDecorator[Any]):
    """Any JSON-able value, as canonical text: the same bytes in every database, so it can be hashed."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        """Write it down."""
        return canonical.dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Read it back."""
        return None if value is None else canonical.loads(value)


class Moment(TypeDecorator[datetime]):
    """An aware moment, kept in UTC. SQLite has no time zones, so there it is written without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC. :raises ValueError: if it has no time zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("the catalog keeps aware moments only: give it a time zone")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Aware, in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """What all tables share: how Python types are stored and how constraints are named."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy's own way of saying it)
        str: Words(),
        int: Integer(),
        bool: Boolean(),
        datetime: Moment(),
        dict[str, Any]: Json(),
        list[str]: Json(),
    }


class ImageRow(Base):
    """One version of an image family."""

    __tablename__ = "images"
    __table_args__ = (
        UniqueConstraint("family", "refresh_window", "build"),
        UniqueConstraint("family", "run"),
        # Two candidates of a family at once cannot even be written down.
        Index(
            "uq_images_in_flight",
            "family",
            unique=True,
            sqlite_where=text("rung IN ('candidate', 'tested', 'certified', 'staged')"),
            postgresql_where=text("rung IN ('candidate', 'tested', 'certified', 'staged')"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    family: Mapped[str]
    refresh_window: Mapped[str]
    build: Mapped[int]
    rung: Mapped[str]
    inputs: Mapped[str]
    run: Mapped[str]
    actor: Mapped[str]
    reason: Mapped[str]
    created_at: Mapped[datetime]
    moved_at: Mapped[datetime]
    artefacts: Mapped[list[ArtefactRow]] = relationship(
        order_by="ArtefactRow.platform",
        lazy="selectin",  # codespell:ignore selectin
    )


class ArtefactRow(Base):
    """An image on one platform."""

    __tablename__ = "artefacts"

    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"), primary_key=True)
    platform: Mapped[str] = mapped_column(primary_key=True)
    reference: Mapped[str]
    digest: Mapped[str]


class SettledWindowRow(Base):
    """How a family's refresh window ended."""

    __tablename__ = "settled_windows"

    family: Mapped[str] = mapped_column(primary_key=True)
    refresh_window: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str]
    how: Mapped[str]
    actor: Mapped[str]
    reason: Mapped[str]
    at: Mapped[datetime]


class MeasurementRow(Base):
    """What a gate measured; every one is kept, the newest counts."""

    __tablename__ = "measurements"

    id: Mapped[int] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"), index=True)
    stage: Mapped[str]
    gate: Mapped[str]
    subject: Mapped[str]
    value: Mapped[str]
    passed: Mapped[bool | None]
    details: Mapped[dict[str, Any]]
    artefacts: Mapped[list[str]]
    error: Mapped[str]
    verdict: Mapped[str]
    at: Mapped[datetime]


class CertificateRow(Base):
    """A component proven, or not, on one artefact; every one is kept, the newest counts."""

    __tablename__ = "certificates"

    id: Mapped[int] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"), index=True)
    platform: Mapped[str]
    digest: Mapped[str]
    component: Mapped[str]
    component_version: Mapped[str]
    verdict: Mapped[str]
    artefacts: Mapped[list[str]]
    at: Mapped[datetime]


class ApprovalRow(Base):
    """What a named person answered about a set of digests."""

    __tablename__ = "approvals"

    id: Mapped[int] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"), index=True)
    digest_set: Mapped[dict[str, Any]]
    responder: Mapped[str]
    approved: Mapped[bool]
    reason: Mapped[str]
    at: Mapped[datetime]


class FleetRow(Base):
    """A fleet's lease row: where its fencing tokens come from."""

    __tablename__ = "fleets"

    name: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(BigInteger)
    """Only ever counts up; every ticket's token is drawn from it."""
    fence: Mapped[int] = mapped_column(BigInteger)
    """Tickets with tokens up to this one are dead, whatever their rows say."""


class RolloutRow(Base):
    """One rollout of an image version over a fleet."""

    __tablename__ = "rollouts"
    __table_args__ = (
        UniqueConstraint("fleet", "run"),
        # Two rollouts of a fleet at once cannot even be written down.
        Index(
            "uq_rollouts_current",
            "fleet",
            unique=True,
            sqlite_where=text("state IN ('open', 'halted')"),
            postgresql_where=text("state IN ('open', 'halted')"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    fleet: Mapped[str] = mapped_column(ForeignKey("fleets.name"))
    family: Mapped[str]
    version: Mapped[str]
    refresh_window: Mapped[str]
    run: Mapped[str]
    state: Mapped[str]
    settings: Mapped[dict[str, Any]]
    actor: Mapped[str]
    reason: Mapped[str]
    opened_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    closed_by: Mapped[str] = mapped_column(default="")
    halted_slot: Mapped[str] = mapped_column(default="")
    halted_step: Mapped[str | None]
    halted_reason: Mapped[str] = mapped_column(default="")
    halted_by: Mapped[str] = mapped_column(default="")
    halted_at: Mapped[datetime | None]
    resumed_by: Mapped[str] = mapped_column(default="")
    paused_by: Mapped[str] = mapped_column(default="")
    paused_reason: Mapped[str] = mapped_column(default="")
    paused_at: Mapped[datetime | None]
    kind: Mapped[str] = mapped_column(default="refresh")
    undoes: Mapped[int | None]
    """The rollout that this one rolls back."""
    undone: Mapped[str | None]
    """The version whose instances go although it is newer than what comes."""
    forced: Mapped[bool] = mapped_column(default=False)
    deadline: Mapped[datetime | None]


class BlockRow(Base):
    """A release that a fleet must not get, until somebody lifts that."""

    __tablename__ = "blocks"
    __table_args__ = (
        Index(
            "uq_blocks_standing",
            "fleet",
            "family",
            "version",
            unique=True,
            sqlite_where=text("lifted_at IS NULL"),
            postgresql_where=text("lifted_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    fleet: Mapped[str]
    family: Mapped[str]
    version: Mapped[str]
    actor: Mapped[str]
    reason: Mapped[str]
    at: Mapped[datetime]
    lifted_by: Mapped[str] = mapped_column(default="")
    lifted_reason: Mapped[str] = mapped_column(default="")
    lifted_at: Mapped[datetime | None]


class QueueRow(Base):
    """A run that waits, or has waited, for its turn to open a rollout of a fleet."""

    __tablename__ = "queue"

    fleet: Mapped[str] = mapped_column(primary_key=True)
    run: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str]
    kind: Mapped[str]
    whole: Mapped[bool]
    state: Mapped[str]
    note: Mapped[str] = mapped_column(default="")
    queued_at: Mapped[datetime]
    seen_at: Mapped[datetime]


class SlotRow(Base):
    """One replacement of a rollout, and who holds the ticket for it."""

    __tablename__ = "slots"
    __table_args__ = (
        UniqueConstraint("rollout_id", "slot"),
        Index("ix_slots_rollout_id_state_wave_position", "rollout_id", "state", "wave", "position"),
    )

    rollout_id: Mapped[int] = mapped_column(ForeignKey("rollouts.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    slot: Mapped[str]
    wave: Mapped[int]
    position: Mapped[int]
    """Where it stands in the queue; begins as ``seq`` and grows when it is postponed."""
    state: Mapped[str]
    step: Mapped[str | None]
    attempt: Mapped[int] = mapped_column(default=1)
    token: Mapped[int] = mapped_column(BigInteger, default=0)
    holder: Mapped[str] = mapped_column(default="")
    lease_until: Mapped[datetime | None]
    old_instance: Mapped[str]
    new_instance: Mapped[str] = mapped_column(default="")
    reason: Mapped[str]
    message: Mapped[str] = mapped_column(default="")
    facts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    resume_at: Mapped[str | None]
    """Where a failed replacement goes on once it is resumed; None for the beginning."""
    postponed: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    step_started_at: Mapped[datetime | None]


class IntentRow(Base):
    """A mutating call, committed before it is made."""

    __tablename__ = "intents"
    __table_args__ = (
        UniqueConstraint("purpose", "action", "target", "token"),
        Index("ix_intents_action_ended_at", "action", "ended_at"),
        Index("ix_intents_slot_outcome", "slot", "outcome"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    purpose: Mapped[str]
    action: Mapped[str]
    target: Mapped[str]
    token: Mapped[str]
    params: Mapped[dict[str, Any]]
    rollout_id: Mapped[int | None] = mapped_column(ForeignKey("rollouts.id"))
    slot: Mapped[str]
    fence: Mapped[int | None] = mapped_column(BigInteger)
    outcome: Mapped[str | None]
    result: Mapped[dict[str, Any]]
    begun_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class EventRow(Base):
    """One link of the event chain."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_subject_kind", "subject", "kind"),)

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    kind: Mapped[str]
    subject: Mapped[str]
    actor: Mapped[str]
    payload: Mapped[dict[str, Any]]
    prev_hash: Mapped[str]
    hash: Mapped[str]


class ChainRow(Base):
    """The end of the event chain: one row, which every writing transaction locks first."""

    __tablename__ = "chain"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    count: Mapped[int]
    hash: Mapped[str]


def _table(row: type[Base]) -> Table:
    return Base.metadata.tables[row.__tablename__]


FLEETS, ROLLOUTS, SLOTS, INTENTS = (_table(row) for row in (FleetRow, RolloutRow, SlotRow, IntentRow))
IMAGES, ARTEFACTS, BLOCKS = (_table(row) for row in (ImageRow, ArtefactRow, BlockRow))
EVENTS, CHAIN = (_table(row) for row in (EventRow, ChainRow))
"""The tables that every step of every replacement reads or writes, for plain SQL."""
