"""Rollouts: which fleets are being refreshed, to what, how far, and who halted, resumed or cancelled them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, select
from sqlalchemy.orm import Session

from phoenix_fleet.catalog import queue
from phoenix_fleet.catalog.blocking import check_unblocked
from phoenix_fleet.catalog.database import Transaction
from phoenix_fleet.catalog.errands import CURRENT, check_errand, deadline_of, gives_way, is_revoked
from phoenix_fleet.catalog.holding import halted, subject_of
from phoenix_fleet.catalog.records import (
    REFRESH,
    Errand,
    Planned,
    RolloutKind,
    RolloutRecord,
    RolloutState,
    SlotRecord,
    SlotState,
)
from phoenix_fleet.catalog.schema import ROLLOUTS, SLOTS, FleetRow, RolloutRow, SlotRow
from phoenix_fleet.catalog.standing import to_slot
from phoenix_fleet.catalog.tickets import (
    TicketStore,
    draw_token,
    find_rollout,
    no_rollout,
    set_halted,
    set_waiting_again,
)
from phoenix_fleet.domain.errors import Busy, Halted, InvalidConfig, NotFound, Refused
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.domain.windows import Version, Window

_ONE = select(ROLLOUTS).where(ROLLOUTS.c.id == bindparam("number"))


class RolloutStore(TicketStore):
    """Every rollout ever opened; of one fleet at most one is open or halted."""

    def open(
        self,
        fleet: str,
        family: str,
        version: Version,
        window: Window,
        run: str,
        slots: Sequence[Planned],
        *,
        settings: Mapping[str, Any],
        actor: str,
        reason: str,
        supersede: bool = False,
        errand: Errand = REFRESH,
    ) -> RolloutRecord:
        """A new rollout with its slots in the order given; asked again by the same run, the same rollout as it is.

        Opening one fences every ticket of the fleet's earlier rollouts.

        :param settings: the fleet file as it is now, JSON-able, kept for the whole rollout.
        :param supersede: take the place of one that is halted, or open with nobody at it (staging fleets).
        :param errand: what it is for, if it is no refresh. A rollback takes the place of what it undoes, an emergency
            that of a rollout to a revoked release, once nobody is at it.
        :raises Halted: the fleet's last rollout is halted.
        :raises Busy: another one is open, for this window or an older one; or another run goes first.
        :raises InvalidConfig: the slots are not distinct, or a wave is below zero.
        :raises Refused: the release is blocked for the fleet, or the errand is not what the catalog knows of it.
        """
        _check_slots(slots)
        if not run:
            raise InvalidConfig("A rollout needs the name of the run that opens it.")
        with self._database.write() as tx:
            again = tx.session.scalar(select(RolloutRow).where(RolloutRow.fleet == fleet, RolloutRow.run == run))
            if again is not None:
                return _to_rollout(again)
            check_unblocked(tx.session, fleet, family, version)
            check_errand(tx.session, fleet, family, [each.slot for each in slots], errand)
            standing = _current(tx.session, fleet)
            if standing is not None:
                may = supersede or gives_way(tx.session, standing, errand)
                _make_room(tx, standing, actor=actor, supersede=may, version=version)
            queue.begin(tx, fleet, run, errand.kind)
            _fence(tx, fleet)
            row = RolloutRow(
                fleet=fleet,
                family=family,
                version=str(version),
                refresh_window=str(window),
                run=run,
                state=RolloutState.OPEN,
                settings=dict(settings),
                actor=actor,
                reason=reason,
                opened_at=tx.now,
                kind=errand.kind,
                undoes=errand.undoes,
                undone=str(errand.undone) if errand.undone else None,
                forced=errand.forced,
                deadline=deadline_of(tx.session, family, errand),
            )
            tx.session.add(row)
            tx.session.flush()
            tx.session.add_all(_to_rows(row.id, slots))
            payload = {
                "family": family,
                "version": str(version),
                "window": str(window),
                "run": run,
                "reason": reason,
                "slots": [[each.slot, each.wave, each.reason, each.old_instance] for each in slots],
                "kind": errand.kind,
                "undoes": errand.undoes,
                "undone": row.undone,
                "forced": errand.forced,
            }
            tx.event("rollout.opened", subject_of(row), actor, payload)
            return _to_rollout(row)

    def get(self, rollout_id: int) -> RolloutRecord:
        """The rollout. :raises NotFound: if there is none."""
        # In plain SQL, as each replacement's process asks it anew: the first query of an ORM costs it 25 ms.
        with self._database.look() as connection:
            row = connection.execute(_ONE, {"number": rollout_id}).one_or_none()
        if row is None:
            raise no_rollout(rollout_id)
        return _to_rollout(row)

    def current(self, fleet: str) -> RolloutRecord | None:
        """The fleet's rollout that is open or halted, if any."""
        with self._database.read() as session:
            row = _current(session, fleet)
            return _to_rollout(row) if row is not None else None

    def for_run(self, fleet: str, run: str) -> RolloutRecord | None:
        """The rollout that this run opened, if it did."""
        query = select(RolloutRow).where(RolloutRow.fleet == fleet, RolloutRow.run == run)
        with self._database.read() as session:
            row = session.scalar(query)
            return _to_rollout(row) if row is not None else None

    def list_rollouts(self, fleet: str) -> list[RolloutRecord]:
        """All rollouts of the fleet, newest first."""
        query = select(RolloutRow).where(RolloutRow.fleet == fleet).order_by(RolloutRow.id.desc())
        with self._database.read() as session:
            return [_to_rollout(row) for row in session.scalars(query)]

    def slots(self, rollout_id: int) -> list[SlotRecord]:
        """The rollout's replacements, in the order they are taken. :raises NotFound: no such rollout."""
        query = select(SlotRow).where(SlotRow.rollout_id == rollout_id).order_by(SlotRow.position)
        with self._database.read() as session:
            find_rollout(session, rollout_id)
            return [to_slot(row) for row in session.scalars(query)]

    def slot(self, rollout_id: int, seq: int) -> SlotRecord:
        """One replacement by its number. :raises NotFound: if there is none."""
        query = select(SLOTS).where(SLOTS.c.rollout_id == rollout_id, SLOTS.c.seq == seq)
        with self._database.look() as connection:
            row = connection.execute(query).one_or_none()
            if row is None:
                raise NotFound(f"Rollout {rollout_id} has no replacement number {seq}.")
            return to_slot(row)

    def halt(self, fleet: str, *, actor: str, reason: str) -> RolloutRecord:
        """The fleet's rollout, halted: nothing goes on before a person resumes it. Halting twice changes nothing.

        :raises NotFound: no rollout of the fleet is under way.
        """
        with self._database.write() as tx:
            row = _find_current(tx.session, fleet)
            if row.state == RolloutState.OPEN:
                set_halted(tx, row, by=actor, reason=reason)
            return _to_rollout(row)

    def pause(self, fleet: str, *, actor: str, reason: str) -> RolloutRecord:
        """The fleet's rollout, paused: what has begun is finished, nothing else begins before a person resumes it.

        Pausing twice changes nothing.

        :raises NotFound: no rollout of the fleet is under way.
        """
        with self._database.write() as tx:
            row = _find_current(tx.session, fleet)
            if not row.paused_by:
                row.paused_by, row.paused_reason, row.paused_at = actor, reason, tx.now
                tx.event("rollout.paused", subject_of(row), actor, {"reason": reason})
            return _to_rollout(row)

    def resume(self, fleet: str, *, actor: str, reason: str) -> RolloutRecord:
        """The fleet's halted or paused rollout, going on; what had failed waits for a new try.

        :raises NotFound: no rollout of the fleet is under way.
        :raises Refused: nobody is named; it is neither halted nor paused; or its release is revoked or blocked.
        """
        if not actor.strip():
            raise Refused(
                f"Resuming {fleet} needs somebody's name.", remedy="Say who takes responsibility for going on."
            )
        with self._database.write() as tx:
            row = _find_current(tx.session, fleet)
            if row.state != RolloutState.HALTED and not row.paused_by:
                raise Refused(f"Rollout {row.id} of {fleet} is {row.state}, so there is nothing to resume.")
            _check_good(tx.session, row)
            failed = select(SlotRow).where(SlotRow.rollout_id == row.id, SlotRow.state == SlotState.FAILED)
            again = list(tx.session.scalars(failed.order_by(SlotRow.position)))
            for slot in again:
                set_waiting_again(slot)
            was = row.halted_reason or row.paused_reason
            payload = {"reason": reason, "again": [slot.slot for slot in again], "was": was}
            row.state, row.resumed_by = RolloutState.OPEN, actor
            row.halted_slot, row.halted_step, row.halted_reason = "", None, ""
            row.halted_by, row.halted_at = "", None
            row.paused_by, row.paused_reason, row.paused_at = "", "", None
            tx.event("rollout.resumed", subject_of(row), actor, payload)
            return _to_rollout(row)

    def cancel(self, fleet: str, *, actor: str, reason: str) -> RolloutRecord:
        """The fleet's rollout, cancelled for good. Asked again, the one that was cancelled last.

        What was under way is written down as it stands: the next rollout, or a rollback, finishes or undoes it.

        :raises NotFound: no rollout of the fleet is under way.
        """
        with self._database.write() as tx:
            row = _current(tx.session, fleet) or _last(tx.session, fleet)
            if row is None or row.state not in (*CURRENT, RolloutState.CANCELLED):
                raise _nothing_under_way(fleet)
            if row.state != RolloutState.CANCELLED:
                payload = {"reason": reason, "under_way": _under_way(tx.session, row)}
                _close(tx, row, RolloutState.CANCELLED, actor=actor, payload=payload)
            return _to_rollout(row)

    def complete(self, rollout_id: int) -> RolloutRecord:
        """The rollout, done. Asked again, the same.

        :raises NotFound: no such rollout.
        :raises Halted: it is halted.
        :raises Refused: a slot is not done, or it was cancelled or superseded.
        """
        with self._database.write() as tx:
            row = find_rollout(tx.session, rollout_id)
            if row.state == RolloutState.DONE:
                return _to_rollout(row)
            if row.state == RolloutState.HALTED:
                raise halted(row, row.fleet)
            query = select(SlotRow).where(SlotRow.rollout_id == row.id).order_by(SlotRow.position)
            slots = list(tx.session.scalars(query))
            missing = [f"{slot.slot} ({slot.state})" for slot in slots if slot.state != SlotState.DONE]
            if missing or row.state != RolloutState.OPEN:
                why = f"not done: {', '.join(missing)}" if missing else f"it is {row.state}"
                raise Refused(f"Rollout {row.id} of {row.fleet} is not complete: {why}.")
            _close(tx, row, RolloutState.DONE, actor=row.actor, payload={"replaced": [slot.slot for slot in slots]})
            return _to_rollout(row)


