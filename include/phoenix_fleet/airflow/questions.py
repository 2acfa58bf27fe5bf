"""The closed questions to the catalog that can be waited for.

Tasks ask them, and while they are deferred the triggerer does. Each answer says yes or no, with what it waits for.
"""

from __future__ import annotations

from collections.abc import Callable
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
    """Whether no other run's rollout of that fleet is open; a halted one counts as free, so that plan can say so."""
    rollout = catalog.rollouts.current(fleet)
    if rollout is None or rollout.run == run or rollout.state != "open":
        return True, f"no other rollout of {fleet} is open"
    return False, f"rollout {rollout.id} of {fleet} to {rollout.version} is open (by {rollout.run})"


QUESTIONS: dict[str, Callable[..., Answer]] = {
    question.__name__: question for question in (release_of_window, family_is_free, fleet_is_free)
}


def ask(catalog: Catalog, question: str, arguments: dict[str, str]) -> Answer:
    """The answer to a question by name."""
    return QUESTIONS[question](catalog, **arguments)
