"""Tickets: who may replace which slot. Order, mutual exclusion, halting and fencing are decided here and nowhere else.

A ticket is good while its token is the newest of its slot, its fleet has not been fenced since, and its rollout is
open. Leases only say when somebody else may draw a newer one; a holder that slept past its lease is stopped by the
token, never by a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, func, select, update
from sqlalchemy.orm import Session

from phoenix_fleet.catalog.database import Database, Transaction
from phoenix_fleet.catalog.holding import (
    change,
    check_ticket,
    closed,
    ended_with,
    halted,
    held,
    paused,
    subject_of,
)
from phoenix_fleet.catalog.records import RolloutState, SlotRecord, SlotState, Ticket
from phoenix_fleet.catalog.schema import SLOTS, FleetRow, RolloutRow, SlotRow
from phoenix_fleet.catalog.standing import SlotQueries, to_slot
from phoenix_fleet.domain.errors import Busy, Fenced, InvalidConfig, NotFound, Refused
from phoenix_fleet.domain.steps import Step

_NEW_MACHINE_FROM = (None, Step.CHECK, Step.LAUNCH)
"""A replacement that is resumed here needs a machine of its own again."""


class TicketStore(SlotQueries):
    """The part of the rollout store that holders of tickets, and those who want to be, talk to."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, rollout_id: int, wave: int, holder: str, *, lease: timedelta, max_in_flight: int) -> Ticket | None:
        """A ticket for the lowest slot of the wave that is not done, or None if all of them are.

        A slot whose holder's lease has run out is taken over first: same attempt, same step, newer token. A holder
        that asks again gets its own slot back, also with a newer token. The time since the lease ran out, in which
        nobody looked, is none of the step's own.

        :param holder: who asks, down to the try: another try of the same task is another holder.
        :raises NotFound: no such rollout.
        :raises Halted: the rollout is halted; or it is paused, and none that has begun needs a new holder.
        :raises Busy: as many as may be are under way already.
        :raises Refused: an earlier wave is not done, or the rollout was cancelled or superseded.
        """
        _check_claim(holder, lease, max_in_flight)
        with self._database.write() as tx:
            rollout = find_rollout(tx.session, rollout_id)
            if rollout.state == RolloutState.DONE:
                return None
            _check_claimable(tx.session, rollout, wave)
            row, how = _choose(tx, rollout, wave, holder, max_in_flight)
            if row is None:
                return None
            taken_from = row.holder
            row.step_started_at = _unattended_left_out(row, tx.now)
            row.token = draw_token(tx, rollout.fleet)
            row.state, row.holder, row.lease_until = SlotState.RUNNING, holder, tx.now + lease
            row.started_at = row.started_at or tx.now
            payload = {"token": row.token, "attempt": row.attempt, "wave": wave, "step": row.step, "from": taken_from}
            tx.event(f"slot.{how}", subject_of(rollout, row.slot), holder, payload)
            return _to_ticket(rollout, row)

    def renew(self, ticket: Ticket, lease: timedelta) -> Ticket:
        """The same ticket, its lease running from now. Allowed on a halted rollout too: it says "alive", no more.

        :raises Fenced: the ticket is not the slot's newest any more.
        """
        with self._database.write() as tx:
            row = held(tx.connection, ticket)
            values = {"lease_until": tx.now + lease, "step_started_at": _unattended_left_out(row, tx.now)}
            change(tx.connection, ticket, values)
            return ticket

    def give_back(self, ticket: Ticket) -> None:
        """Let the lease run out now: its holder will not go on, and nobody has to wait for it.

        The slot stays as it is, and so does the ticket until somebody draws a newer one; a stale one changes nothing.
        """
        with self._database.write() as tx:
            try:
                held(tx.connection, ticket)
            except Fenced:
                return
            change(tx.connection, ticket, {"lease_until": tx.now})

    def holds(self, ticket: Ticket) -> SlotRecord:
        """The ticket's slot, if the holder may go on.

        :raises Fenced: someone else has the slot, or the rollout is closed.
        :raises Halted: the rollout is halted.
        """
        with self._database.look() as connection:
            return to_slot(check_ticket(connection, ticket))

    def may_begin(self, ticket: Ticket) -> None:
        """Return if the holder's replacement may begin, nothing of which has been touched yet.

        :raises Fenced: someone else has the slot, or the rollout is closed.
        :raises Halted: the rollout is halted or paused.
        """
        with self._database.look() as connection:
            row = check_ticket(connection, ticket)
            if row.paused_by:
                raise paused(row, ticket.slot)

    def enter(
        self, ticket: Ticket, step: Step, *, new_instance: str | None = None, facts: Mapping[str, Any] | None = None
    ) -> Ticket:
        """The ticket at that step. The step's clock starts when the step changes, not when it is entered again.

        :param new_instance: id of the machine that was launched, as soon as it is known.
        :param facts: JSON-able notes, merged into those of earlier steps.
        :raises Fenced: someone else has the slot, or the rollout is closed.
        :raises Halted: the rollout is halted.
        """
        with self._database.write() as tx:
            row = check_ticket(tx.connection, ticket)
            values: dict[str, Any] = {}
            if row.step != step or row.step_started_at is None:
                values |= {"step": step, "step_started_at": tx.now}
            merged = {**row.facts, **(facts or {})}
            instance = row.new_instance if new_instance is None else new_instance
            if values or merged != row.facts or instance != row.new_instance:
                change(tx.connection, ticket, values | {"facts": merged, "new_instance": instance})
                payload = {"step": step, "token": ticket.token, "new_instance": instance, "facts": dict(facts or {})}
                tx.event("slot.step", subject_of(row, row.slot), ticket.holder, payload)
        return replace(ticket, step=step)

    def finish(self, ticket: Ticket) -> None:
        """The replacement is done. Saying so twice with the same ticket is harmless.

        :raises Fenced: someone else has the slot, or the rollout is closed.
        :raises Halted: the rollout is halted.
        """
        with self._database.write() as tx:
            if ended_with(tx.connection, ticket, SlotState.DONE):
                return
            row = check_ticket(tx.connection, ticket)
            change(tx.connection, ticket, {"state": SlotState.DONE, "finished_at": tx.now, "lease_until": None})
            payload = {
                "token": ticket.token,
                "attempt": row.attempt,
                "old_instance": row.old_instance,
                "new_instance": row.new_instance,
            }
            tx.event("slot.done", subject_of(row, row.slot), ticket.holder, payload)

    def fail(self, ticket: Ticket, step: Step, reason: str, *, resume_at: Step | None = None) -> None:
        """The replacement failed at that step: its rollout halts in the same transaction.

        If the rollout was halted or cancelled meanwhile the slot has failed all the same, and the first reason
        stays. Saying so twice with the same ticket is harmless.

        :param resume_at: where it goes on once a person has resumed. From ``check`` or ``launch`` (None: from the
            beginning) with a new machine, as a new attempt; from any later step with the one that it has.
        :raises Fenced: someone else has the slot.
        """
        with self._database.write() as tx:
            if ended_with(tx.connection, ticket, SlotState.FAILED):
                return
            row = held(tx.connection, ticket)
            values = {"state": SlotState.FAILED, "message": reason, "lease_until": None}
            change(tx.connection, ticket, values | {"step": step, "resume_at": resume_at})
            payload = {"step": step, "reason": reason, "token": ticket.token, "attempt": row.attempt}
            tx.event("slot.failed", subject_of(row, row.slot), ticket.holder, payload)
            rollout = find_rollout(tx.session, row.id)
            if rollout.state == RolloutState.OPEN:
                set_halted(tx, rollout, by=ticket.holder, reason=reason, slot=row.slot, step=step)

    def postpone(self, ticket: Ticket, reason: str) -> None:
        """Put the slot back, behind all others of the last wave; it goes on at the step where it is.

        :raises Fenced: someone else has the slot, or the rollout is closed.
        :raises Halted: the rollout is halted.
        """
        with self._database.write() as tx:
            row = check_ticket(tx.connection, ticket)
            last = select(func.max(SlotRow.wave), func.max(SlotRow.position)).where(SlotRow.rollout_id == row.id)
            wave, position = tx.connection.execute(last).one()
            values = {"state": SlotState.WAITING, "message": reason, "lease_until": None, "step_started_at": None}
            place = {"wave": wave, "position": position + 1, "postponed": row.postponed + 1}
            change(tx.connection, ticket, values | place)
            payload = {"step": row.step, "reason": reason, "token": ticket.token, "times": row.postponed + 1}
            tx.event("slot.postponed", subject_of(row, row.slot), ticket.holder, payload)

    def give_way(self, ticket: Ticket, to: str, reason: str) -> bool:
        """Put the slot back and let ``to``, which waits, take its place in the queue; False if that waits no more.

        :raises Fenced: someone else has the slot, or the rollout is closed.
        :raises Halted: the rollout is halted.
        """
        with self._database.write() as tx:
            row = check_ticket(tx.connection, ticket)
            named = SLOTS.c.rollout_id == ticket.rollout_id, SLOTS.c.slot == to
            other = tx.connection.execute(select(SLOTS).where(*named)).one_or_none()
            if other is None or other.state != SlotState.WAITING:
                return False
            tx.connection.execute(update(SLOTS).where(*named).values(wave=row.wave, position=row.position))
            values = {"state": SlotState.WAITING, "message": reason, "lease_until": None, "step_started_at": None}
            change(tx.connection, ticket, values | {"wave": other.wave, "position": other.position})
            payload = {"to": to, "reason": reason, "token": ticket.token, "step": row.step}
            tx.event("slot.gave_way", subject_of(row, row.slot), ticket.holder, payload)
            return True


