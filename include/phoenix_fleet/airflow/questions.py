"""The closed questions to the catalog that can be waited for.

Tasks ask them, and while they are deferred the triggerer does. Each answer says yes or no, with what it waits for.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from phoenix_fleet.domain.windows import Window

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog

Answer = tuple[bool, str]


def release_of_window(catalog: Catalog, *, family: str, window: str) -> Answer:
    """Whether a release for that window, or a newer one, exists."""
    image = catalog.images.release_for(family, Window.parse(window))
    if image is None:
        return False, f"no release of {family} for {window} yet"
    return True, f"{image} is released"


def family_is_free(catalog: Catalog, *, family: str, run: str) -> Answer:
    """Whether no other run has a candidate of that family under way."""
    image = catalog.images.in_flight(family)
    if image is None or image.run == run:
        return True, f"no other candidate of {family} is under way"
    return False, f"{image} is under way ({image.rung}, by {image.run})"


def fleet_is_free(catalog: Catalog, *, fleet: str, run: str) -> Answer:
    """Whether it is the run's turn: no other run's rollout of that fleet is open, and none goes first.

    A halted one counts as free once nobody is at it any more, so that plan can say so; and so does being superseded.
    """
    place = catalog.queue.find(fleet, run)
    if place is not None and place.state == "superseded":
        return True, place.note
    rollout = catalog.rollouts.current(fleet)
    if rollout is None or rollout.run == run:
        return _goes_first(catalog, fleet, run)
    name = f"rollout {rollout.id} of {fleet} to {rollout.version}"
    if rollout.state == "open":
        paused = f", paused by {rollout.paused_by}: {rollout.paused_reason}" if rollout.paused_by else ""
        return False, f"{name} is open (by {rollout.run}){paused}"
    now = datetime.now(UTC)
    busy = [each for each in catalog.rollouts.under_way(rollout.id) if each.lease_until and each.lease_until > now]
    if busy:
        return False, f"{name} is halted, and {busy[0].holder} has not let go of {busy[0].slot} yet"
    return True, f"no other rollout of {fleet} is open"


def _goes_first(catalog: Catalog, fleet: str, run: str) -> Answer:
    """Whether no rollback or emergency of another run waits too."""
    for other in catalog.queue.waiting(fleet):
        if other.run == run and other.kind != "refresh":
            break
        if other.run != run and other.kind != "refresh":
            return False, f"the {other.kind} of {other.run} to {other.version} goes first"
    return True, f"no other rollout of {fleet} is open"


QUESTIONS: dict[str, Callable[..., Answer]] = {
    question.__name__: question for question in (release_of_window, family_is_free, fleet_is_free)
}


def ask(catalog: Catalog, question: str, arguments: dict[str, str]) -> Answer:
    """The answer to a question by name."""
    return QUESTIONS[question](catalog, **arguments)
