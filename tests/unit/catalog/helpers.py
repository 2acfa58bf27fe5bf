"""Short words for what the catalog's tests do all the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.records import RolloutRecord, Ticket
from phoenix_fleet.domain.ladder import CLIMB, Rung
from phoenix_fleet.domain.models import Artefact, Image
from phoenix_fleet.domain.windows import Version, Window

NOVEMBER = Window(2026, 11)
OCTOBER = Window(2026, 10)
V1 = Version(NOVEMBER, 1)
LEASE = timedelta(seconds=60)
DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
ARTEFACT = Artefact(platform="docker", reference=f"registry:5000/debian-base@{DIGEST}", digest=DIGEST)


@dataclass(frozen=True)
class Slot:
    slot: str
    wave: int = 0
    reason: str = "outdated: 2026.10-1"
    old_instance: str = ""


def slots(*waves: int) -> list[Slot]:
    """``slots(1, 3)``: web-01 in wave 0; web-02, web-03 and web-04 in wave 1."""
    number = 0
    found = []
    for wave, count in enumerate(waves):
        for _ in range(count):
            number += 1
            found.append(Slot(f"web-{number:02d}", wave, old_instance=f"old-{number:02d}"))
    return found


def open_rollout(
    catalog: Catalog, planned: Sequence[Any] | None = None, *, fleet: str = "web", run: str = "run-1", **changes: Any
) -> RolloutRecord:
    arguments: dict[str, Any] = {"settings": {"size": 4}, "actor": "alice", "reason": "monthly refresh", **changes}
    version = arguments.pop("version", V1)
    window = arguments.pop("window", version.window)
    return catalog.rollouts.open(
        fleet, "debian-base", version, window, run, slots(1, 3) if planned is None else planned, **arguments
    )


def claim(
    catalog: Catalog, rollout: RolloutRecord, wave: int = 0, holder: str = "task-1/try-1", *, max_in_flight: int = 1
) -> Ticket | None:
    return catalog.rollouts.claim(rollout.id, wave, holder, lease=LEASE, max_in_flight=max_in_flight)


def must_claim(
    catalog: Catalog, rollout: RolloutRecord, wave: int = 0, holder: str = "task-1/try-1", *, max_in_flight: int = 1
) -> Ticket:
    ticket = claim(catalog, rollout, wave, holder, max_in_flight=max_in_flight)
    assert ticket is not None
    return ticket


def open_image(catalog: Catalog, window: Window = NOVEMBER, run: str = "image-run-1") -> Image:
    return catalog.images.open_candidate("debian-base", window, "inputs", "alice", run=run)


def climb(catalog: Catalog, image: Image, to: Rung = Rung.RELEASED) -> Image:
    for rung in CLIMB[1 : CLIMB.index(to) + 1]:
        image = catalog.images.move(image.family, image.version, rung, actor="alice")
    return image


def release(catalog: Catalog, window: Window = NOVEMBER, run: str = "image-run-1") -> Image:
    image = open_image(catalog, window, run)
    catalog.images.add_artefact(image.family, image.version, ARTEFACT)
    return climb(catalog, image)


def kinds(catalog: Catalog, subject_prefix: str = "") -> list[str]:
    """The kinds of all events about that, oldest first."""
    return [event.kind for event in reversed(catalog.events.list_events(subject_prefix))]
