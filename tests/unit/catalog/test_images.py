from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import exc

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.schema import ImageRow
from phoenix_fleet.domain.clock import ManualClock
from phoenix_fleet.domain.errors import Busy, IllegalTransition, InvalidConfig, NotFound, Refused
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.windows import Version
from tests.unit.catalog.helpers import (
    ARTEFACT,
    DIGEST,
    NOVEMBER,
    OCTOBER,
    OTHER,
    V1,
    climb,
    kinds,
    open_image,
    release,
)


def test_a_candidate_gets_the_first_build_number_of_its_window(catalog: Catalog, clock: ManualClock) -> None:
    image = open_image(catalog)
    assert (image.family, image.version, image.rung) == ("debian-base", V1, Rung.CANDIDATE)
    assert (image.inputs, image.run, image.created_at) == ("inputs", "image-run-1", clock.now())
    assert catalog.images.get("debian-base", V1) == image
    assert catalog.images.in_flight("debian-base") == image


def test_the_same_run_gets_the_same_candidate(catalog: Catalog) -> None:
    assert open_image(catalog) == open_image(catalog)
    assert kinds(catalog) == ["image.opened"]


def test_the_same_run_gets_its_candidate_even_after_it_was_rejected(catalog: Catalog) -> None:
    image = open_image(catalog)
    catalog.images.move(image.family, image.version, Rung.REJECTED, actor="alice", reason="broken")
    assert open_image(catalog).rung == Rung.REJECTED


@pytest.mark.parametrize("rung", [Rung.CANDIDATE, Rung.TESTED, Rung.CERTIFIED, Rung.STAGED])
def test_one_candidate_of_a_family_at_a_time(catalog: Catalog, rung: Rung) -> None:
    climb(catalog, open_image(catalog), rung)
    with pytest.raises(Busy, match=r"debian-base 2026\.11-1 is still on its way \(" + rung):
        open_image(catalog, run="image-run-2")


def test_another_family_has_a_candidate_of_its_own(catalog: Catalog) -> None:
    open_image(catalog)
    other = catalog.images.open_candidate("ubuntu-base", NOVEMBER, "inputs", "alice", run="image-run-1")
    assert other.version == V1


def test_build_numbers_are_never_used_again(catalog: Catalog) -> None:
    catalog.images.move("debian-base", open_image(catalog).version, Rung.REJECTED, actor="alice")
    assert open_image(catalog, run="image-run-2").version == Version(NOVEMBER, 2)


def test_a_candidate_needs_a_run(catalog: Catalog) -> None:
    with pytest.raises(InvalidConfig, match="run"):
        open_image(catalog, run="")


def test_two_candidates_of_a_family_cannot_even_be_written_down(catalog: Catalog, clock: ManualClock) -> None:
    open_image(catalog)
    texts = dict.fromkeys(("inputs", "actor", "reason"), "")
    rogue = ImageRow(
        family="debian-base",
        refresh_window="2026-11",
        build=2,
        rung="tested",
        run="rogue",
        created_at=clock.now(),
        moved_at=clock.now(),
        **texts,
    )
    with pytest.raises(exc.IntegrityError), catalog.images._database.write() as tx:
        tx.session.add(rogue)


def test_an_artefact_is_added_once(catalog: Catalog) -> None:
    open_image(catalog)
    image = catalog.images.add_artefact("debian-base", V1, ARTEFACT)
    assert image.artefacts == {"docker": ARTEFACT}
    assert catalog.images.add_artefact("debian-base", V1, ARTEFACT) == image
    assert kinds(catalog) == ["image.opened", "image.artefact"]


def test_a_candidates_artefact_may_be_built_again(catalog: Catalog) -> None:
    open_image(catalog)
    catalog.images.add_artefact("debian-base", V1, ARTEFACT)
    image = catalog.images.add_artefact("debian-base", V1, replace(ARTEFACT, digest=OTHER))
    assert image.artefacts["docker"].digest == OTHER
    assert catalog.images.get("debian-base", V1) == image


@pytest.mark.parametrize("changes", [{"digest": OTHER}, {"platform": "ec2"}, {"reference": "elsewhere"}])
def test_once_tested_the_artefacts_are_frozen(catalog: Catalog, changes: dict[str, str]) -> None:
    open_image(catalog)
    catalog.images.add_artefact("debian-base", V1, ARTEFACT)
    image = catalog.images.move("debian-base", V1, Rung.TESTED, actor="alice")
    with pytest.raises(Refused, match="is tested"):
        catalog.images.add_artefact("debian-base", V1, replace(ARTEFACT, **changes))
    assert catalog.images.add_artefact("debian-base", V1, ARTEFACT) == image


