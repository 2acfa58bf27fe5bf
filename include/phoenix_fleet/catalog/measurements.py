"""What was measured, certified and approved about each image. Rows are only ever added; the newest counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import select

from phoenix_fleet.catalog.database import Database
from phoenix_fleet.catalog.images import digests_of, find_image, subject_of
from phoenix_fleet.catalog.records import ApprovalRecord, CertificateRecord, MeasurementRecord
from phoenix_fleet.catalog.schema import ApprovalRow, CertificateRow, MeasurementRow
from phoenix_fleet.domain.errors import InvalidConfig, Refused
from phoenix_fleet.domain.verdicts import Measurement, Verdict, judge
from phoenix_fleet.domain.windows import Version


class MeasurementStore:
    """The proof that images are what we say they are."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(
        self, family: str, version: Version, stage: str, gate: str, subject: str, measurement: Measurement
    ) -> Verdict:
        """Keep one measurement; returns the verdict on it.

        :raises NotFound: no such image.
        :raises InvalidConfig: the measurement's details are not JSON-able.
        """
        verdict = judge(measurement)
        with self._database.write() as tx:
            image = find_image(tx.session, family, version)
            tx.session.add(
                MeasurementRow(
                    image_id=image.id,
                    stage=stage,
                    gate=gate,
                    subject=subject,
                    value=measurement.value,
                    passed=measurement.passed,
                    details=dict(measurement.details),
                    artefacts=list(measurement.artefacts),
                    error=measurement.error,
                    verdict=str(verdict),
                    at=tx.now,
                )
            )
            payload = {
                "stage": stage,
                "gate": gate,
                "subject": subject,
                "value": measurement.value,
                "verdict": str(verdict),
                "error": measurement.error,
            }
            tx.event("image.measured", subject_of(image), gate, payload)
        return verdict

    def latest(self, family: str, version: Version, stage: str | None = None) -> list[MeasurementRecord]:
        """The newest measurement per (stage, gate, subject), in the order they came in.

        :raises NotFound: no such image.
        """
        with self._database.read() as session:
            image = find_image(session, family, version)
            query = select(MeasurementRow).where(MeasurementRow.image_id == image.id).order_by(MeasurementRow.id)
            if stage is not None:
                query = query.where(MeasurementRow.stage == stage)
            newest = {(row.stage, row.gate, row.subject): row for row in session.scalars(query)}
            return [_to_measurement(row) for row in sorted(newest.values(), key=lambda row: row.id)]

    def certify(
        self,
        family: str,
        version: Version,
        platform: str,
        digest: str,
        component: str,
        component_version: str,
        verdict: Verdict,
        artefacts: Sequence[str],
    ) -> CertificateRecord:
        """Keep the result of proving one component on one artefact.

        :param artefacts: paths of the files kept as proof.
        :raises NotFound: no such image.
        :raises Refused: the digest is not the image's own on that platform.
        """
        with self._database.write() as tx:
            image = find_image(tx.session, family, version)
            own = digests_of(image).get(platform)
            if digest != own:
                raise Refused(
                    f"{family} {version} is {own or 'not built'} on {platform}: a certificate for "
                    f"{digest or 'no digest'} proves nothing about it.",
                    remedy="Prove the component on an instance of the image's own artefact.",
                )
            row = CertificateRow(
                image_id=image.id,
                platform=platform,
                digest=digest,
                component=component,
                component_version=component_version,
                verdict=str(verdict),
                artefacts=list(artefacts),
                at=tx.now,
            )
            tx.session.add(row)
            payload = {
                "platform": platform,
                "digest": digest,
                "component": component,
                "component_version": component_version,
                "verdict": str(verdict),
            }
            tx.event("image.certified", subject_of(image), "certify", payload)
            return _to_certificate(row)

    def certificates(self, family: str, version: Version) -> list[CertificateRecord]:
        """The newest certificate per platform and component version, for the image's own digests, oldest first.

        :raises NotFound: no such image.
        """
        with self._database.read() as session:
            image = find_image(session, family, version)
            own = digests_of(image)
            query = select(CertificateRow).where(CertificateRow.image_id == image.id).order_by(CertificateRow.id)
            newest = {
                (row.platform, row.component, row.component_version): row
                for row in session.scalars(query)
                if own.get(row.platform) == row.digest
            }
            return [_to_certificate(row) for row in sorted(newest.values(), key=lambda row: row.id)]

    def approve(
        self,
        family: str,
        version: Version,
        *,
        digest_set: Mapping[str, str],
        responder: str | None,
        approved: bool,
        reason: str,
        at: datetime,
    ) -> ApprovalRecord:
        """Keep a person's answer about exactly these digests (by platform).

        :param at: when they answered, aware.
        :raises InvalidConfig: ``at`` is no aware moment.
        :raises NotFound: no such image.
        :raises Refused: nobody is named, or the digests are not the image's own, all of them.
        """
        if not (responder or "").strip():
            raise Refused(
                f"The answer about {family} {version} names nobody.",
                remedy="A release is approved by a person: answer while logged in under a name.",
            )
        if not isinstance(at, datetime) or at.tzinfo is None:
            raise InvalidConfig(f"{responder} answered about {family} {version} at {at!r}, which is no aware moment.")
        with self._database.write() as tx:
            image = find_image(tx.session, family, version)
            own = digests_of(image)
            if not own or dict(digest_set) != own:
                raise Refused(
                    f"{responder} answered about other artefacts than those of {family} {version}.",
                    remedy="Ask again, showing the digests as they are now.",
                )
            row = ApprovalRow(
                image_id=image.id,
                digest_set=own,
                responder=str(responder).strip(),
                approved=approved,
                reason=reason,
                at=at,
            )
            tx.session.add(row)
            payload = {"approved": approved, "reason": reason, "digests": own, "answered_at": at.isoformat()}
            tx.event("image.answered", subject_of(image), row.responder, payload)
            return _to_approval(row)

    def approvals(self, family: str, version: Version) -> list[ApprovalRecord]:
        """Every answer about the image, oldest first. :raises NotFound: no such image."""
        with self._database.read() as session:
            image = find_image(session, family, version)
            query = select(ApprovalRow).where(ApprovalRow.image_id == image.id).order_by(ApprovalRow.id)
            return [_to_approval(row) for row in session.scalars(query)]


def _to_measurement(row: MeasurementRow) -> MeasurementRecord:
    return MeasurementRecord(
        stage=row.stage,
        gate=row.gate,
        subject=row.subject,
        measurement=Measurement(
            value=row.value, passed=row.passed, details=row.details, artefacts=tuple(row.artefacts), error=row.error
        ),
        verdict=Verdict[row.verdict.upper()],
        at=row.at,
    )


def _to_certificate(row: CertificateRow) -> CertificateRecord:
    return CertificateRecord(
        platform=row.platform,
        digest=row.digest,
        component=row.component,
        component_version=row.component_version,
        verdict=Verdict[row.verdict.upper()],
        artefacts=tuple(row.artefacts),
        at=row.at,
    )


def _to_approval(row: ApprovalRow) -> ApprovalRecord:
    return ApprovalRecord(
        digest_set=row.digest_set,
        responder=row.responder,
        approved=row.approved,
        reason=row.reason,
        at=row.at,
    )
