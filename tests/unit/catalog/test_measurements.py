from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.records import MeasurementRecord
from phoenix_fleet.domain.clock import ManualClock
from phoenix_fleet.domain.errors import InvalidConfig, NotFound, Refused
from phoenix_fleet.domain.verdicts import Measurement, Verdict
from tests.unit.catalog.helpers import ARTEFACT, DIGEST, OTHER, V1, kinds, open_image

GOOD = Measurement("17 checks, 0 failed", True, {"checks": 17}, ("junit.xml",))
BAD = Measurement("17 checks, 2 failed", False, {"failed": ["a", "b"]})
ANSWERED = datetime(2026, 11, 1, 9, 30, tzinfo=UTC)


@pytest.fixture(autouse=True)
def image(catalog: Catalog) -> None:
    open_image(catalog)
    catalog.images.add_artefact("debian-base", V1, ARTEFACT)


def measure(catalog: Catalog, measurement: Measurement, stage: str = "test", gate: str = "testinfra") -> Verdict:
    return catalog.measurements.record("debian-base", V1, stage, gate, "debian-base on docker", measurement)


def test_a_measurement_is_judged_and_kept(catalog: Catalog, clock: ManualClock) -> None:
    assert measure(catalog, GOOD) == Verdict.PASSED
    assert catalog.measurements.latest("debian-base", V1) == [
        MeasurementRecord("test", "testinfra", "debian-base on docker", GOOD, Verdict.PASSED, clock.now())
    ]


@pytest.mark.parametrize(
    ("measurement", "verdict"),
    [
        (BAD, Verdict.FAILED),
        (Measurement("odd", None), Verdict.INCONCLUSIVE),
        (Measurement("", True, error="no answer"), Verdict.ERROR),
    ],
)
def test_what_did_not_pass_is_kept_as_such(catalog: Catalog, measurement: Measurement, verdict: Verdict) -> None:
    assert measure(catalog, measurement) == verdict
    (kept,) = catalog.measurements.latest("debian-base", V1)
    assert (kept.measurement, kept.verdict) == (measurement, verdict)


def test_the_newest_measurement_counts_and_all_are_on_the_chain(catalog: Catalog) -> None:
    measure(catalog, BAD)
    measure(catalog, GOOD, gate="hygiene")
    measure(catalog, GOOD)
    measure(catalog, BAD, stage="stage")
    latest = catalog.measurements.latest("debian-base", V1)
    assert [(each.stage, each.gate, each.verdict.name) for each in latest] == [
        ("test", "hygiene", "PASSED"),
        ("test", "testinfra", "PASSED"),
        ("stage", "testinfra", "FAILED"),
    ]
    assert [each.stage for each in catalog.measurements.latest("debian-base", V1, "stage")] == ["stage"]
    assert kinds(catalog).count("image.measured") == 4


def test_hostile_words_are_kept_harmless(catalog: Catalog) -> None:
    nasty = "'; DROP TABLE images; --\x00\ud800 \u202e\U0001f525"
    measure(catalog, Measurement(nasty, False, {nasty: [nasty, float("nan"), float("inf")]}, (nasty,)))
    (kept,) = catalog.measurements.latest("debian-base", V1)
    mended = "'; DROP TABLE images; --\ufffd\ufffd \u202e\U0001f525"
    assert kept.measurement == Measurement(mended, False, {mended: [mended, "nan", "inf"]}, (mended,))
    catalog.events.verify()


def test_details_that_are_not_json_are_refused_and_leave_nothing(catalog: Catalog) -> None:
    with pytest.raises(InvalidConfig, match="PosixPath cannot be stored"):
        measure(catalog, Measurement("fine", True, {"where": Path("/tmp")}))  # noqa: S108
    assert catalog.measurements.latest("debian-base", V1) == []


def certify(catalog: Catalog, verdict: Verdict = Verdict.PASSED, **changes: str) -> None:
    given = {"platform": "docker", "digest": DIGEST, "component": "shop-api", "component_version": "1.4.0", **changes}
    catalog.measurements.certify("debian-base", V1, verdict=verdict, artefacts=["junit.xml"], **given)


def test_certificates_say_which_component_was_proven_on_which_digest(catalog: Catalog, clock: ManualClock) -> None:
    certify(catalog)
    (certificate,) = catalog.measurements.certificates("debian-base", V1)
    assert (certificate.platform, certificate.digest) == ("docker", DIGEST)
    assert (certificate.component, certificate.component_version) == ("shop-api", "1.4.0")
    assert (certificate.verdict, certificate.artefacts) == (Verdict.PASSED, ("junit.xml",))
    assert certificate.at == clock.now()


