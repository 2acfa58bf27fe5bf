"""What a campaign is judged by: pure functions over what was seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

from phoenix_fleet.catalog.records import EventRecord

RECOVERY_LIMIT = 90.0
"""Seconds that a fleet may stand still after a blow."""
_PROGRESS = (
    "slot.step",
    "slot.done",
    "intent.begun",
    "intent.repeated",
    "intent.ended",
    "rollout.opened",
    "rollout.done",
)
_WAITS = {"blind_since", "held", "held_until", "launch_unanswered"}
"""Facts that a replacement notes when it gets no further."""


def is_progress(event: EventRecord) -> bool:
    """Whether a rollout got on by it: who takes a ticket, or writes down what it waits for, has moved nothing yet."""
    noted = set(event.payload.get("facts") or {})
    return event.kind in _PROGRESS and not (noted and noted <= _WAITS)


@dataclass(frozen=True)
class Span:
    """From one moment to another."""

    begin: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end - self.begin).total_seconds()


def recovery(blow_end: datetime, progress: Iterable[datetime]) -> float | None:
    """Seconds from the end of the blow to the first progress after it; None if there was none."""
    after = [moment for moment in progress if moment >= blow_end]
    return (min(after) - blow_end).total_seconds() if after else None


def longest_standstill(marks: Sequence[datetime], stopped: Sequence[Span]) -> float:
    """The longest time in seconds between two marks, less what was spent in stops, which are no one's fault."""
    ordered = sorted(marks)
    gaps = [Span(*pair) for pair in pairwise(ordered)]
    return max((gap.seconds - sum(_overlap(gap, span) for span in stopped) for gap in gaps), default=0.0)


def _overlap(one: Span, other: Span) -> float:
    return max(0.0, (min(one.end, other.end) - max(one.begin, other.begin)).total_seconds())


@dataclass
class Births:
    """Every container of the fleet that was born and has gone, as the engine tells it."""

    tokens: dict[str, list[str]] = field(default_factory=dict)
    """Ids by token, in the order of their birth."""
    alive: set[str] = field(default_factory=set)
    most_alive: int = 0

    def born(self, container: str, token: str) -> None:
        """A container was created. Told twice of the same one it counts once."""
        known = self.tokens.setdefault(token, [])
        if container in known:
            return
        known.append(container)
        self.alive.add(container)
        self.most_alive = max(self.most_alive, len(self.alive))

    def standing(self, container: str) -> None:
        """It was there before anybody looked."""
        self.alive.add(container)
        self.most_alive = max(self.most_alive, len(self.alive))

    def gone(self, container: str) -> None:
        """It was removed."""
        self.alive.discard(container)

    @property
    def doubles(self) -> list[str]:
        """Tokens that more than one container was ever born with: a replacement's attempt launched twice."""
        return sorted(token for token, ids in self.tokens.items() if len(ids) > 1)

    def without_intent(self, intended: Iterable[str]) -> list[str]:
        """Tokens of containers that no launch in the catalog explains."""
        return sorted(set(self.tokens) - set(intended))


@dataclass(frozen=True)
class Rest:
    """What there is when nothing is under way."""

    containers: Mapping[str, Sequence[str]]
    """Names of the fleet's containers by slot."""
    servers: Sequence[str]
    """Names of the balancer's servers."""
    pending: int
    """Intents whose outcome is not known."""
    held: int
    """Slots that somebody still holds a ticket for."""
    chain: str = ""
    """What is wrong with the event chain; empty if nothing."""


def leaks(rest: Rest, slots: Sequence[str]) -> list[str]:
    """What is there and should not be, or is missing, in words; empty at best."""
    found = []
    for slot in sorted({*slots, *rest.containers}):
        names = rest.containers.get(slot, ())
        wanted = 1 if slot in slots else 0
        if len(names) != wanted:
            found.append(f"{slot} has {len(names)} containers instead of {wanted}: {', '.join(names) or 'none'}")
    standing = sorted(name for names in rest.containers.values() for name in names)
    if sorted(rest.servers) != standing:
        found.append(f"the balancer has {sorted(rest.servers)}, the engine {standing}")
    if rest.pending:
        found.append(f"{rest.pending} intents without an outcome")
    if rest.held:
        found.append(f"{rest.held} tickets still held")
    if rest.chain:
        found.append(rest.chain)
    return found


def faults_of_births(births: Births, intended: Iterable[str], most: int) -> list[str]:
    """What the engine's own record says against us: double launches, births without an intent, too many at once."""
    found = [f"launched twice: {token}" for token in births.doubles]
    found += [f"born without an intent: {token}" for token in births.without_intent(intended)]
    if births.most_alive > most:
        found.append(f"{births.most_alive} containers at once, at most {most} are allowed")
    return found
