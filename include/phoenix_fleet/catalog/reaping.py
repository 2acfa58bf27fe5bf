"""What the reaper asks of the catalog, and the intents under which alone it may change anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import and_, bindparam, or_, select

from phoenix_fleet.catalog.database import Database, Transaction
from phoenix_fleet.catalog.intents import IntentStore, to_intent
from phoenix_fleet.catalog.records import Action, IntentRecord, RolloutState, SlotState
from phoenix_fleet.catalog.schema import INTENTS, ROLLOUTS, SLOTS, IntentRow, RolloutRow, SlotRow
from phoenix_fleet.domain.errors import Busy, Refused
from phoenix_fleet.domain.retention import Asked

TOKEN = "reaper"  # noqa: S105 (the mark of its intents, no secret)
"""The token of the reaper's intents; their purpose is that of the launch which left the instance."""
RETENTION = "retention"
"""The token of those that delete snapshots; their purpose is that of the rollout which asked for the snapshot."""
_CHUNK = 500
_CURRENT = (RolloutState.OPEN, RolloutState.HALTED)
_CUT_SHORT = (
    select(INTENTS)
    .join(ROLLOUTS, ROLLOUTS.c.id == INTENTS.c.rollout_id)
    .join(SLOTS, and_(SLOTS.c.rollout_id == INTENTS.c.rollout_id, SLOTS.c.slot == INTENTS.c.slot))
    .where(
        ROLLOUTS.c.fleet == bindparam("fleet"),
        ROLLOUTS.c.state.in_((RolloutState.CANCELLED, RolloutState.SUPERSEDED)),
        SLOTS.c.state != SlotState.DONE,
        INTENTS.c.action == "terminate",
    )
    .order_by(INTENTS.c.id.desc())
    .limit(_CHUNK)
)
_LEFT_OPEN = (
    select(INTENTS)
    .join(ROLLOUTS, ROLLOUTS.c.id == INTENTS.c.rollout_id)
    .where(
        ROLLOUTS.c.fleet == bindparam("fleet"),
        ROLLOUTS.c.state.in_((RolloutState.CANCELLED, RolloutState.SUPERSEDED)),
        INTENTS.c.outcome.is_(None),
    )
    .order_by(INTENTS.c.id)
)