def test_the_newest_certificate_of_a_component_counts(catalog: Catalog) -> None:
    certify(catalog, Verdict.FAILED)
    certify(catalog, component="shop-front")
    certify(catalog, Verdict.PASSED)
    certificates = catalog.measurements.certificates("debian-base", V1)
    assert [(each.component, each.verdict) for each in certificates] == [
        ("shop-front", Verdict.PASSED),
        ("shop-api", Verdict.PASSED),
    ]


@pytest.mark.parametrize("changes", [{"digest": OTHER}, {"digest": ""}, {"platform": "ec2"}])
def test_a_certificate_for_another_artefact_is_refused(catalog: Catalog, changes: dict[str, str]) -> None:
    with pytest.raises(Refused, match="proves nothing about it"):
        certify(catalog, **changes)
    assert catalog.measurements.certificates("debian-base", V1) == []


def test_certificates_for_an_artefact_that_was_replaced_do_not_count(catalog: Catalog) -> None:
    certify(catalog)
    catalog.images.add_artefact("debian-base", V1, replace(ARTEFACT, digest=OTHER))
    assert catalog.measurements.certificates("debian-base", V1) == []


def approve(catalog: Catalog, *, responder: str | None = "bob", approved: bool = True, **digests: str) -> None:
    catalog.measurements.approve(
        "debian-base",
        V1,
        digest_set=digests or {"docker": DIGEST},
        responder=responder,
        approved=approved,
        reason="looks good",
        at=ANSWERED,
    )


def test_an_answer_is_kept_with_what_was_seen(catalog: Catalog) -> None:
    approve(catalog, approved=False)
    approve(catalog)
    no, yes = catalog.measurements.approvals("debian-base", V1)
    assert (no.approved, yes.approved) == (False, True)
    assert (yes.responder, yes.digest_set, yes.reason, yes.at) == ("bob", {"docker": DIGEST}, "looks good", ANSWERED)
    newest = catalog.events.list_events("images/")[0]
    assert (newest.kind, newest.actor, newest.payload["digests"]) == ("image.answered", "bob", {"docker": DIGEST})


@pytest.mark.parametrize("responder", [None, "", "  "])
def test_an_answer_by_nobody_is_refused(catalog: Catalog, responder: str | None) -> None:
    with pytest.raises(Refused, match="names nobody"):
        approve(catalog, responder=responder)
    assert catalog.measurements.approvals("debian-base", V1) == []


@pytest.mark.parametrize("digests", [{"docker": OTHER}, {"docker": DIGEST, "ec2": OTHER}, {"ec2": DIGEST}])
def test_an_answer_about_other_digests_is_refused(catalog: Catalog, digests: dict[str, str]) -> None:
    with pytest.raises(Refused, match="other artefacts"):
        approve(catalog, **digests)
    assert catalog.measurements.approvals("debian-base", V1) == []


def test_an_answer_needs_a_moment(catalog: Catalog) -> None:
    for at in (None, datetime(2026, 11, 1)):
        with pytest.raises(InvalidConfig, match="no aware moment"):
            catalog.measurements.approve(
                "debian-base",
                V1,
                digest_set={"docker": DIGEST},
                responder="bob",
                approved=True,
                reason="",
                at=at,  # type: ignore[arg-type]
            )


def test_an_image_without_artefacts_cannot_be_approved(catalog: Catalog) -> None:
    catalog.images.open_candidate("empty", V1.window, "inputs", "alice", run="r")
    with pytest.raises(Refused, match="other artefacts"):
        catalog.measurements.approve("empty", V1, digest_set={}, responder="bob", approved=True, reason="", at=ANSWERED)


def test_unknown_images_are_not_found(catalog: Catalog) -> None:
    store = catalog.measurements
    for ask in (
        lambda: store.record("none", V1, "test", "gate", "subject", GOOD),
        lambda: store.latest("none", V1),
        lambda: store.certify("none", V1, "docker", DIGEST, "shop-api", "1", Verdict.PASSED, []),
        lambda: store.certificates("none", V1),
        lambda: store.approvals("none", V1),
    ):
        with pytest.raises(NotFound, match="none"):
            ask()
