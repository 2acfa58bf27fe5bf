"""How a rollout's replacements stand, asked for the few that matter now and not for all of them."""

from __future__ import annotations

from sqlalchemy import or_, select

from phoenix_fleet.catalog.database import Database
from phoenix_fleet.catalog.records import SlotRecord, SlotState
from phoenix_fleet.catalog.schema import RolloutRow, SlotRow
from phoenix_fleet.domain.steps import Step


class SlotQueries:
    """The part of the rollout store that looks at replacements without touching them."""

    _database: Database

    def under_way(self, rollout_id: int) -> list[SlotRecord]:
        """The replacements that somebody holds a ticket for, in the order they are taken."""
        query = select(SlotRow).where(SlotRow.rollout_id == rollout_id, SlotRow.state == SlotState.RUNNING)
        with self._database.read() as session:
            return [to_slot(row) for row in session.scalars(query.order_by(SlotRow.position))]

    def unfilled(self, rollout_id: int) -> frozenset[str]:
        """The slots in which nothing stood when the rollout was planned, and that are not done."""
        query = select(SlotRow.slot).where(
            SlotRow.rollout_id == rollout_id, SlotRow.old_instance == "", SlotRow.state != SlotState.DONE
        )
        with self._database.read() as session:
            return frozenset(session.scalars(query))

    def planned_old(self, rollout_id: int, slot: str) -> str:
        """Id of the instance that the rollout was to take out of that slot; empty if it planned none."""
        query = select(SlotRow.old_instance).where(SlotRow.rollout_id == rollout_id, SlotRow.slot == slot)
        with self._database.read() as session:
            return session.scalar(query) or ""

    def recent_seconds(self, fleet: str, limit: int = 50) -> list[float]:
        """How long the fleet's last replacements took, in seconds, the latest first; those not needed do not count."""
        query = (
            select(SlotRow)
            .join(RolloutRow, RolloutRow.id == SlotRow.rollout_id)
            .where(RolloutRow.fleet == fleet, SlotRow.state == SlotState.DONE, SlotRow.new_instance != "")
            .order_by(SlotRow.finished_at.desc())
        )
        with self._database.read() as session:
            took = (to_slot(row).seconds for row in session.scalars(query.limit(limit)))
            return [seconds for seconds in took if seconds is not None]

    def is_expected(self, rollout_id: int) -> bool:
        """Whether the rollout found an instance when it was planned, or has brought one since."""
        query = select(SlotRow.seq).where(
            SlotRow.rollout_id == rollout_id, or_(SlotRow.old_instance != "", SlotRow.state == SlotState.DONE)
        )
        with self._database.read() as session:
            return session.scalar(query.limit(1)) is not None


def to_slot(row: SlotRow) -> SlotRecord:
    """The row as a record."""
    return SlotRecord(
        seq=row.seq,
        slot=row.slot,
        wave=row.wave,
        state=SlotState(row.state),
        step=Step(row.step) if row.step else None,
        attempt=row.attempt,
        token=row.token,
        holder=row.holder,
        lease_until=row.lease_until,
        old_instance=row.old_instance,
        new_instance=row.new_instance,
        reason=row.reason,
        message=row.message,
        facts=row.facts,
        postponed=row.postponed,
        started_at=row.started_at,
        finished_at=row.finished_at,
        step_started_at=row.step_started_at,
    )