def set_halted(
    tx: Transaction, rollout: RolloutRow, *, by: str, reason: str, slot: str = "", step: Step | None = None
) -> None:
    """Halt an open rollout."""
    rollout.state = RolloutState.HALTED
    rollout.halted_by, rollout.halted_reason, rollout.halted_at = by, reason, tx.now
    rollout.halted_slot, rollout.halted_step = slot, step
    payload = {"reason": reason, "slot": slot, "step": step}
    tx.event("rollout.halted", subject_of(rollout), by, payload)


def set_waiting_again(row: SlotRow) -> None:
    """Put a failed slot back into the queue: as a new attempt, unless it goes on with the machine that it has."""
    resume_at = Step(row.resume_at) if row.resume_at else None
    if resume_at in _NEW_MACHINE_FROM:
        row.attempt, row.new_instance, row.facts, row.started_at = row.attempt + 1, "", {}, None
    row.state, row.step, row.step_started_at, row.resume_at = SlotState.WAITING, resume_at, None, None


def draw_token(tx: Transaction, fleet: str) -> int:
    """The fleet's next fencing token."""
    row = tx.session.get_one(FleetRow, fleet)
    row.epoch += 1
    return row.epoch


def find_rollout(session: Session, rollout_id: int) -> RolloutRow:
    """The rollout's row. :raises NotFound: if there is none."""
    row = session.get(RolloutRow, rollout_id)
    if row is None:
        raise no_rollout(rollout_id)
    return row


