from __future__ import annotations

import pytest

from phoenix_fleet.domain.steps import Step, order


@pytest.mark.parametrize("max_surge", [1, 2, 50])
def test_with_room_for_an_extra_instance_the_new_one_comes_first(max_surge: int) -> None:
    assert " ".join(order(max_surge)) == "check launch ready configure verify admit watch drain terminate"


def test_without_room_the_old_one_goes_first() -> None:
    assert " ".join(order(0)) == "check drain terminate launch ready configure verify admit watch"


@pytest.mark.parametrize("max_surge", [0, 1])
def test_every_step_is_taken_once(max_surge: int) -> None:
    assert sorted(order(max_surge)) == sorted(Step)


def test_less_than_nothing_is_no_surge() -> None:
    with pytest.raises(ValueError, match="-1"):
        order(-1)
