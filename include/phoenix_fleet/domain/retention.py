"""Which snapshots of a data volume may go: the oldest of those that rollouts asked for, and never the last few."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from phoenix_fleet.domain.volumes import Snapshot

SETTLED = timedelta(days=1)
"""A younger one is kept beside those that are counted: its copying may still be under way, and fail."""


@dataclass(frozen=True)
class Asked:
    """How a snapshot came to be."""

    purpose: str
    """What it was asked for: ``rollout-17``."""
    at: datetime


def surplus(
    snapshots: Iterable[Snapshot], asked: Mapping[str, Asked], *, keep: int, alive: Collection[str], now: datetime
) -> list[Snapshot]:
    """Those of one volume that may go, oldest first.

    Kept are the newest ``keep`` that are settled, younger ones, those of purposes that are ``alive``, what has failed
    or is not taken yet, and whatever nobody is known to have asked for.

    :param asked: by the snapshots' tokens; of a token that is not there nothing is known.
    """
    settled = [each for each in snapshots if each.taken and each.token in asked]
    settled = [each for each in settled if asked[each.token].at <= now - SETTLED]
    by_age = sorted(settled, key=lambda each: (asked[each.token].at, each.id))
    old = by_age[: max(0, len(by_age) - max(1, keep))]
    return [each for each in old if asked[each.token].purpose not in alive]