def no_rollout(rollout_id: int) -> NotFound:
    """The error for a rollout that was never opened."""
    return NotFound(f"The catalog has no rollout {rollout_id}.")


def _check_claim(holder: str, lease: timedelta, max_in_flight: int) -> None:
    if not holder.strip():
        raise InvalidConfig("A ticket needs the name of its holder.")
    if lease <= timedelta(0) or max_in_flight < 1:
        raise InvalidConfig(f"A lease of {lease} or {max_in_flight} tickets at once: both must be more than nothing.")


def _check_claimable(session: Session, rollout: RolloutRow, wave: int) -> None:
    open_slots = _queue(rollout).where(SlotRow.state != SlotState.DONE)
    if rollout.state == RolloutState.HALTED:
        waiting = open_slots.where(SlotRow.wave == wave, SlotRow.slot != rollout.halted_slot)
        mine = session.scalar(waiting) or session.scalar(open_slots.where(SlotRow.wave == wave))
        raise halted(rollout, mine.slot if mine is not None else f"wave {wave}")
    if rollout.state != RolloutState.OPEN:
        raise Refused(f"{closed(rollout, rollout.state)}; nothing more is replaced in its name.")
    earlier = session.scalar(open_slots.where(SlotRow.wave < wave))
    if earlier is not None:
        raise Refused(
            f"Wave {wave} of rollout {rollout.id} of {rollout.fleet} waits: {earlier.slot} of wave {earlier.wave} is "
            f"{earlier.state}.",
            remedy="Waves go one after another: let the earlier one finish first.",
        )


def _choose(
    tx: Transaction, rollout: RolloutRow, wave: int, holder: str, max_in_flight: int
) -> tuple[SlotRow | None, str]:
    """Which slot the holder gets, and how it gets it. :raises Busy: none now."""
    in_wave = _queue(rollout).where(SlotRow.wave == wave)
    running = in_wave.where(SlotRow.state == SlotState.RUNNING)
    if rollout.paused_by:
        # What has begun is finished, whoever has to; a replacement at its first step has touched nothing.
        running = running.where(SlotRow.step.is_not(None), SlotRow.step != Step.CHECK)
    if own := tx.session.scalar(running.where(SlotRow.holder == holder)):
        return own, "reclaimed"
    if expired := tx.session.scalar(running.where(SlotRow.lease_until <= tx.now)):
        return expired, "taken_over"
    waiting = tx.session.scalar(in_wave.where(SlotRow.state == SlotState.WAITING))
    under_way = list(tx.session.scalars(_queue(rollout).limit(None).where(SlotRow.state == SlotState.RUNNING)))
    if rollout.paused_by and (waiting is not None or under_way):
        raise paused(rollout, (waiting or under_way[0]).slot)
    if waiting is not None and len(under_way) < max_in_flight:
        return waiting, "claimed"
    if waiting is None and not any(row.wave == wave for row in under_way):
        return None, ""  # whoever is at a later wave keeps nobody in this one
    held_by = "; ".join(f"{row.slot} is held by {row.holder} until {row.lease_until:%H:%M:%S} UTC" for row in under_way)
    raise Busy(f"{waiting.slot if waiting is not None else f'Wave {wave}'} waits its turn: {held_by}.")


def _unattended_left_out(row: SlotRow | Row[Any], now: datetime) -> datetime | None:
    """When the step began, moved on by the time that nobody had a lease for the slot."""
    began: datetime | None = row.step_started_at
    if began is None or row.lease_until is None or row.lease_until >= now:
        return began
    return began + (now - row.lease_until)


def _queue(rollout: RolloutRow) -> Any:
    """The rollout's slots in the order they are replaced, only the first."""
    return select(SlotRow).where(SlotRow.rollout_id == rollout.id).order_by(SlotRow.position).limit(1)


def _to_ticket(rollout: RolloutRow, row: SlotRow) -> Ticket:
    return Ticket(
        rollout_id=rollout.id,
        fleet=rollout.fleet,
        seq=row.seq,
        slot=row.slot,
        token=row.token,
        holder=row.holder,
        attempt=row.attempt,
        step=Step(row.step) if row.step else Step.CHECK,
    )