def _check_slots(slots: Sequence[Planned]) -> None:
    names = [each.slot for each in slots]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InvalidConfig(f"A rollout replaces each slot once; planned more than once: {', '.join(twice)}.")
    below = [each.slot for each in slots if each.wave < 0]
    if below:
        raise InvalidConfig(f"Waves count from 0; below that: {', '.join(below)}.")


def _make_room(tx: Transaction, standing: RolloutRow, *, actor: str, supersede: bool, version: Version) -> None:
    """Close the fleet's current rollout in favour of a new one, if that is allowed."""
    name = f"rollout {standing.id} of {standing.fleet} (to {standing.version}, window {standing.refresh_window})"
    if standing.state == RolloutState.HALTED and not supersede:
        raise Halted(
            f"No other rollout begins: {name} is halted: {standing.halted_reason}",
            remedy="A named person resumes or cancels that one first.",
        )
    alive = _alive(tx.session, standing, tx.now)
    if alive is not None or not supersede:
        who = f"{alive.holder} is at {alive.slot}" if alive is not None else f"opened by {standing.run}"
        raise Busy(f"No other rollout begins: {name} is {standing.state}; {who}.")
    _close(tx, standing, RolloutState.SUPERSEDED, actor=actor, payload={"by": str(version)})
    tx.session.flush()


