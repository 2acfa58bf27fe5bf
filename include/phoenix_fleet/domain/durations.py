"""How long replacements take: percentiles of what was measured, or a guess by what the fleet file allows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

P95 = 1.645
"""The 95th percentile of the normal distribution, in standard deviations."""
ENOUGH = 20
"""From so many measurements on, their own 95th percentile says more than any assumption about their shape."""
TRUSTED = 30
"""More measurements than this say no more about the next ones: machines, images and hours of the day change."""
_MOST_DOUBT = 1.5
"""How many powers of e the mean may be off, by one standard deviation, for each measurement that it rests on."""
_DOUBT = 4
"""How many measurements the guessed spread weighs as much as."""


@dataclass(frozen=True)
class Durations:
    """How long one replacement takes, as a distribution."""

    typical: timedelta
    """The median."""
    slow: timedelta
    """The 95th percentile."""
    mean: timedelta
    spread: float
    """The standard deviation as a share of the mean."""
    known: float = 0.5
    """How many measurements it rests on; a guess is worth less than one."""

    @classmethod
    def guess(cls, typical: timedelta, slow: timedelta) -> Durations:
        """Log-normal with that median and that 95th percentile."""
        typical = max(typical, timedelta(seconds=1))
        sigma = math.log(max(slow, typical) / typical) / P95
        return cls(typical, max(slow, typical), typical * math.exp(sigma**2 / 2), math.sqrt(math.expm1(sigma**2)))

    @classmethod
    def measured(cls, seconds: Sequence[float], guess: Durations) -> Durations:
        """By measurements, the guess making up for what few of them cannot say; the guess itself if there are none."""
        if not seconds:
            return guess
        typical, count = max(1.0, statistics.median(seconds)), len(seconds)
        if count >= ENOUGH:
            slow = statistics.quantiles(seconds, n=20, method="inclusive")[-1]
            # One that stood halted over a weekend says nothing about the pace.
            seconds = [min(each, 2 * slow) for each in seconds]
        mean = max(1.0, statistics.fmean(seconds))
        own = math.sqrt(math.fsum((each - mean) ** 2 for each in seconds) / count) / mean
        spread = math.sqrt((count * own**2 + _DOUBT * guess.spread**2) / (count + _DOUBT))
        if count < ENOUGH:
            slow = typical * math.exp(P95 * math.sqrt(math.log1p(spread**2)))
        return cls(
            timedelta(seconds=typical),
            timedelta(seconds=max(slow, typical)),
            timedelta(seconds=mean),
            spread,
            min(count, TRUSTED),
        )

    def each_of(self, count: int, deviations: float) -> float:
        """How many seconds each of ``count`` takes on average, that many standard deviations from the expected.

        Chance evens out over many, what is not known of the mean does not; that is held within bounds, as a
        guess by the timeouts of all steps together would have every fleet without a history miss its deadline.
        """
        doubt = min(self.spread, _MOST_DOUBT) * math.sqrt(1 / max(1, count) + 1 / self.known)
        return self.mean.total_seconds() * math.exp(deviations * doubt)
