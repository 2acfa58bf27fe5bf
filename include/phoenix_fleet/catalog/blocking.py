"""Releases that a fleet must not get: a rollback blocks what it undoes, until a named person lifts that."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, bindparam, select
from sqlalchemy.orm import Session

from phoenix_fleet.catalog.database import Database, Transaction
from phoenix_fleet.catalog.images import to_image
from phoenix_fleet.catalog.records import BlockRecord
from phoenix_fleet.catalog.schema import BLOCKS, BlockRow, ImageRow
from phoenix_fleet.domain.errors import NotFound, Refused
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import Image
from phoenix_fleet.domain.windows import Version

_STANDING = select(BLOCKS).where(
    *(BLOCKS.c[name] == bindparam(name) for name in ("fleet", "family", "version")), BLOCKS.c.lifted_at.is_(None)
)


class BlockStore:
    """Every block that stands or stood."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, fleet: str, family: str, version: Version) -> BlockRecord | None:
        """The block that keeps that release from the fleet, if one stands."""
        with self._database.look() as connection:
            row = connection.execute(_STANDING, {"fleet": fleet, "family": family, "version": str(version)}).first()
            return _to_block(row) if row is not None else None

    def list_blocks(self, fleet: str) -> list[BlockRecord]:
        """The fleet's blocks that stand, newest first."""
        query = select(BlockRow).where(BlockRow.fleet == fleet, BlockRow.lifted_at.is_(None))
        with self._database.read() as session:
            return [_to_block(row) for row in session.scalars(query.order_by(BlockRow.id.desc()))]

    def newest_good(self, fleet: str, family: str) -> Image | None:
        """The newest released image that is not blocked for the fleet."""
        with self._database.read() as session:
            found = good_releases(session, fleet, family)
            return found[0] if found else None

    def lift(self, fleet: str, family: str, version: Version, *, actor: str, reason: str) -> BlockRecord:
        """The block that stood. From now on the fleet may get that release again.

        :raises Refused: nobody is named.
        :raises NotFound: that release is not blocked for the fleet.
        """
        check_named(actor, f"Lifting a block of {fleet}")
        with self._database.write() as tx:
            row = find_block(tx.session, fleet, family, version)
            if row is None:
                raise NotFound(f"{family} {version} is not blocked for {fleet}.")
            row.lifted_by, row.lifted_reason, row.lifted_at = actor, reason, tx.now
            payload = {"family": family, "version": str(version), "reason": reason, "was": row.reason}
            tx.event("block.lifted", f"fleets/{fleet}/blocks/{row.id}", actor, payload)
            return _to_block(row)


def check_named(actor: str, act: str) -> None:
    """Return if somebody is named. :raises Refused: otherwise."""
    if not actor.strip():
        raise Refused(f"{act} needs somebody's name.", remedy="Say who takes responsibility for it.")


def find_block(session: Session, fleet: str, family: str, version: Version) -> BlockRow | None:
    """The block that stands, if one does."""
    query = select(BlockRow).where(BlockRow.fleet == fleet, BlockRow.family == family)
    return session.scalar(query.where(BlockRow.version == str(version), BlockRow.lifted_at.is_(None)))


def block(tx: Transaction, fleet: str, family: str, version: Version, *, actor: str, reason: str) -> bool:
    """Keep that release from the fleet; whether it was not kept from it before."""
    if find_block(tx.session, fleet, family, version) is not None:
        return False
    row = BlockRow(fleet=fleet, family=family, version=str(version), actor=actor, reason=reason, at=tx.now)
    tx.session.add(row)
    tx.session.flush()
    payload = {"family": family, "version": str(version), "reason": reason}
    tx.event("block.set", f"fleets/{fleet}/blocks/{row.id}", actor, payload)
    return True


def check_unblocked(session: Session, fleet: str, family: str, version: Version) -> None:
    """Return if the fleet may get that release. :raises Refused: it is blocked."""
    found = find_block(session, fleet, family, version)
    if found is not None:
        raise refused(_to_block(found))


def refused(block: BlockRecord) -> Refused:
    """The error for whoever wants a release that is blocked."""
    return Refused(
        f"{block.family} {block.version} is blocked for {block.fleet} by {block.actor}: {block.reason}.",
        remedy=f"If it is good after all: `phoenix unblock {block.fleet} {block.version}`, or the DAG `operate`.",
    )


def good_releases(session: Session, fleet: str, family: str) -> list[Image]:
    """Released images that are not blocked for the fleet, newest first."""
    standing = select(BlockRow.version).where(
        BlockRow.fleet == fleet, BlockRow.family == family, BlockRow.lifted_at.is_(None)
    )
    blocked = set(session.scalars(standing))
    query = select(ImageRow).where(ImageRow.family == family, ImageRow.rung == Rung.RELEASED)
    rows = session.scalars(query.order_by(ImageRow.refresh_window.desc(), ImageRow.build.desc()))
    return [image for image in map(to_image, rows) if str(image.version) not in blocked]


def _to_block(row: BlockRow | Row[Any]) -> BlockRecord:
    return BlockRecord(
        fleet=row.fleet,
        family=row.family,
        version=Version.parse(row.version),
        actor=row.actor,
        reason=row.reason,
        at=row.at,
    )
