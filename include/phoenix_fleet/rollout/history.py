"""How often a fleet's replacements fail and how long its halts last, by the catalog's own events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from phoenix_fleet.domain.montecarlo import Trouble

if TYPE_CHECKING:
    from phoenix_fleet.catalog import Catalog
    from phoenix_fleet.catalog.records import EventRecord

_LOOKED_AT = 20_000
"""So many of a fleet's newest events are looked at."""
_GUESSED_RATE, _GUESS_WEIGHS = 0.01, 50
"""One in a hundred attempts fails, which weighs as much as this many attempts that were seen."""
_GUESSED_REPAIR = timedelta(hours=4)


@dataclass(frozen=True)
class History:
    """What went well and what did not."""

    done: int
    failed: int
    """Attempts that failed, each of which halted its rollout."""
    halts: tuple[timedelta, ...]
    """How long each halt lasted that somebody resumed, whoever had made it."""

    @property
    def trouble(self) -> Trouble:
        """What to expect; a guess makes up for what little history cannot say."""
        rate = (self.failed + _GUESSED_RATE * _GUESS_WEIGHS) / (self.done + self.failed + _GUESS_WEIGHS)
        repair = sum(self.halts, timedelta()) / len(self.halts) if self.halts else _GUESSED_REPAIR
        return Trouble(rate, repair)


def history_of(catalog: Catalog, fleet: str, rollout_id: int | None = None) -> History:
    """Of all its rollouts that the catalog still tells of, or of that one."""
    prefix = f"fleets/{fleet}/rollouts/"
    events = catalog.events.list_events(prefix if rollout_id is None else f"{prefix}{rollout_id}", limit=_LOOKED_AT)
    if rollout_id is not None:  # 1 is also the beginning of 17
        own = f"{prefix}{rollout_id}"
        events = [each for each in events if each.subject == own or each.subject.startswith(f"{own}/")]
    return _read(reversed(events))


def _read(events: Iterable[EventRecord]) -> History:
    done = failed = 0
    standing, halts = dict[str, datetime](), list[timedelta]()
    for event in events:
        if event.kind == "slot.done":
            done += 1
        elif event.kind == "slot.failed":
            failed += 1
        elif event.kind == "rollout.halted":
            standing[event.subject] = event.at
        elif event.kind == "rollout.resumed" and event.subject in standing:
            halts.append(event.at - standing.pop(event.subject))
    return History(done, failed, tuple(halts))
