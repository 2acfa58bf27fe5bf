"""Whether a ticket still holds, asked in one query: every step of every replacement asks it several times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select, update

from phoenix_fleet.catalog.records import RolloutState, SlotState, Ticket
from phoenix_fleet.catalog.schema import FLEETS, ROLLOUTS, SLOTS, RolloutRow
from phoenix_fleet.domain.errors import Fenced, Halted

_ROLLOUT = ("id", "fleet", "closed_by", "paused_by", "paused_reason")
_HALTED = ("halted_slot", "halted_step", "halted_by", "halted_reason")
_HELD = (
    select(
        SLOTS,
        *(ROLLOUTS.c[name] for name in (*_ROLLOUT, *_HALTED)),
        ROLLOUTS.c.state.label("rollout_state"),
        FLEETS.c.fence,
    )
    .join(ROLLOUTS, ROLLOUTS.c.id == SLOTS.c.rollout_id)
    .join(FLEETS, FLEETS.c.name == ROLLOUTS.c.fleet)
    .where(SLOTS.c.rollout_id == bindparam("rollout"), SLOTS.c.seq == bindparam("number"))
)
_SLOT = update(SLOTS).where(SLOTS.c.rollout_id == bindparam("rollout"), SLOTS.c.seq == bindparam("number"))


def check_ticket(connection: Connection, ticket: Ticket) -> Row[Any]:
    """The ticket's slot with what matters of its rollout, if its holder may change the world in their name.

    :raises Fenced: someone else has the slot, or the rollout is closed.
    :raises Halted: the rollout is halted.
    """
    row = held(connection, ticket)
    if row.rollout_state == RolloutState.HALTED:
        raise halted(row, ticket.slot)
    if row.rollout_state != RolloutState.OPEN:
        raise Fenced(f"{ticket.slot}: {closed(row, row.rollout_state)}; nothing more may be done in its name.")
    return row


def held(connection: Connection, ticket: Ticket) -> Row[Any]:
    """The same, if the ticket is the slot's newest, whatever state the rollout is in.

    :raises Fenced: otherwise.
    """
    row = connection.execute(_HELD, _key(ticket)).one_or_none()
    if row is None or (row.fleet, row.slot) != (ticket.fleet, ticket.slot):
        raise Fenced(f"{ticket.slot}: the catalog knows no such ticket of rollout {ticket.rollout_id}.")
    if (row.token, row.holder) != (ticket.token, ticket.holder):
        raise Fenced(
            f"{ticket.slot} was taken over by {row.holder} with token {row.token}: token {ticket.token} is stale."
        )
    if row.state != SlotState.RUNNING:
        raise Fenced(f"{ticket.slot} is {row.state}: token {ticket.token} has had its use.")
    if ticket.token <= row.fence:
        raise Fenced(f"{ticket.slot}: a newer rollout of {row.fleet} has begun: token {ticket.token} is stale.")
    return row


def ended_with(connection: Connection, ticket: Ticket, state: SlotState) -> bool:
    """Whether the slot came to that end with just this ticket."""
    row = connection.execute(_HELD, _key(ticket)).one_or_none()
    return row is not None and (row.state, row.token, row.holder) == (state, ticket.token, ticket.holder)


def change(connection: Connection, ticket: Ticket, values: Mapping[str, Any]) -> None:
    """Write these values into the ticket's slot."""
    connection.execute(_SLOT.values(**values), _key(ticket))


def paused(rollout: RolloutRow | Row[Any], who: str) -> Halted:
    """The error for whoever would begin on a paused rollout."""
    return Halted(
        f"{who} waits: paused by {rollout.paused_by}: {rollout.paused_reason}",
        remedy=f"Resume rollout {rollout.id} of {rollout.fleet}, or cancel it.",
    )


def halted(rollout: RolloutRow | Row[Any], who: str) -> Halted:
    """The error for whoever waits on a halted rollout."""
    culprit = f"{rollout.halted_slot} at {rollout.halted_step}" if rollout.halted_slot else rollout.halted_by
    return Halted(
        f"{who} waits: halted by {culprit}: {rollout.halted_reason}",
        remedy=f"Look into it, then resume or cancel rollout {rollout.id} of {rollout.fleet}.",
    )


def closed(rollout: RolloutRow | Row[Any], state: str) -> str:
    """That it is, and by whom, in words."""
    by = f" by {rollout.closed_by}" if rollout.closed_by else ""
    return f"Rollout {rollout.id} of {rollout.fleet} is {state}{by}"


def subject_of(rollout: RolloutRow | Row[Any], slot: str = "") -> str:
    """The rollout, or one of its slots, as the subject of events."""
    subject = f"fleets/{rollout.fleet}/rollouts/{rollout.id}"
    return f"{subject}/{slot}" if slot else subject


def _key(ticket: Ticket) -> dict[str, int]:
    return {"rollout": ticket.rollout_id, "number": ticket.seq}
