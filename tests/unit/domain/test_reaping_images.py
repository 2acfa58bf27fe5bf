"""Which artefacts may go: only those that the catalog knows exactly, and that nobody comes back to."""

from __future__ import annotations

from datetime import timedelta

import pytest

from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import Artefact, Image
from phoenix_fleet.domain.reaping_images import KEPT_FOR, OVER, PER_RUN, decide_images
from phoenix_fleet.domain.windows import Version
from tests.unit.domain.fleet_of import NOW


def image(number: int = 1, rung: Rung = Rung.REJECTED, age: timedelta = KEPT_FOR) -> tuple[Artefact, Image]:
    version = Version.parse(f"2026.11-{number}")
    artefact = Artefact("fake", f"registry/base@sha256:{number}", f"sha256:{number}")
    return artefact, Image("base", version, rung, {"fake": artefact}, created_at=NOW - age)


def held(*artefacts: tuple[Artefact, Image]) -> list[tuple[Artefact, dict[str, str]]]:
    return [(artefact, {"version": str(of.version)}) for artefact, of in artefacts]


@pytest.mark.parametrize("rung", list(Rung))
def test_only_from_rungs_that_nothing_comes_back_from(rung: Rung) -> None:
    entry = image(rung=rung)
    assert decide_images(held(entry), [entry[1]], (), NOW).due == ((entry,) if rung in OVER else ())


def test_not_what_is_needed_nor_what_is_young() -> None:
    entry, young = image(1), image(2, age=KEPT_FOR - timedelta(seconds=1))
    images = [entry[1], young[1]]
    assert decide_images(held(entry, young), images, (), NOW).due == (entry,)
    assert decide_images(held(entry, young), images, {"2026.11-1"}, NOW).due == ()


def test_what_the_catalog_does_not_explain_is_told_and_stays() -> None:
    entry, other = image(1), image(2)
    lost = decide_images(held(entry), [], (), NOW)
    assert (lost.due, lost.strangers) == ((), ((entry[0].reference, "the catalog has no image 2026.11-1"),))
    swapped = decide_images([(other[0], {"version": "2026.11-1"})], [entry[1]], (), NOW)
    assert swapped.due == ()
    assert swapped.strangers == ((other[0].reference, "it is not the artefact of base 2026.11-1 in the catalog"),)
    assert decide_images([(entry[0], {})], [entry[1]], (), NOW).due == ()


def test_a_few_at_a_time_the_oldest_first() -> None:
    entries = [image(number) for number in range(1, 6)]
    found = decide_images(held(*reversed(entries)), [each for _, each in entries], (), NOW)
    assert found.due == tuple(entries[:PER_RUN])
