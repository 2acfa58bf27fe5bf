"""Images and the ladder they climb, and how each refresh window ended."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from sqlalchemy import Row, bindparam, func, select
from sqlalchemy.orm import Session

from phoenix_fleet.catalog.database import Database, Transaction
from phoenix_fleet.catalog.records import Settled, WindowRecord
from phoenix_fleet.catalog.schema import ARTEFACTS, IMAGES, ArtefactRow, ImageRow, SettledWindowRow
from phoenix_fleet.domain.errors import Busy, InvalidConfig, NotFound, Refused
from phoenix_fleet.domain.ladder import CLIMB, Rung, check_move
from phoenix_fleet.domain.models import Artefact, Image
from phoenix_fleet.domain.windows import Version, Window

_IN_FLIGHT = CLIMB[:-1]
_NEWEST_FIRST = (ImageRow.refresh_window.desc(), ImageRow.build.desc())
_FAMILY = (
    select(IMAGES, ARTEFACTS.c.platform, ARTEFACTS.c.reference, ARTEFACTS.c.digest)
    .outerjoin(ARTEFACTS, ARTEFACTS.c.image_id == IMAGES.c.id)
    .where(IMAGES.c.family == bindparam("family"))
    .order_by(IMAGES.c.refresh_window.desc(), IMAGES.c.build.desc(), ARTEFACTS.c.platform)
)
_ON_RUNG = _FAMILY.where(IMAGES.c.rung == bindparam("rung"))
_ONE = _FAMILY.where(IMAGES.c.refresh_window == bindparam("window"), IMAGES.c.build == bindparam("build"))


class ImageStore:
    """Every image ever begun. A released one is immutable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open_candidate(self, family: str, window: Window, inputs: str, actor: str, *, run: str) -> Image:
        """A new candidate with the window's next build number; asked again by the same run, the same image.

        :param inputs: fingerprint of all that goes into the build.
        :param run: what names the run that asks.
        :raises Busy: if another image of the family is on its way up the ladder.
        """
        if not run:
            raise InvalidConfig("A candidate needs the name of the run that opens it.")
        with self._database.write() as tx:
            again = tx.session.scalar(select(ImageRow).where(ImageRow.family == family, ImageRow.run == run))
            if again is not None:
                return to_image(again)
            standing = _in_flight(tx.session, family)
            if standing is not None:
                raise Busy(
                    f"{to_image(standing)} is still on its way ({standing.rung}, opened by {standing.run}): "
                    f"{family} gets no other candidate before that one is released or rejected."
                )
            row = ImageRow(
                family=family,
                refresh_window=str(window),
                build=_next_build(tx.session, family, window),
                rung=Rung.CANDIDATE,
                inputs=inputs,
                run=run,
                actor=actor,
                reason="",
                created_at=tx.now,
                moved_at=tx.now,
                artefacts=[],
            )
            tx.session.add(row)
            tx.event("image.opened", subject_of(row), actor, {"run": run, "inputs": inputs})
            return to_image(row)

    def add_artefact(self, family: str, version: Version, artefact: Artefact) -> Image:
        """The image with that artefact. Idempotent; only a candidate's artefacts can still change.

        :raises NotFound: no such image.
        :raises Refused: the image has left the rung of candidate and this would change it.
        """
        with self._database.write() as tx:
            row = find_image(tx.session, family, version)
            known = next((each for each in row.artefacts if each.platform == artefact.platform), None)
            if known is not None and (known.reference, known.digest) == (artefact.reference, artefact.digest):
                return to_image(row)
            if row.rung != Rung.CANDIDATE:
                has = f"is {known.digest}" if known is not None else "does not exist"
                raise Refused(
                    f"{family} {version} is {row.rung}: its artefact on {artefact.platform} {has} and cannot become "
                    f"{artefact.digest}.",
                    remedy="What was tested must be what is released. Build a new version.",
                )
            if known is None:
                known = ArtefactRow(platform=artefact.platform)
                row.artefacts.append(known)
            known.reference, known.digest = artefact.reference, artefact.digest
            payload = {"platform": artefact.platform, "reference": artefact.reference, "digest": artefact.digest}
            tx.event("image.artefact", subject_of(row), row.actor, payload)
            return to_image(row)

    def move(self, family: str, version: Version, rung: Rung, *, actor: str, reason: str = "") -> Image:
        """The image on that rung. Staying put is allowed and changes nothing.

        :raises NotFound: no such image.
        :raises IllegalTransition: it may not go there from where it stands.
        :raises Refused: it would be released without any artefact.
        """
        with self._database.write() as tx:
            row = find_image(tx.session, family, version)
            move_image(tx, row, rung, actor=actor, reason=reason)
            return to_image(row)

    def get(self, family: str, version: Version) -> Image:
        """The image. :raises NotFound: if there is none."""
        which = {"family": family, "window": str(version.window), "build": version.build}
        with self._database.look() as connection:
            found = _to_images(connection.execute(_ONE, which))
        if not found:
            raise _no_image(family, version)
        return found[0]

    def list_images(self, family: str, rung: Rung | None = None) -> list[Image]:
        """All images of the family, or those on that rung, newest version first."""
        with self._database.look() as connection:
            if rung is None:
                return _to_images(connection.execute(_FAMILY, {"family": family}))
            return _to_images(connection.execute(_ON_RUNG, {"family": family, "rung": rung}))

    def in_flight(self, family: str) -> Image | None:
        """The family's image that is on its way up the ladder, if any."""
        with self._database.read() as session:
            row = _in_flight(session, family)
            return to_image(row) if row is not None else None

    def newest_released(self, family: str) -> Image | None:
        """The family's newest version that is released, neither revoked nor retired."""
        with self._database.read() as session:
            return _newest_released(session, family)

    def release_for(self, family: str, window: Window) -> Image | None:
        """The newest released image, if it serves that window: it is as new, or the window was settled without one."""
        with self._database.read() as session:
            newest = _newest_released(session, family)
            if newest is None or newest.window >= window:
                return newest
            settled = session.get(SettledWindowRow, (family, str(window)))
            return newest if settled is not None else None

    def settle_window(
        self, family: str, window: Window, version: Version, how: Settled, *, actor: str, reason: str
    ) -> WindowRecord:
        """Record how a refresh window ended, and which version serves it. The last word counts.

        :raises NotFound: there is no such image.
        """
        with self._database.write() as tx:
            find_image(tx.session, family, version)
            row = tx.session.get(SettledWindowRow, (family, str(window)))
            if row is not None and (row.version, row.how) == (str(version), how):
                return _to_window(row)
            row = row or SettledWindowRow(family=family, refresh_window=str(window))
            row.version, row.how, row.actor, row.reason, row.at = str(version), how, actor, reason, tx.now
            tx.session.add(row)
            payload = {"version": str(version), "how": how, "reason": reason}
            tx.event("window.settled", f"images/{family}/windows/{window}", actor, payload)
            return _to_window(row)

    def window(self, family: str, window: Window) -> WindowRecord | None:
        """How that refresh window ended; None if it has not."""
        with self._database.read() as session:
            row = session.get(SettledWindowRow, (family, str(window)))
            return _to_window(row) if row is not None else None


