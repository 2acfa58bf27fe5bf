"""How a rollout's replacements stand, asked for the few that matter now and not for all of them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, bindparam, or_, select

from phoenix_fleet.catalog.database import Database
from phoenix_fleet.catalog.records import SlotRecord, SlotState
from phoenix_fleet.catalog.schema import ROLLOUTS, SLOTS, SlotRow
from phoenix_fleet.domain.steps import Step

_OF_ROLLOUT = SLOTS.c.rollout_id == bindparam("rollout")
_NOT_DONE = SLOTS.c.state != SlotState.DONE
_UNDER_WAY = select(SLOTS).where(_OF_ROLLOUT, SLOTS.c.state == SlotState.RUNNING).order_by(SLOTS.c.position)
_UNFILLED = select(SLOTS.c.slot).where(_OF_ROLLOUT, SLOTS.c.old_instance == "", _NOT_DONE)
_BEGUN = select(SLOTS.c.slot).where(_OF_ROLLOUT, SLOTS.c.state.in_((SlotState.RUNNING, SlotState.DONE)))
_LEFT = select(SLOTS.c.seq, SLOTS.c.wave).where(_OF_ROLLOUT, _NOT_DONE).order_by(SLOTS.c.position)
_BROUGHT = or_(SLOTS.c.old_instance != "", SLOTS.c.state == SlotState.DONE)
_EXPECTED = select(SLOTS.c.seq).where(_OF_ROLLOUT, _BROUGHT).limit(1)
"""Made once: making a query costs more than asking it."""


class SlotQueries:
    """The part of the rollout store that looks at replacements without touching them."""

    _database: Database

    def under_way(self, rollout_id: int) -> list[SlotRecord]:
        """The replacements that somebody holds a ticket for, in the order they are taken."""
        with self._database.look() as connection:
            return [to_slot(row) for row in connection.execute(_UNDER_WAY, {"rollout": rollout_id})]

    def begun(self, rollout_id: int) -> frozenset[str]:
        """The slots whose replacement is done, or that somebody holds a ticket for."""
        with self._database.look() as connection:
            return frozenset(connection.scalars(_BEGUN, {"rollout": rollout_id}))

    def unfilled(self, rollout_id: int) -> frozenset[str]:
        """The slots in which nothing stood when the rollout was planned, and that are not done."""
        with self._database.look() as connection:
            return frozenset(connection.scalars(_UNFILLED, {"rollout": rollout_id}))

    def planned_old(self, rollout_id: int, slot: str) -> str:
        """Id of the instance that the rollout was to take out of that slot; empty if it planned none."""
        query = select(SLOTS.c.old_instance).where(SLOTS.c.rollout_id == rollout_id, SLOTS.c.slot == slot)
        with self._database.look() as connection:
            return connection.scalar(query) or ""

    def left(self, rollout_id: int) -> list[tuple[int, int]]:
        """Number and wave of every replacement that is not done, in the order they are taken."""
        with self._database.look() as connection:
            return [(seq, wave) for seq, wave in connection.execute(_LEFT, {"rollout": rollout_id})]

    def recent_seconds_beside(self, fleet: str, platform: str, limit: int = 50) -> list[tuple[str, float]]:
        """The same as ``recent_seconds`` of other fleets on that platform, each with its fleet's watch time as kept."""
        recent = select(ROLLOUTS.c.id, ROLLOUTS.c.settings).where(ROLLOUTS.c.fleet != fleet)
        with self._database.look() as connection:
            watched = {
                key: str(settings.get("watch_time", ""))
                for key, settings in connection.execute(recent.order_by(ROLLOUTS.c.id.desc()).limit(limit))
                if (settings.get("platform") or settings.get("workload") or {}).get("name") == platform
            }
            query = select(SLOTS).where(
                SLOTS.c.rollout_id.in_(watched), SLOTS.c.state == SlotState.DONE, SLOTS.c.new_instance != ""
            )
            rows = connection.execute(query.order_by(SLOTS.c.finished_at.desc()).limit(limit))
            took = ((watched[row.rollout_id], to_slot(row).seconds) for row in rows)
            return [(watch_time, seconds) for watch_time, seconds in took if seconds is not None]

    def recent_seconds(self, fleet: str, limit: int = 50) -> list[float]:
        """How long the fleet's last replacements took, in seconds, the latest first; those not needed do not count."""
        query = (
            select(SLOTS)
            .join(ROLLOUTS, ROLLOUTS.c.id == SLOTS.c.rollout_id)
            .where(ROLLOUTS.c.fleet == fleet, SLOTS.c.state == SlotState.DONE, SLOTS.c.new_instance != "")
            .order_by(SLOTS.c.finished_at.desc())
        )
        with self._database.look() as connection:
            took = (to_slot(row).seconds for row in connection.execute(query.limit(limit)))
            return [seconds for seconds in took if seconds is not None]

    def is_expected(self, rollout_id: int) -> bool:
        """Whether the rollout found an instance when it was planned, or has brought one since."""
        with self._database.look() as connection:
            return connection.scalar(_EXPECTED, {"rollout": rollout_id}) is not None


def to_slot(row: SlotRow | Row[Any]) -> SlotRecord:
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