def _check_good(session: Session, row: RolloutRow) -> None:
    """Return if the rollout's release may still be brought. :raises Refused: it was revoked, or rolled back here."""
    check_unblocked(session, row.fleet, row.family, Version.parse(row.version))
    if is_revoked(session, row.family, row.version):
        raise Refused(
            f"Rollout {row.id} of {row.fleet} brings {row.family} {row.version}, which is revoked.",
            remedy=f"Start fleet.{row.fleet} with `emergency: {row.version}`, or cancel this rollout.",
        )


def _under_way(session: Session, rollout: RolloutRow) -> list[dict[str, str | None]]:
    """How the replacements stand that somebody was at."""
    query = select(SlotRow).where(SlotRow.rollout_id == rollout.id, SlotRow.state == SlotState.RUNNING)
    return [
        {"slot": row.slot, "step": row.step, "old_instance": row.old_instance, "new_instance": row.new_instance}
        for row in session.scalars(query.order_by(SlotRow.position))
    ]


def _alive(session: Session, rollout: RolloutRow, now: datetime) -> SlotRow | None:
    running = select(SlotRow).where(SlotRow.rollout_id == rollout.id, SlotRow.state == SlotState.RUNNING)
    return session.scalar(running.where(SlotRow.lease_until > now).limit(1))


