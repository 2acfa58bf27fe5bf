"""Intents: every mutating call is written down before it is made, and its outcome after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, get_args

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from phoenix_fleet.catalog import canonical
from phoenix_fleet.catalog.database import Database, Transaction
from phoenix_fleet.catalog.records import Action, IntentRecord, Outcome, Ticket
from phoenix_fleet.catalog.schema import IntentRow, SlotRow
from phoenix_fleet.catalog.tickets import check_ticket, held
from phoenix_fleet.domain.errors import IntentMismatch, InvalidConfig, NotFound, Refused

_CLEAN_UP = ("remove", "drain", "terminate")
_SYSTEM = "phoenix"
"""The actor of calls that no ticket stands behind."""


class IntentStore:
    """Every mutating call that was ever meant. One without an intent must not be made."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(
        self,
        action: Action,
        target: str,
        params: Mapping[str, Any],
        *,
        ticket: Ticket | None,
        purpose: str,
        token: str = "",
        cleanup: bool = False,
        allowed: Callable[[Transaction], None] | None = None,
    ) -> IntentRecord:
        """The intent, committed: now the call may be made.

        The same (purpose, action, target, token) is the same intent, with the parameters it first had. Begun again
        it is pending again, whatever came of it before, because the call may be made again.

        :param target: what is changed: a slot for ``launch``, an instance's id, an artefact's reference.
        :param token: idempotency token of the call (``LaunchIntent.token``). Default: the ticket's attempt.
        :param cleanup: undo of the slot's own new instance: allowed on a halted or cancelled rollout too.
        :param allowed: raises, in the same transaction, if the intent may not be begun now.
        :raises Fenced: someone else has the slot, or the rollout is closed.
        :raises Halted: the rollout is halted.
        :raises IntentMismatch: the intent exists with other parameters.
        :raises Refused: what is called a clean-up is none.
        """
        if action not in get_args(Action):
            raise InvalidConfig(f"'{action}' is not a mutating call: {', '.join(get_args(Action))}.")
        token = token or (f"attempt-{ticket.attempt}" if ticket is not None else "")
        with self._database.write() as tx:
            if ticket is not None:
                _check(tx.session, ticket, action, target, cleanup=cleanup)
            if allowed is not None:
                allowed(tx)
            row = tx.session.scalar(
                select(IntentRow).where(
                    IntentRow.purpose == purpose,
                    IntentRow.action == action,
                    IntentRow.target == target,
                    IntentRow.token == token,
                )
            )
            if row is None:
                row = _begin(tx, action, target, params, ticket=ticket, purpose=purpose, token=token)
            else:
                _repeat(tx, row, params, ticket)
            return _to_intent(row)

    def outcome(self, intent_id: int, outcome: Outcome, result: Mapping[str, Any]) -> IntentRecord:
        """The intent with how its call ended. What happened is written down whoever says so.

        Until it is begun again ``done`` stays done: what a slower caller says after that is only an event.

        :raises NotFound: no such intent.
        """
        if outcome not in get_args(Outcome):
            raise InvalidConfig(f"'{outcome}' is not an outcome: {', '.join(get_args(Outcome))}.")
        with self._database.write() as tx:
            row = tx.session.get(IntentRow, intent_id)
            if row is None:
                raise NotFound(f"The catalog has no intent {intent_id}.")
            if (row.outcome, canonical.dumps(row.result)) == (outcome, canonical.dumps(result)):
                return _to_intent(row)
            if row.outcome != "done":
                row.outcome, row.result, row.ended_at = outcome, dict(result), tx.now
            payload = {"action": row.action, "target": row.target, "outcome": outcome, "result": dict(result)}
            tx.event("intent.ended", _subject(row), _SYSTEM, payload)
            return _to_intent(row)

    def pending(self, purpose: str | None = None) -> list[IntentRecord]:
        """Intents whose call may or may not have been made, oldest first; of one purpose or of all."""
        query = select(IntentRow).where(or_(IntentRow.outcome.is_(None), IntentRow.outcome == "unknown"))
        return self._list(query, purpose)

    def told_to_terminate(self, since: datetime) -> dict[str, str]:
        """The idempotency token of every instance whose termination was begun and not refused, by the instance's id.

        :param since: those whose call ended before that are left out.
        """
        going = select(IntentRow.target, IntentRow.params).where(
            IntentRow.action == "terminate", or_(IntentRow.ended_at.is_(None), IntentRow.ended_at >= since)
        )
        query = going.where(or_(IntentRow.outcome.is_(None), IntentRow.outcome != "failed"))
        with self._database.read() as session:
            return {target: str(params.get("token") or "") for target, params in session.execute(query)}

    def list_intents(self, purpose: str | None = None) -> list[IntentRecord]:
        """All intents of that purpose (``rollout-17``), or of all, oldest first."""
        return self._list(select(IntentRow), purpose)

    def _list(self, query: Any, purpose: str | None) -> list[IntentRecord]:
        if purpose is not None:
            query = query.where(IntentRow.purpose == purpose)
        with self._database.read() as session:
            return [_to_intent(row) for row in session.scalars(query.order_by(IntentRow.id))]


