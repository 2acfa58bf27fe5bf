"""Each fleet's queue: which runs wait for their turn, and which of them a newer release has made needless.

A place is no right: whoever's turn it is still has to open a rollout, and a halted one lets nobody pass.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from phoenix_fleet.catalog.database import Database, Transaction
from phoenix_fleet.catalog.records import QueueRecord, QueueState, RolloutKind
from phoenix_fleet.catalog.schema import QueueRow
from phoenix_fleet.domain.errors import Busy
from phoenix_fleet.domain.windows import Version

SILENT_FOR = timedelta(minutes=30)
"""A waiting run asks at least every ten minutes. One that has not for so long is dead, and stands in nobody's way."""


class QueueStore:
    """Who waits for a fleet. Of runs for the whole fleet the one with the newest release goes, the others need not."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(self, fleet: str, run: str, version: Version, kind: RolloutKind, *, whole: bool) -> QueueRecord:
        """The run's place, taken if it had none. Asked again, the same place: once superseded it stays so.

        :param whole: whether the run is about every slot that needs it. Only such runs supersede each other.
        """
        with self._database.write() as tx:
            row = tx.session.get(QueueRow, (fleet, run))
            if row is None:
                row = QueueRow(
                    fleet=fleet, run=run, state=QueueState.WAITING, queued_at=tx.now, seen_at=tx.now,
                    version=str(version), kind=kind, whole=whole,
                )  # fmt: skip
                tx.session.add(row)
                tx.event("queue.joined", _subject(fleet), run, {"version": str(version), "kind": kind, "whole": whole})
            row.seen_at = tx.now
            if row.state == QueueState.WAITING:
                row.version, row.kind, row.whole = str(version), kind, whole
                tx.session.flush()
                _supersede(tx, fleet)
            return _to_place(row)

    def leave(self, fleet: str, run: str) -> None:
        """Give the run's place up, if it still waits: it failed, and a dead run must not hold up others."""
        with self._database.write() as tx:
            row = tx.session.get(QueueRow, (fleet, run))
            if row is not None and row.state == QueueState.WAITING:
                tx.session.delete(row)
                tx.event("queue.left", _subject(fleet), run, {"version": row.version})

    def find(self, fleet: str, run: str) -> QueueRecord | None:
        """The run's place, if it ever asked for one."""
        with self._database.read() as session:
            row = session.get(QueueRow, (fleet, run))
            return _to_place(row) if row is not None else None

    def waiting(self, fleet: str) -> list[QueueRecord]:
        """The runs that wait, in the order they came; dead ones do not count."""
        now = self._database.now()
        with self._database.read() as session:
            return [_to_place(row) for row in _waiting(session, fleet, now)]


def begin(tx: Transaction, fleet: str, run: str, kind: RolloutKind) -> None:
    """The run's turn has come: its place is given up.

    :raises Busy: a rollback or an emergency waits too and goes first, or a newer release made the run needless.
    """
    row = tx.session.get(QueueRow, (fleet, run))
    if row is not None and row.state == QueueState.SUPERSEDED:
        raise Busy(f"{run} has nothing to do for {fleet}: {row.note}.")
    if kind is RolloutKind.REFRESH:
        for other in _waiting(tx.session, fleet, tx.now):
            if other.run != run and other.kind != RolloutKind.REFRESH:
                raise Busy(f"No other rollout begins: the {other.kind} of {other.run} to {other.version} goes first.")
    if row is not None:
        row.state = QueueState.BEGUN


def _supersede(tx: Transaction, fleet: str) -> None:
    rivals = [row for row in _waiting(tx.session, fleet, tx.now) if row.whole and row.kind == RolloutKind.REFRESH]
    newest = max(rivals, key=lambda row: Version.parse(row.version), default=None)
    for row in rivals:
        if newest is not None and Version.parse(row.version) < Version.parse(newest.version):
            row.state, row.note = (
                QueueState.SUPERSEDED,
                f"superseded by {newest.version}, which {newest.run} waits with",
            )
            tx.event("queue.superseded", _subject(fleet), row.run, {"version": row.version, "by": newest.run})


def _waiting(session: Session, fleet: str, now: datetime) -> list[QueueRow]:
    query = select(QueueRow).where(QueueRow.fleet == fleet, QueueRow.state == QueueState.WAITING)
    alive = query.where(QueueRow.seen_at > now - SILENT_FOR)
    return list(session.scalars(alive.order_by(QueueRow.queued_at, QueueRow.run)))


def _subject(fleet: str) -> str:
    return f"fleets/{fleet}/queue"


def _to_place(row: QueueRow) -> QueueRecord:
    return QueueRecord(
        fleet=row.fleet,
        run=row.run,
        version=Version.parse(row.version),
        kind=RolloutKind(row.kind),
        whole=row.whole,
        state=QueueState(row.state),
        note=row.note or "",
        queued_at=row.queued_at,
        seen_at=row.seen_at,
    )