class ReapStore:
    """Launches by token, who fills which slot, and intents that never get in a rollout's way."""

    def __init__(self, database: Database, intents: IntentStore) -> None:
        self._database = database
        self._intents = intents

    def launches(self, tokens: Iterable[str]) -> dict[str, tuple[str, str, str, str]]:
        """Purpose, fleet, slot and family of every launch that was ever meant with one of those tokens, by token."""
        wanted = sorted({token for token in tokens if token})
        found: dict[str, tuple[str, str, str, str]] = {}
        with self._database.read() as session:
            for start in range(0, len(wanted), _CHUNK):
                query = select(IntentRow).where(
                    IntentRow.action == "launch", IntentRow.token.in_(wanted[start : start + _CHUNK])
                )
                for row in session.scalars(query):
                    fleet, slot, family = (str(row.params.get(name, "")) for name in ("fleet", "slot", "family"))
                    found[row.token] = (row.purpose, fleet, slot, family)
        return found

    def snapshots(self, tokens: Iterable[str]) -> dict[str, Asked]:
        """Why and when every snapshot was asked for that was ever meant with one of those tokens, by token."""
        wanted, found = sorted({token for token in tokens if token}), dict[str, Asked]()
        with self._database.look() as connection:
            for start in range(0, len(wanted), _CHUNK):
                query = select(INTENTS).where(
                    INTENTS.c.action == "snapshot", INTENTS.c.token.in_(wanted[start : start + _CHUNK])
                )
                found |= {row.token: Asked(row.purpose, row.begun_at) for row in connection.execute(query)}
        return found

    def placed(self, fleet: str) -> dict[str, str]:
        """Which instance the last completed replacement of each slot brought, by slot."""
        query = (
            select(SlotRow.slot, SlotRow.new_instance)
            .join(RolloutRow, RolloutRow.id == SlotRow.rollout_id)
            .where(RolloutRow.fleet == fleet, SlotRow.state == SlotState.DONE, SlotRow.new_instance != "")
            .order_by(SlotRow.rollout_id)
        )
        with self._database.read() as session:
            return {row.slot: row.new_instance for row in session.execute(query)}

    def cut_short(self, fleet: str) -> list[IntentRecord]:
        """Terminations that a rollout had begun when it was cancelled or superseded: nobody saw them through."""
        with self._database.look() as connection:
            return [to_intent(row) for row in connection.execute(_CUT_SHORT, {"fleet": fleet})]

    def left_open(self, fleet: str) -> list[IntentRecord]:
        """Calls that a rollout had begun when it was cancelled or superseded and that have no outcome, oldest first."""
        with self._database.look() as connection:
            return [to_intent(row) for row in connection.execute(_LEFT_OPEN, {"fleet": fleet})]

    def admitted(self, instances: Iterable[str]) -> list[IntentRecord]:
        """How each of those was last let into the balancer; of one that never was, nothing."""
        wanted, found = sorted(set(instances)), dict[str, IntentRecord]()
        with self._database.look() as connection:
            for start in range(0, len(wanted), _CHUNK):
                query = select(INTENTS).where(
                    INTENTS.c.action == "admit", INTENTS.c.target.in_(wanted[start : start + _CHUNK])
                )
                found |= {row.target: to_intent(row) for row in connection.execute(query.order_by(INTENTS.c.id))}
        return list(found.values())

    def begin(
        self,
        action: Action,
        target: str,
        params: Mapping[str, Any],
        *,
        purpose: str,
        per_hour: int = 0,
        token: str = TOKEN,
    ) -> IntentRecord:
        """The intent of one call on a left-over instance or snapshot, committed; asked again, the same intent.

        Checked in the same transaction: no open or halted rollout has anything to do with it, and no more than
        ``per_hour`` instances of its fleet were begun to be terminated in the last hour.

        :param params: must say ``fleet`` and ``slot``.
        :param token: of what kind the intent is.
        :raises Refused: it is an open or halted rollout's business.
        :raises Busy: enough for this hour.
        """

        def allowed(tx: Transaction) -> None:
            _check_rollout(tx, params["fleet"], params["slot"], purpose)
            if action == "terminate":
                _check_rate(tx, params["fleet"], target, per_hour)

        return self._intents.begin(action, target, params, ticket=None, purpose=purpose, token=token, allowed=allowed)

    def pending(self, fleet: str, token: str = TOKEN) -> list[IntentRecord]:
        """The reaper's intents of a kind on that fleet whose call may or may not have been made, oldest first."""
        query = select(IntentRow.id).where(
            IntentRow.token == token, or_(IntentRow.outcome.is_(None), IntentRow.outcome == "unknown")
        )
        with self._database.read() as session:
            wanted = set(session.scalars(query))
        if not wanted:
            return []
        return [each for each in self._intents.pending() if each.id in wanted and each.params.get("fleet") == fleet]


def _check_rollout(tx: Transaction, fleet: str, slot: str, purpose: str) -> None:
    rollout = tx.session.scalar(select(RolloutRow).where(RolloutRow.fleet == fleet, RolloutRow.state.in_(_CURRENT)))
    if rollout is None:
        return
    replaced = select(SlotRow.seq).where(SlotRow.rollout_id == rollout.id, SlotRow.slot == slot)
    if purpose == f"rollout-{rollout.id}" or tx.session.scalar(replaced.limit(1)) is not None:
        raise Refused(f"{slot}: rollout {rollout.id} of {fleet} is {rollout.state}, and what stands there is its own.")


def _check_rate(tx: Transaction, fleet: str, target: str, per_hour: int) -> None:
    lately = select(IntentRow).where(
        IntentRow.token == TOKEN,
        IntentRow.action == "terminate",
        IntentRow.begun_at > tx.now - timedelta(hours=1),
    )
    begun = {row.target for row in tx.session.scalars(lately) if row.params.get("fleet") == fleet}
    if target not in begun and len(begun) >= per_hour:
        raise Busy(f"{fleet}: {len(begun)} left-over instances were told to terminate within the hour: enough for now.")
