"""Everything that happened, in order, in a chain that shows every later change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Row, Text, func, select, type_coerce
from sqlalchemy.orm import Session

from phoenix_fleet.catalog import canonical, chain
from phoenix_fleet.catalog.database import Database
from phoenix_fleet.catalog.records import ChainHead, EventRecord
from phoenix_fleet.catalog.schema import EVENTS, ChainRow, EventRow

_BATCH = 1000


class EventStore:
    """The event chain. The other stores append what they do; others may add what they did."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, kind: str, subject: str, actor: str, payload: Mapping[str, Any]) -> None:
        """Add one event.

        :param kind: what happened, such as ``instance.reaped``.
        :param subject: what it happened to, as a path: ``fleets/web/rollouts/17/web-03``.
        :raises InvalidConfig: if the payload is not JSON-able.
        """
        with self._database.write() as tx:
            tx.event(kind, subject, actor, dict(payload))

    def list_events(self, subject_prefix: str = "", limit: int = 1000) -> list[EventRecord]:
        """The newest events whose subject begins so, newest first."""
        prefix = canonical.clean(subject_prefix)
        query = select(EventRow).order_by(EventRow.seq.desc()).limit(limit)
        if prefix:
            # Not LIKE, which would take % and _ in a name for patterns and in SQLite forgets about case.
            query = query.where(func.substr(EventRow.subject, 1, len(prefix)) == prefix)
        with self._database.read() as session:
            return [_record(row) for row in session.scalars(query)]

    def last(self, subject: str, *kinds: str) -> EventRecord | None:
        """The newest event of exactly that subject and one of those kinds; None if there is none."""
        query = select(EVENTS).where(EVENTS.c.subject == canonical.clean(subject), EVENTS.c.kind.in_(kinds))
        with self._database.look() as connection:
            row = connection.execute(query.order_by(EVENTS.c.seq.desc()).limit(1)).one_or_none()
        return _record(row) if row is not None else None

    def head(self) -> ChainHead:
        """Where the chain ends now: kept elsewhere, it proves later that nothing was cut off."""
        with self._database.read() as session:
            row = session.get_one(ChainRow, 1)
            return ChainHead(row.count, row.hash)

    def verify(self) -> None:
        """Return if every link of the chain holds.

        :raises PermanentError: naming the first broken one.
        """
        with self._database.read() as session:
            head = session.get(ChainRow, 1)
            chain.walk(
                _raw(session), count=head.count if head else 0, last_hash=head.hash if head else "the head is missing"
            )


def _raw(session: Session) -> Iterator[chain.RawEvent]:
    query = select(
        EventRow.seq,
        EventRow.at,
        EventRow.kind,
        EventRow.subject,
        EventRow.actor,
        type_coerce(EventRow.payload, Text),
        EventRow.prev_hash,
        EventRow.hash,
    ).order_by(EventRow.seq)
    for row in session.execute(query.execution_options(yield_per=_BATCH)):
        yield chain.RawEvent(*row)


def _record(row: EventRow | Row[Any]) -> EventRecord:
    return EventRecord(
        seq=row.seq,
        at=row.at,
        kind=row.kind,
        subject=row.subject,
        actor=row.actor,
        payload=row.payload,
        prev_hash=row.prev_hash,
        hash=row.hash,
    )