def test_an_image_climbs_to_released(catalog: Catalog) -> None:
    image = release(catalog)
    assert image.rung == Rung.RELEASED
    assert catalog.images.in_flight("debian-base") is None
    assert catalog.images.newest_released("debian-base") == image
    assert kinds(catalog)[2:] == ["image.moved"] * 4
    moved = catalog.events.list_events("images/debian-base/2026.11-1")[0]
    assert moved.payload == {"from": "staged", "to": "released", "reason": "", "digests": {"docker": DIGEST}}


def test_rungs_are_not_skipped(catalog: Catalog) -> None:
    open_image(catalog)
    with pytest.raises(IllegalTransition):
        catalog.images.move("debian-base", V1, Rung.RELEASED, actor="alice")
    assert catalog.images.get("debian-base", V1).rung == Rung.CANDIDATE


def test_staying_put_changes_nothing(catalog: Catalog) -> None:
    open_image(catalog)
    catalog.images.move("debian-base", V1, Rung.REJECTED, actor="alice", reason="broken")
    again = catalog.images.move("debian-base", V1, Rung.REJECTED, actor="bob", reason="other words")
    assert again.reason == "broken"
    assert kinds(catalog) == ["image.opened", "image.moved"]


def test_nothing_is_released_without_an_artefact(catalog: Catalog) -> None:
    climb(catalog, open_image(catalog), Rung.STAGED)
    with pytest.raises(Refused, match="no artefact"):
        catalog.images.move("debian-base", V1, Rung.RELEASED, actor="alice")


def test_unknown_images_are_not_found(catalog: Catalog) -> None:
    for ask in (
        lambda: catalog.images.get("debian-base", V1),
        lambda: catalog.images.add_artefact("debian-base", V1, ARTEFACT),
        lambda: catalog.images.move("debian-base", V1, Rung.TESTED, actor="alice"),
        lambda: catalog.images.settle_window("debian-base", NOVEMBER, V1, "released", actor="alice", reason=""),
    ):
        with pytest.raises(NotFound, match=r"debian-base 2026\.11-1"):
            ask()


def test_images_are_listed_newest_version_first(catalog: Catalog) -> None:
    for number in range(1, 12):
        image = open_image(catalog, run=f"run-{number}")
        catalog.images.move(image.family, image.version, Rung.REJECTED, actor="alice")
    older = release(catalog, OCTOBER, run="older")
    listed = catalog.images.list_images("debian-base")
    assert [image.version.build for image in listed] == [11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1]
    assert catalog.images.list_images("debian-base", Rung.RELEASED) == [older]
    assert catalog.images.list_images("ubuntu-base") == []


def test_a_revoked_release_is_not_the_newest_any_more(catalog: Catalog) -> None:
    older = release(catalog, OCTOBER, run="older")
    newer = release(catalog)
    assert catalog.images.newest_released("debian-base") == newer
    catalog.images.move("debian-base", newer.version, Rung.REVOKED, actor="alice", reason="CVE")
    assert catalog.images.newest_released("debian-base") == older


def test_a_window_is_served_by_a_release_of_its_own_or_a_newer_one(catalog: Catalog) -> None:
    assert catalog.images.release_for("debian-base", NOVEMBER) is None
    image = release(catalog)
    assert catalog.images.release_for("debian-base", NOVEMBER) == image
    assert catalog.images.release_for("debian-base", OCTOBER) == image
    assert catalog.images.release_for("debian-base", NOVEMBER.next()) is None


def test_a_window_settled_without_an_image_is_served_by_the_last_release(catalog: Catalog, clock: ManualClock) -> None:
    image, december = release(catalog), NOVEMBER.next()
    settled = catalog.images.settle_window(
        "debian-base", december, V1, "unchanged", actor="alice", reason="nothing has changed"
    )
    assert (settled.version, settled.how, settled.actor, settled.at) == (V1, "unchanged", "alice", clock.now())
    assert catalog.images.window("debian-base", december) == settled
    assert catalog.images.release_for("debian-base", december) == image
    assert catalog.images.release_for("debian-base", december.next()) is None


def test_settling_again_is_told_once_and_the_last_word_counts(catalog: Catalog) -> None:
    release(catalog)
    for how in ("unchanged", "unchanged", "released"):
        catalog.images.settle_window("debian-base", NOVEMBER, V1, how, actor="alice", reason="because")
    window = catalog.images.window("debian-base", NOVEMBER)
    assert window is not None
    assert window.how == "released"
    assert kinds(catalog, "images/debian-base/windows/") == ["window.settled", "window.settled"]
    assert catalog.images.window("debian-base", OCTOBER) is None
