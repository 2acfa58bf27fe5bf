"""What the catalog holds when a command is given: a release, a rollout, and how far that has come."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from click.testing import Result

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.domain.ladder import CLIMB
from phoenix_fleet.domain.models import Artefact
from phoenix_fleet.domain.planner import PlannedSlot
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.domain.windows import Version, Window

WINDOW = Window(2026, 11)
VERSION = Version(WINDOW, 1)
DIGEST = "sha256:" + "ab" * 32
Phoenix = Callable[..., Result]


def release(catalog: Catalog, version: Version = VERSION) -> None:
    catalog.images.open_candidate("base", version.window, "inputs", "builder", run=str(version))
    catalog.images.add_artefact("base", version, Artefact("fake", f"registry/base@{DIGEST}", DIGEST))
    for rung in CLIMB[1:]:
        catalog.images.move("base", version, rung, actor="chain")


def open_rollout(catalog: Catalog) -> int:
    slots = [PlannedSlot("web-01", 0, "outdated: 2026.10-1", "old-1"), PlannedSlot("web-02", 1, "empty slot")]
    return catalog.rollouts.open(
        "web", "base", VERSION, WINDOW, "run-1", slots, settings={}, actor="ann", reason="monthly"
    ).id


def replace_first(catalog: Catalog, rollout: int) -> None:
    ticket = catalog.rollouts.claim(rollout, 0, "worker", lease=timedelta(minutes=5), max_in_flight=1)
    assert ticket is not None
    catalog.rollouts.finish(catalog.rollouts.enter(ticket, Step.WATCH, new_instance="new-1"))


def fail_first(catalog: Catalog, rollout: int, reason: str = "2 checks failed") -> None:
    ticket = catalog.rollouts.claim(rollout, 0, "worker", lease=timedelta(minutes=5), max_in_flight=1)
    assert ticket is not None
    catalog.rollouts.fail(catalog.rollouts.enter(ticket, Step.VERIFY), Step.VERIFY, reason)