def _fence(tx: Transaction, fleet: str) -> None:
    """Make every ticket that the fleet has given out so far stale."""
    row = tx.session.get(FleetRow, fleet)
    if row is None:
        row = FleetRow(name=fleet, epoch=0, fence=0)
        tx.session.add(row)
        tx.session.flush()
    row.fence = draw_token(tx, fleet)


def _close(tx: Transaction, row: RolloutRow, state: RolloutState, *, actor: str, payload: dict[str, Any]) -> None:
    row.state, row.closed_at, row.closed_by = state, tx.now, actor
    tx.event(f"rollout.{state}", subject_of(row), actor, payload)


def _to_rows(rollout_id: int, slots: Sequence[Planned]) -> list[SlotRow]:
    """Rows in the order of the waves, and within a wave in the order given."""
    return [
        SlotRow(
            rollout_id=rollout_id,
            seq=number,
            slot=each.slot,
            wave=each.wave,
            position=number,
            state=SlotState.WAITING,
            old_instance=each.old_instance,
            reason=each.reason,
        )
        for number, each in enumerate(sorted(slots, key=lambda each: each.wave), start=1)
    ]


def _current(session: Session, fleet: str) -> RolloutRow | None:
    return session.scalar(select(RolloutRow).where(RolloutRow.fleet == fleet, RolloutRow.state.in_(CURRENT)))


def _last(session: Session, fleet: str) -> RolloutRow | None:
    return session.scalar(select(RolloutRow).where(RolloutRow.fleet == fleet).order_by(RolloutRow.id.desc()).limit(1))


def _find_current(session: Session, fleet: str) -> RolloutRow:
    row = _current(session, fleet)
    if row is None:
        raise _nothing_under_way(fleet)
    return row


def _nothing_under_way(fleet: str) -> NotFound:
    return NotFound(f"No rollout of {fleet} is under way.")


def _to_rollout(row: RolloutRow | Row[Any]) -> RolloutRecord:
    return RolloutRecord(
        id=row.id,
        fleet=row.fleet,
        family=row.family,
        version=Version.parse(row.version),
        window=Window.parse(row.refresh_window),
        run=row.run,
        state=RolloutState(row.state),
        settings=row.settings,
        actor=row.actor,
        reason=row.reason,
        opened_at=row.opened_at,
        closed_at=row.closed_at,
        closed_by=row.closed_by or "",
        halted_slot=row.halted_slot or "",
        halted_step=Step(row.halted_step) if row.halted_step else None,
        halted_reason=row.halted_reason or "",
        halted_by=row.halted_by or "",
        halted_at=row.halted_at,
        resumed_by=row.resumed_by or "",
        paused_by=row.paused_by or "",
        paused_reason=row.paused_reason or "",
        paused_at=row.paused_at,
        kind=RolloutKind(row.kind),
        undoes=row.undoes,
        undone=Version.parse(row.undone) if row.undone else None,
        forced=row.forced,
        deadline=row.deadline,
    )
