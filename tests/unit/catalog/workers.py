"""What competing threads and processes do to one catalog. Each returns something that can travel between processes."""

from __future__ import annotations

import time

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.domain.errors import Busy
from phoenix_fleet.domain.steps import Step
from tests.unit.catalog.helpers import LEASE, open_image, open_rollout


def migrate(url: str, number: int) -> str:
    with Catalog(url) as catalog:
        catalog.migrate()
        return str(catalog.events.head().count)


def replace_all(url: str, number: int) -> list[str]:
    """Replace machines of rollout 1 until none is left; the slots that this one did."""
    done: list[str] = []
    with Catalog(url) as catalog:
        while True:
            try:
                ticket = catalog.rollouts.claim(1, 0, f"task-{number}/try-1", lease=LEASE, max_in_flight=3)
            except Busy:
                time.sleep(0.005)
                continue
            if ticket is None:
                return done
            catalog.rollouts.enter(ticket, Step.LAUNCH, new_instance=f"new-{ticket.slot}")
            catalog.intents.begin("launch", ticket.slot, {}, ticket=ticket, purpose="rollout-1")
            catalog.rollouts.finish(ticket)
            done.append(ticket.slot)


def claim_one(url: str, number: int) -> str:
    """One try for a ticket of rollout 1."""
    with Catalog(url) as catalog:
        try:
            ticket = catalog.rollouts.claim(1, 0, f"task-{number}/try-2", lease=LEASE, max_in_flight=1)
        except Busy:
            return "busy"
    return ticket.holder if ticket is not None else "none"


def open_same_run(url: str, number: int) -> str:
    with Catalog(url) as catalog:
        return str(open_rollout(catalog).id)


def open_other_run(url: str, number: int) -> str:
    with Catalog(url) as catalog:
        try:
            return open_rollout(catalog, run=f"run-{number}").run
        except Busy:
            return "busy"


def open_same_candidate(url: str, number: int) -> str:
    with Catalog(url) as catalog:
        return str(open_image(catalog).version)


def open_other_candidate(url: str, number: int) -> str:
    with Catalog(url) as catalog:
        try:
            return open_image(catalog, run=f"run-{number}").run
        except Busy:
            return "busy"


def begin_same_intent(url: str, number: int) -> str:
    with Catalog(url) as catalog:
        return str(catalog.intents.begin("tag_image", "x", {}, ticket=None, purpose="release").id)
