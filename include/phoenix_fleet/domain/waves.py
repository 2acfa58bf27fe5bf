"""Waves and budgets: how many go first, how many may be extra, how many may be missing.

All counts come from the size of the fleet as it was when the rollout started, so they never move under way.
What takes capacity away is rounded down before it gets here, what adds caution is rounded up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """How far a fleet may leave its size while a rollout is under way, in instances."""

    max_surge: int
    """Extra instances allowed."""
    max_unavailable: int
    """Missing instances allowed."""


def budget(max_surge: int, max_unavailable: int) -> Budget:
    """Both limits, never below zero; with both at zero nothing could ever move, so one may be missing."""
    surge, unavailable = count(max_surge), count(max_unavailable)
    return Budget(surge, unavailable if surge or unavailable else 1)


def count(number: object) -> int:
    """The number as a count, never below zero; what is no count (NaN or infinity from arithmetic, say) is none."""
    return max(0, number) if isinstance(number, int) and not isinstance(number, bool) else 0


def wave_of(position: int, canary: int, cumulative: Sequence[int]) -> int:
    """The wave of the replacement at ``position`` (from 0): 0 is the canary, then one wave per cumulative count.

    A canary of less than one is one. Whatever the last count leaves over belongs to the last wave.
    """
    if position < max(1, canary):
        return 0
    for number, count in enumerate(cumulative, start=1):
        if position < count:
            return number
    return max(1, len(cumulative))
