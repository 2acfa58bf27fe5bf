"""Intents: every mutating call is written down before it is made, and its outcome after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, get_args

from sqlalchemy import ColumnElement, Connection, Row, bindparam, insert, or_, select, true, update

from phoenix_fleet.catalog import canonical
from phoenix_fleet.catalog.database import Database, Transaction
from phoenix_fleet.catalog.holding import check_ticket, held
from phoenix_fleet.catalog.records import Action, IntentRecord, Outcome, Ticket
from phoenix_fleet.catalog.schema import INTENTS, ROLLOUTS
from phoenix_fleet.domain.errors import IntentMismatch, InvalidConfig, NotFound, Refused

_CLEAN_UP = ("remove", "drain", "terminate")
_SYSTEM = "phoenix"
"""The actor of calls that no ticket stands behind."""
_KNOWN_BY = ("purpose", "action", "target", "token")
_SAME = select(INTENTS).where(*(INTENTS.c[name] == bindparam(name) for name in _KNOWN_BY))
_ONE = select(INTENTS).where(INTENTS.c.id == bindparam("number"))
_CHANGE = update(INTENTS).where(INTENTS.c.id == bindparam("number"))
_ADD = insert(INTENTS)
_OPEN = or_(INTENTS.c.outcome.is_(None), INTENTS.c.outcome == "unknown")
_UNSETTLED = (
    select(INTENTS)
    .join(ROLLOUTS, ROLLOUTS.c.id == INTENTS.c.rollout_id)
    .where(ROLLOUTS.c.fleet == bindparam("fleet"), INTENTS.c.slot == bindparam("slot"), _OPEN)
    .order_by(INTENTS.c.id)
)
_TOLD_TO_TERMINATE = select(INTENTS.c.target, INTENTS.c.params).where(
    INTENTS.c.action == "terminate",
    or_(INTENTS.c.ended_at.is_(None), INTENTS.c.ended_at >= bindparam("since")),
    or_(INTENTS.c.outcome.is_(None), INTENTS.c.outcome != "failed"),
)
_LAUNCHES = (
    select(INTENTS.c.begun_at, INTENTS.c.token)
    .join(ROLLOUTS, ROLLOUTS.c.id == INTENTS.c.rollout_id)
    .where(
        INTENTS.c.action == "launch",
        or_(INTENTS.c.ended_at.is_(None), INTENTS.c.ended_at > bindparam("since")),
        INTENTS.c.begun_at > bindparam("since"),
        or_(INTENTS.c.outcome.is_(None), INTENTS.c.outcome != "failed"),
        ROLLOUTS.c.fleet == bindparam("fleet"),
    )
)
"""By the end of the call first, which an index knows: no call ends before it begins."""


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
                _check(tx.connection, ticket, action, target, cleanup=cleanup)
            if allowed is not None:
                allowed(tx)
            known = dict(zip(_KNOWN_BY, (purpose, action, target, token), strict=True))
            row = tx.connection.execute(_SAME, known).one_or_none()
            if row is None:
                return _begin(tx, known, params, ticket)
            return _repeat(tx, to_intent(row), params, ticket)

    def outcome(self, intent_id: int, outcome: Outcome, result: Mapping[str, Any]) -> IntentRecord:
        """The intent with how its call ended. What happened is written down whoever says so.

        Until it is begun again ``done`` stays done: what a slower caller says after that is only an event.

        :raises NotFound: no such intent.
        """
        if outcome not in get_args(Outcome):
            raise InvalidConfig(f"'{outcome}' is not an outcome: {', '.join(get_args(Outcome))}.")
        with self._database.write() as tx:
            row = tx.connection.execute(_ONE, {"number": intent_id}).one_or_none()
            if row is None:
                raise NotFound(f"The catalog has no intent {intent_id}.")
            intent = to_intent(row)
            if (intent.outcome, canonical.dumps(intent.result)) == (outcome, canonical.dumps(result)):
                return intent
            if intent.outcome != "done":
                ended: dict[str, Any] = {"outcome": outcome, "result": dict(result), "ended_at": tx.now}
                tx.connection.execute(_CHANGE.values(**ended), {"number": intent_id})
                intent = replace(intent, **ended)
            payload = {"action": intent.action, "target": intent.target, "outcome": outcome, "result": dict(result)}
            tx.event("intent.ended", _subject(intent), _SYSTEM, payload)
            return intent

    def pending(self, purpose: str | None = None) -> list[IntentRecord]:
        """Intents whose call may or may not have been made, oldest first; of one purpose, or of all."""
        return self._list(_OPEN, purpose)

    def unsettled(self, fleet: str, slot: str) -> list[IntentRecord]:
        """Intents of any rollout on that slot of which it is not known whether their call was made, oldest first.

        Of one without any outcome its caller must have died, or be so slow that it lost the slot to whoever asks.
        """
        with self._database.look() as connection:
            return [to_intent(row) for row in connection.execute(_UNSETTLED, {"fleet": fleet, "slot": slot})]

    def told_to_terminate(self, since: datetime) -> dict[str, str]:
        """The idempotency token of every instance whose termination was begun and not refused, by the instance's id.

        :param since: those whose call ended before that are left out.
        """
        with self._database.look() as connection:
            told = connection.execute(_TOLD_TO_TERMINATE, {"since": since})
            return {target: str(params.get("token") or "") for target, params in told}

    def launches(self, fleet: str, since: datetime, tx: Transaction | None = None) -> list[tuple[datetime, str]]:
        """When each launch for that fleet's rollouts was begun after that moment, and its idempotency token.

        Those that the platform refused are left out.

        :param tx: look within this transaction instead of one of its own.
        """
        asked = {"fleet": fleet, "since": since}
        if tx is not None:
            return [(begun, token) for begun, token in tx.connection.execute(_LAUNCHES, asked)]
        with self._database.look() as connection:
            return [(begun, token) for begun, token in connection.execute(_LAUNCHES, asked)]

    def volumes_known(self, label: str) -> list[IntentRecord]:
        """Every intent under which a data volume of that label (``db-01/data``) was made or attached, oldest first."""
        made = INTENTS.c.action.in_(("create_volume", "attach"))
        return [each for each in self._list(made, None) if each.params.get("label") == label]

    def list_intents(self, purpose: str | None = None) -> list[IntentRecord]:
        """All intents of that purpose (``rollout-17``), or of all, oldest first."""
        return self._list(true(), purpose)

    def _list(self, which: ColumnElement[bool], purpose: str | None) -> list[IntentRecord]:
        query = select(INTENTS).where(which).order_by(INTENTS.c.id)
        if purpose is not None:
            query = query.where(INTENTS.c.purpose == purpose)
        with self._database.look() as connection:
            return [to_intent(row) for row in connection.execute(query)]


def _check(connection: Connection, ticket: Ticket, action: Action, target: str, *, cleanup: bool) -> None:
    if not cleanup:
        check_ticket(connection, ticket)
        return
    slot = held(connection, ticket)
    if action not in _CLEAN_UP or not _may_be_undone(slot, target):
        raise Refused(
            f"{ticket.slot}: '{action} {target}' is not the clean-up of a new instance.",
            remedy="Only what this replacement launched may be removed, drained or terminated as clean-up.",
        )


def _may_be_undone(slot: Row[Any], target: str) -> bool:
    """Never the old instance; the new one by its id, or, if it was never noted, by whatever the platform called it."""
    if not target or target == slot.old_instance:
        return False
    return not slot.new_instance or target == slot.new_instance


def _begin(tx: Transaction, known: Mapping[str, str], params: Mapping[str, Any], ticket: Ticket | None) -> IntentRecord:
    values = {
        **known,
        "params": dict(params),
        "rollout_id": ticket.rollout_id if ticket is not None else None,
        "slot": ticket.slot if ticket is not None else "",
        "fence": ticket.token if ticket is not None else None,
        "outcome": None,
        "result": {},
        "begun_at": tx.now,
        "ended_at": None,
    }
    tx.connection.execute(_ADD, values)
    intent = to_intent(tx.connection.execute(_SAME, dict(known)).one())
    payload = {name: values[name] for name in ("action", "target", "token", "params", "fence")}
    tx.event("intent.begun", _subject(intent), _actor(ticket), payload)
    return intent


def _repeat(tx: Transaction, intent: IntentRecord, params: Mapping[str, Any], ticket: Ticket | None) -> IntentRecord:
    if canonical.dumps(intent.params) != canonical.dumps(params):
        raise IntentMismatch(
            f"{intent.purpose}: '{intent.action} {intent.target}' was begun with other parameters under the same "
            "token.",
            remedy="They were frozen when it began. Cancel and begin anew to use others.",
        )
    again: dict[str, Any] = {
        "fence": ticket.token if ticket is not None else intent.fence,
        "outcome": None,
        "ended_at": None,
    }
    tx.connection.execute(_CHANGE.values(**again), {"number": intent.id})
    payload = {"action": intent.action, "target": intent.target, "fence": again["fence"]}
    tx.event("intent.repeated", _subject(intent), _actor(ticket), payload)
    return replace(intent, **again)


def _subject(intent: IntentRecord) -> str:
    return f"intents/{intent.purpose}/{intent.id}"


def _actor(ticket: Ticket | None) -> str:
    return ticket.holder if ticket is not None else _SYSTEM


def to_intent(row: Row[Any]) -> IntentRecord:
    """The row as a record."""
    return IntentRecord(
        id=row.id,
        purpose=row.purpose,
        action=row.action,
        target=row.target,
        token=row.token,
        params=row.params,
        rollout_id=row.rollout_id,
        slot=row.slot,
        fence=row.fence,
        outcome=row.outcome,
        result=row.result,
        begun_at=row.begun_at,
        ended_at=row.ended_at,
    )
