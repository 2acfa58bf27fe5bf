from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_fleet.domain.verdicts import Measurement, Verdict, judge, worst


@pytest.mark.parametrize(
    ("passed", "error", "expected"),
    [
        (True, "", Verdict.PASSED),
        (False, "", Verdict.FAILED),
        (None, "", Verdict.INCONCLUSIVE),
        (True, "no such tool", Verdict.ERROR),
        (False, "no such tool", Verdict.ERROR),
        (None, "no such tool", Verdict.ERROR),
    ],
)
def test_judge(passed: bool | None, error: str, expected: Verdict) -> None:
    assert judge(Measurement(value="", passed=passed, error=error)) is expected


@pytest.mark.parametrize(("one", "other"), list(itertools.product(Verdict, Verdict)))
def test_the_worst_of_two_wins(one: Verdict, other: Verdict) -> None:
    order = ["passed", "inconclusive", "error", "failed"]
    assert str(worst([one, other])) == max(str(one), str(other), key=order.index)


def test_nothing_measured_is_nothing_proven() -> None:
    assert worst([]) is Verdict.ERROR


@given(st.lists(st.sampled_from(Verdict), min_size=1))
def test_passed_only_if_all_passed(verdicts: list[Verdict]) -> None:
    assert (worst(verdicts) is Verdict.PASSED) == all(verdict is Verdict.PASSED for verdict in verdicts)
