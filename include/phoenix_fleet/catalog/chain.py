"""The event chain: each event carries the hash of the one before, so that none can be taken out or changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from phoenix_fleet.catalog import canonical
from phoenix_fleet.domain.errors import PermanentError

GENESIS = "0" * 64
"""What the first event has in place of the hash of the one before."""

_REMEDY = "Someone changed the catalog by hand: compare it with a backup and with the evidence kept elsewhere."


@dataclass(frozen=True)
class Head:
    """Where the chain ends: how many events it has, and the hash of the last."""

    count: int
    hash: str


class RawEvent(NamedTuple):
    """An event as it lies in the database, its payload not yet parsed: a forger may have left anything there."""

    seq: int
    at: datetime
    kind: str
    subject: str
    actor: str
    payload: str
    prev_hash: str
    hash: str


def digest(prev_hash: str, *, seq: int, at: datetime, kind: str, subject: str, actor: str, payload: Any) -> str:
    """SHA-256, hexadecimal, of the previous hash followed by the event as canonical JSON."""
    row = {
        "seq": seq,
        "at": at.astimezone(UTC).isoformat(timespec="microseconds"),
        "kind": kind,
        "subject": subject,
        "actor": actor,
        "payload": payload,
    }
    return hashlib.sha256((prev_hash + canonical.dumps(row)).encode()).hexdigest()


def link(head: Head, *, at: datetime, kind: str, subject: str, actor: str, payload: dict[str, Any]) -> dict[str, Any]:
    """The next event, as the values of its row."""
    seq = head.count + 1
    return {
        "seq": seq,
        "at": at,
        "kind": canonical.clean(kind),
        "subject": canonical.clean(subject),
        "actor": canonical.clean(actor),
        "payload": payload,
        "prev_hash": head.hash,
        "hash": digest(head.hash, seq=seq, at=at, kind=kind, subject=subject, actor=actor, payload=payload),
    }


def walk(events: Iterable[RawEvent], *, count: int, last_hash: str) -> None:
    """Return if the events, in order of number, are whole and unchanged and end where the head says.

    :raises PermanentError: naming the first broken link.
    """
    seq, prev_hash = 0, GENESIS
    for event in events:
        seq += 1
        if event.seq != seq:
            raise _broken(seq, "it is missing")
        if event.prev_hash != prev_hash:
            raise _broken(seq, "it does not follow on the one before")
        if event.hash != _digest_of(event):
            raise _broken(seq, "its content was changed")
        prev_hash = event.hash
    if seq < count:
        raise _broken(seq + 1, f"it and all later ones are missing: the chain had {count}")
    if seq > count or prev_hash != last_hash:
        raise _broken(seq, "the chain's head does not know it")


def _digest_of(event: RawEvent) -> str:
    try:
        payload = canonical.loads(event.payload)
    except ValueError:
        return "not JSON"
    return digest(
        event.prev_hash,
        seq=event.seq,
        at=event.at,
        kind=event.kind,
        subject=event.subject,
        actor=event.actor,
        payload=payload,
    )


def _broken(seq: int, why: str) -> PermanentError:
    return PermanentError(f"The event chain is broken at event {seq}: {why}.", remedy=_REMEDY)