def _check(session: Session, ticket: Ticket, action: Action, target: str, *, cleanup: bool) -> None:
    if not cleanup:
        check_ticket(session, ticket)
        return
    _, slot = held(session, ticket)
    if action not in _CLEAN_UP or not _may_be_undone(slot, target):
        raise Refused(
            f"{ticket.slot}: '{action} {target}' is not the clean-up of a new instance.",
            remedy="Only what this replacement launched may be removed, drained or terminated as clean-up.",
        )


def _may_be_undone(slot: SlotRow, target: str) -> bool:
    """Never the old instance; the new one by its id, or, if it was never noted, by whatever the platform called it."""
    if not target or target == slot.old_instance:
        return False
    return not slot.new_instance or target == slot.new_instance


def _begin(
    tx: Transaction,
    action: Action,
    target: str,
    params: Mapping[str, Any],
    *,
    ticket: Ticket | None,
    purpose: str,
    token: str,
) -> IntentRow:
    row = IntentRow(
        purpose=purpose,
        action=action,
        target=target,
        token=token,
        params=dict(params),
        rollout_id=ticket.rollout_id if ticket is not None else None,
        slot=ticket.slot if ticket is not None else "",
        fence=ticket.token if ticket is not None else None,
        outcome=None,
        result={},
        begun_at=tx.now,
        ended_at=None,
    )
    tx.session.add(row)
    tx.session.flush()
    payload = {"action": action, "target": target, "token": token, "params": dict(params), "fence": row.fence}
    tx.event("intent.begun", _subject(row), _actor(ticket), payload)
    return row


def _repeat(tx: Transaction, row: IntentRow, params: Mapping[str, Any], ticket: Ticket | None) -> None:
    if canonical.dumps(row.params) != canonical.dumps(params):
        raise IntentMismatch(
            f"{row.purpose}: '{row.action} {row.target}' was begun with other parameters under the same token.",
            remedy="They were frozen when it began. Cancel and begin anew to use others.",
        )
    row.fence = ticket.token if ticket is not None else row.fence
    row.outcome, row.ended_at = None, None
    tx.event(
        "intent.repeated",
        _subject(row),
        _actor(ticket),
        {"action": row.action, "target": row.target, "fence": row.fence},
    )


def _subject(row: IntentRow) -> str:
    return f"intents/{row.purpose}/{row.id}"


def _actor(ticket: Ticket | None) -> str:
    return ticket.holder if ticket is not None else _SYSTEM


def _to_intent(row: IntentRow) -> IntentRecord:
    action: Action = row.action  # type: ignore[assignment]
    outcome: Outcome | None = row.outcome  # type: ignore[assignment]
    return IntentRecord(
        id=row.id,
        purpose=row.purpose,
        action=action,
        target=row.target,
        token=row.token,
        params=row.params,
        rollout_id=row.rollout_id,
        slot=row.slot,
        fence=row.fence,
        outcome=outcome,
        result=row.result,
        begun_at=row.begun_at,
        ended_at=row.ended_at,
    )
