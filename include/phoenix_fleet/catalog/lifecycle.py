"""Acts of a named person that end a release's career: on one fleet (rolling back), or everywhere (revoking)."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import select
from sqlalchemy.orm import Session

from phoenix_fleet.catalog.blocking import block, check_named, check_unblocked, good_releases
from phoenix_fleet.catalog.database import Database
from phoenix_fleet.catalog.errands import CURRENT, touched_slots
from phoenix_fleet.catalog.holding import subject_of
from phoenix_fleet.catalog.images import find_image, move_image, to_image
from phoenix_fleet.catalog.records import RollbackRecord, RolloutKind, RolloutState
from phoenix_fleet.catalog.schema import RolloutRow, SlotRow
from phoenix_fleet.catalog.tickets import set_halted
from phoenix_fleet.domain.errors import NotFound, Refused
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import Image
from phoenix_fleet.domain.windows import Version


class LifecycleStore:
    """Rolling back and revoking, each one transaction: nobody begins anything between its parts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def roll_back(self, fleet: str, *, actor: str, reason: str, to: Version | None = None) -> RollbackRecord:
        """What a rollback of the fleet's last rollout goes back to, and over which slots.

        From now on that rollout is halted if it was open, and its release is blocked for the fleet. A rollout that
        goes back is still to be opened. Asked again, the same.

        :param to: the version to go back to. Default: what most of the slots ran before, if that is good still, or
            the newest good one before it.
        :raises NotFound: no rollout of the fleet has replaced anything.
        :raises Refused: nobody is named; another rollout is under way; or there is no good release to go back to.
        """
        check_named(actor, f"Rolling {fleet} back")
        with self._database.write() as tx:
            row, found = _look_back(tx.session, fleet, to)
            if row.state == RolloutState.OPEN:
                set_halted(tx, row, by=actor, reason=f"rolled back: {reason}")
            told = f"rollout {row.id} was rolled back: {reason}"
            if block(tx, fleet, row.family, found.undone, actor=actor, reason=told):
                payload = {"to": str(found.version), "reason": reason, "slots": list(found.slots)}
                tx.event("rollout.undone", subject_of(row), actor, payload)
            return found

    def look_back(self, fleet: str, to: Version | None = None) -> RollbackRecord:
        """The same, and nothing is done: what a rollback would go back to. Raises the same."""
        with self._database.read() as session:
            return _look_back(session, fleet, to)[1]

    def revoke(self, family: str, version: Version, *, actor: str, reason: str) -> tuple[Image, list[str]]:
        """The image, revoked, and the fleets whose rollouts of it are halted. Asked again, the same.

        :raises Refused: nobody is named.
        :raises NotFound: no such image.
        :raises IllegalTransition: it is no release.
        """
        check_named(actor, f"Revoking {family} {version}")
        with self._database.write() as tx:
            image = find_image(tx.session, family, version)
            move_image(tx, image, Rung.REVOKED, actor=actor, reason=reason)
            current = select(RolloutRow).where(RolloutRow.family == family, RolloutRow.version == str(version))
            found = list(tx.session.scalars(current.where(RolloutRow.state.in_(CURRENT)).order_by(RolloutRow.fleet)))
            for row in found:
                if row.state == RolloutState.OPEN:
                    set_halted(tx, row, by=actor, reason=f"{family} {version} is revoked: {reason}")
            return to_image(image), [row.fleet for row in found]


def _look_back(session: Session, fleet: str, to: Version | None) -> tuple[RolloutRow, RollbackRecord]:
    row = _to_undo(session, fleet)
    _check_current(session, row)
    slots = touched_slots(session, row.id)
    target = _check_target(session, row, to) if to else _previous(session, row, slots)
    names = tuple(slot.slot for slot in slots)
    return row, RollbackRecord(fleet, row.family, row.id, Version.parse(row.version), target, names)


def _to_undo(session: Session, fleet: str) -> RolloutRow:
    """The fleet's last rollout that touched something and did not itself go back."""
    query = select(RolloutRow).where(RolloutRow.fleet == fleet, RolloutRow.kind != RolloutKind.ROLLBACK)
    for row in session.scalars(query.order_by(RolloutRow.id.desc())):
        if touched_slots(session, row.id):
            return row
    raise NotFound(f"No rollout of {fleet} has replaced anything, so there is nothing to go back from.")


def _check_current(session: Session, undone: RolloutRow) -> None:
    query = select(RolloutRow).where(RolloutRow.fleet == undone.fleet, RolloutRow.state.in_(CURRENT))
    standing = session.scalar(query)
    if standing is None or standing.id == undone.id or standing.undoes == undone.id:
        return
    raise Refused(
        f"Rollout {standing.id} of {undone.fleet} to {standing.version} is {standing.state}, and the one to undo is "
        f"rollout {undone.id} to {undone.version}.",
        remedy=f"Cancel rollout {standing.id} first.",
    )


def _check_target(session: Session, undone: RolloutRow, to: Version) -> Version:
    rung = find_image(session, undone.family, to).rung
    if rung != Rung.RELEASED or str(to) == undone.version:
        why = f"it is {rung}" if rung != Rung.RELEASED else "that is what is undone"
        raise Refused(f"{undone.fleet} cannot go back to {undone.family} {to}: {why}.", remedy="Choose a good release.")
    check_unblocked(session, undone.fleet, undone.family, to)
    return to


def _previous(session: Session, undone: RolloutRow, slots: list[SlotRow]) -> Version:
    good = [image.version for image in good_releases(session, undone.fleet, undone.family)]
    bad = Version.parse(undone.version)
    ran = Counter(str((slot.facts.get("old") or {}).get("version")) for slot in slots)
    before = [version for version in good if ran[str(version)] and version != bad]
    if before:
        return max(before, key=lambda version: (ran[str(version)], version))
    older = [version for version in good if version < bad]
    if older:
        return older[0]
    raise Refused(
        f"{undone.family} has no good release before {bad} that {undone.fleet} could go back to.",
        remedy="Release a good one, or lift the block of an older one.",
    )
