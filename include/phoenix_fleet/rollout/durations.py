"""How long a fleet's replacements take, by the catalog's own history: the fleet's, its platform's, or a guess."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from phoenix_fleet.config import Duration, Fleet
from phoenix_fleet.domain.durations import Durations

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog

BESIDE_THE_WATCH = timedelta(seconds=90)
"""What a replacement takes beside its watch time, as long as none of the fleet's was ever measured."""
ENOUGH_BESIDE = 5
"""So many replacements of other fleets on the same platform say more than a guess."""
_DURATION: TypeAdapter[timedelta] = TypeAdapter(Duration)


def durations_of(catalog: Catalog, fleet: Fleet) -> Durations:
    """By the fleet's own last replacements; what they cannot say yet, the platform's others or its timeouts say."""
    own, guess = catalog.rollouts.recent_seconds(fleet.name), guess_by_file(fleet)
    beside = list(_beside(catalog, fleet)) if len(own) < ENOUGH_BESIDE else []
    if len(beside) >= ENOUGH_BESIDE:
        # However many they are: this fleet is another one, so they are worth one measurement of it.
        guess = replace(Durations.measured(beside, guess), known=1)
    return Durations.measured(own, guess)


def durations_by_name(catalog: Catalog, fleet: str) -> Durations:
    """The same for a fleet whose file cannot be read."""
    guess = Durations.guess(BESIDE_THE_WATCH, 3 * BESIDE_THE_WATCH)
    return Durations.measured(catalog.rollouts.recent_seconds(fleet), guess)


def guess_by_file(fleet: Fleet) -> Durations:
    """Usually little more than the watch time; one in twenty takes a quarter of what the steps may take."""
    times, typical = fleet.timeouts, fleet.watch_time + BESIDE_THE_WATCH
    most = times.ready + times.configure + times.verify + times.admit + times.terminate + fleet.drain.limit
    most += times.volumes if fleet.volumes else timedelta()
    return Durations.guess(typical, typical + most / 4)


def _beside(catalog: Catalog, fleet: Fleet) -> Iterator[float]:
    """Seconds of others on the platform, as if they had watched as long as this fleet does."""
    for watch_time, seconds in catalog.rollouts.recent_seconds_beside(fleet.name, fleet.runs_on.name):
        try:
            watched = _DURATION.validate_python(watch_time)
        except ValidationError:  # a file from another version of ours
            continue
        yield max(1.0, seconds - watched.total_seconds()) + fleet.watch_time.total_seconds()
