"""What a rollout may be opened for beside a refresh: going back, and getting away from a revoked release.

Both take the place of a rollout that stands in their way, and bring what is older than what is there; so both are
held against the catalog in the transaction that opens them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from phoenix_fleet.catalog.images import find_image
from phoenix_fleet.catalog.records import Errand, RolloutKind, RolloutState, SlotState
from phoenix_fleet.catalog.schema import RolloutRow, SlotRow
from phoenix_fleet.catalog.tickets import find_rollout
from phoenix_fleet.domain.errors import NotFound, Refused
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.domain.windows import Version

CURRENT = (RolloutState.OPEN, RolloutState.HALTED)


def touched(row: SlotRow) -> bool:
    """Whether the rollout has brought a machine into that slot, or may have begun to."""
    if row.state == SlotState.DONE:
        return bool(row.new_instance)
    begun = row.step is not None and row.step != Step.CHECK
    return begun or bool(row.new_instance) or row.attempt > 1 or row.postponed > 0


def touched_slots(session: Session, rollout: int) -> list[SlotRow]:
    """The slots that a rollback of that rollout is about, in the order they were taken."""
    query = select(SlotRow).where(SlotRow.rollout_id == rollout).order_by(SlotRow.position)
    return [row for row in session.scalars(query) if touched(row)]


def check_errand(session: Session, fleet: str, family: str, slots: Sequence[str], errand: Errand) -> None:
    """Return if a rollout of those slots may be opened for that.

    :raises Refused: a rollback of another fleet's rollout, from another version or over more slots than it touched;
        an emergency without a revoked release.
    """
    if errand.kind is RolloutKind.ROLLBACK:
        undone = find_rollout(session, errand.undoes or 0)
        if (undone.fleet, undone.version) != (fleet, str(errand.undone)):
            raise Refused(f"Rollout {undone.id} brought {undone.version} to {undone.fleet}: no rollback for {fleet}.")
        more = set(slots) - {row.slot for row in touched_slots(session, undone.id)}
        if more:
            raise Refused(
                f"A rollback touches only what was replaced: rollout {undone.id} left {', '.join(sorted(more))} alone."
            )
    if errand.kind is RolloutKind.EMERGENCY and (
        errand.undone is None or not is_revoked(session, family, str(errand.undone))
    ):
        raise Refused(
            f"{family} {errand.undone} is not revoked, so there is no emergency.",
            remedy=f"Revoke it first: `phoenix release revoke {family} {errand.undone}`.",
        )


def gives_way(session: Session, standing: RolloutRow, errand: Errand) -> bool:
    """Whether the fleet's current rollout ends in favour of that errand: it is what is undone or got away from."""
    if errand.kind is RolloutKind.ROLLBACK:
        return standing.id == errand.undoes
    return errand.kind is RolloutKind.EMERGENCY and is_revoked(session, standing.family, standing.version)


def deadline_of(session: Session, family: str, errand: Errand) -> datetime | None:
    """When an emergency must be over, counted from the revocation however late it is opened."""
    if errand.kind is not RolloutKind.EMERGENCY or errand.undone is None or errand.deadline_in is None:
        return None
    return find_image(session, family, errand.undone).moved_at + errand.deadline_in


def is_revoked(session: Session, family: str, version: str) -> bool:
    """Whether that image was revoked; one that the catalog does not know was not."""
    try:
        return find_image(session, family, Version.parse(version)).rung == Rung.REVOKED
    except NotFound:
        return False
