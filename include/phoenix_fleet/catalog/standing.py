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

    def left(self, rollout_id: int) -> list[tuple[int, int]]:
        """Number and wave of every replacement that is not done, in the order they are taken."""
        query = select(SlotRow.seq, SlotRow.wave).where(
            SlotRow.rollout_id == rollout_id, SlotRow.state != SlotState.DONE
        )
        with self._database.read() as session:
            return [(seq, wave) for seq, wave in session.execute(query.order_by(SlotRow.position))]

    def recent_seconds_beside(self, fleet: str, platform: str, limit: int = 50) -> list[tuple[str, float]]:
        """The same as ``recent_seconds`` of other fleets on that platform, each with its fleet's watch time as kept."""
        recent = select(RolloutRow.id, RolloutRow.settings).where(RolloutRow.fleet != fleet)
        with self._database.read() as session:
            watched = {
                key: str(settings.get("watch_time", ""))
                for key, settings in session.execute(recent.order_by(RolloutRow.id.desc()).limit(limit))
                if (settings.get("platform") or {}).get("name") == platform
            }
            query = select(SlotRow).where(
                SlotRow.rollout_id.in_(watched), SlotRow.state == SlotState.DONE, SlotRow.new_instance != ""
            )
            rows = session.scalars(query.order_by(SlotRow.finished_at.desc()).limit(limit))
            took = ((watched[row.rollout_id], to_slot(row).seconds) for row in rows)
            return [(watch_time, seconds) for watch_time, seconds in took if seconds is not None]

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