def move_image(tx: Transaction, row: ImageRow, rung: Rung, *, actor: str, reason: str) -> bool:
    """Put the image on that rung; whether it was not there before.

    :raises IllegalTransition: it may not go there from where it stands.
    :raises Refused: it would be released without any artefact.
    """
    current = Rung(row.rung)
    check_move(current, rung)
    if rung == current:
        return False
    if rung == Rung.RELEASED and not row.artefacts:
        raise Refused(f"{row.family} {version_of(row)} has no artefact, so there is nothing to release.")
    row.rung, row.reason, row.moved_at = rung, reason, tx.now
    payload = {"from": current, "to": rung, "reason": reason, "digests": digests_of(row)}
    tx.event("image.moved", subject_of(row), actor, payload)
    return True


def find_image(session: Session, family: str, version: Version) -> ImageRow:
    """The image's row. :raises NotFound: if there is none."""
    row = session.scalar(
        select(ImageRow).where(
            ImageRow.family == family, ImageRow.refresh_window == str(version.window), ImageRow.build == version.build
        )
    )
    if row is None:
        raise _no_image(family, version)
    return row


def _no_image(family: str, version: Version) -> NotFound:
    return NotFound(f"The catalog has no image {family} {version}.")


def subject_of(row: ImageRow) -> str:
    """The image as the subject of events."""
    return f"images/{row.family}/{version_of(row)}"


def version_of(row: ImageRow | Row[Any]) -> Version:
    """The row's version."""
    return Version(Window.parse(row.refresh_window), row.build)


def digests_of(row: ImageRow) -> dict[str, str]:
    """The image's digests by platform."""
    return {each.platform: each.digest for each in row.artefacts}


def to_image(row: ImageRow) -> Image:
    """The row as a value."""
    return _image_of(row, row.artefacts)


def _to_images(rows: Iterable[Row[Any]]) -> list[Image]:
    """Of rows with an artefact each, or none, those of one image next to each other."""
    together = (list(members) for _, members in groupby(rows, key=lambda row: row.id))
    return [_image_of(members[0], [each for each in members if each.platform is not None]) for members in together]


def _image_of(row: ImageRow | Row[Any], artefacts: Iterable[ArtefactRow | Row[Any]]) -> Image:
    return Image(
        family=row.family,
        version=version_of(row),
        rung=Rung(row.rung),
        artefacts={
            each.platform: Artefact(platform=each.platform, reference=each.reference, digest=each.digest)
            for each in artefacts
        },
        inputs=row.inputs,
        created_at=row.created_at,
        run=row.run,
        reason=row.reason,
    )


def _next_build(session: Session, family: str, window: Window) -> int:
    query = select(func.max(ImageRow.build)).where(ImageRow.family == family, ImageRow.refresh_window == str(window))
    return (session.scalar(query) or 0) + 1


def _in_flight(session: Session, family: str) -> ImageRow | None:
    return session.scalar(select(ImageRow).where(ImageRow.family == family, ImageRow.rung.in_(_IN_FLIGHT)))


def _newest_released(session: Session, family: str) -> Image | None:
    query = select(ImageRow).where(ImageRow.family == family, ImageRow.rung == Rung.RELEASED)
    row = session.scalar(query.order_by(*_NEWEST_FIRST).limit(1))
    return to_image(row) if row is not None else None


def _to_window(row: SettledWindowRow) -> WindowRecord:
    how: Settled = row.how  # type: ignore[assignment]
    return WindowRecord(
        family=row.family,
        window=Window.parse(row.refresh_window),
        version=Version.parse(row.version),
        how=how,
        actor=row.actor,
        reason=row.reason,
        at=row.at,
    )
