"""Whether new is worse than old, or only looks so: two one-sided tests that need no more than the standard library."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

_NEGLIGIBLE = 1e-18
"""Of the whole: what the sum of floats does not notice any more."""


def failures_p_value(new: tuple[int, int], old: tuple[int, int], margin: float = 0.0) -> float:
    """How likely so many failures, or more, are in the new ones if their odds are at most ``1 + margin`` times the old.

    Fisher's exact test, one-sided: given the failures of both together, those of the new ones follow the hypergeometric
    distribution, with odds ratio ``1 + margin`` Fisher's non-central one (R. A. Fisher, *The logic of inductive
    inference*, 1935; Agresti, *Categorical Data Analysis*, §3.5). Exact for any counts, so it keeps its level where the
    normal approximation of two proportions does not: few failures, and many more requests to the old ones.

    :param new: failures, and all requests with them
    :param old: the same of those compared with
    """
    (failed, requests), (failed_old, requests_old) = new, old
    if not (0 <= failed <= requests and 0 <= failed_old <= requests_old) or not margin >= 0:
        raise ValueError(f"not counts of failures among requests: {new}, {old}, margin {margin}")
    both, odds = failed + failed_old, 1 + margin
    lowest, highest = max(0, both - requests_old), min(requests, both)

    def ratio(count: int) -> float:
        """The weight of ``count`` through that of ``count - 1``."""
        return odds * (requests - count + 1) * (both - count + 1) / (count * (requests_old - both + count))

    # From the mode outwards, so that no factorial is ever seen and the sums end where nothing is left to add.
    mode = _last(lowest, highest, lambda count: ratio(count) >= 1)
    whole, tail = 1.0, 1.0 if mode >= failed else 0.0
    for step, end in ((1, highest), (-1, lowest)):
        count, weight = mode, 1.0
        while count != end and weight > _NEGLIGIBLE:
            weight = weight * ratio(count + 1) if step > 0 else weight / ratio(count)
            count += step
            whole += weight
            tail += weight if count >= failed else 0.0
    return min(1.0, tail / whole)


def _last(lowest: int, highest: int, rises: Callable[[int], bool]) -> int:
    """The last count up to which a sequence rises that falls from there on."""
    while lowest < highest:
        middle = (lowest + highest + 1) // 2
        lowest, highest = (middle, highest) if rises(middle) else (lowest, middle - 1)
    return lowest


def greater_p_value(new: Sequence[float], old: Sequence[float]) -> float:
    """How likely the new values stand so far above the old ones, or further, if both are alike.

    Mann-Whitney U, one-sided, by the normal approximation with correction for ties and for continuity (H. B. Mann and
    D. R. Whitney, *On a test of whether one of two random variables is stochastically larger*, 1947; ties as in
    Hollander and Wolfe, *Nonparametric Statistical Methods*, §4.1). Good from eight values on each side.
    """
    if not new or not old or not all(map(math.isfinite, (*new, *old))):
        raise ValueError("both sides need values, and finite ones")
    ranked = sorted([(value, True) for value in new] + [(value, False) for value in old], key=lambda pair: pair[0])
    count, count_new, count_old = len(ranked), len(new), len(old)
    ranks, ties, start = 0.0, 0, 0
    while start < count:
        end = start
        while end < count and ranked[end][0] == ranked[start][0]:
            end += 1
        # Equal values share the mean of their ranks, which are counted from 1.
        ranks += (start + end + 1) / 2 * sum(is_new for _, is_new in ranked[start:end])
        ties += (end - start) ** 3 - (end - start)
        start = end
    above = ranks - count_new * (count_new + 1) / 2
    variance = count_new * count_old / 12 * (count + 1 - ties / (count * (count - 1)))
    if variance <= 0:
        return 1.0  # all are equal, so nothing stands above anything
    return NormalDist().cdf(-(above - count_new * count_old / 2 - 0.5) / math.sqrt(variance))
