from __future__ import annotations

import itertools

import pytest

from phoenix_fleet.domain.errors import IllegalTransition
from phoenix_fleet.domain.ladder import CLIMB, Rung, check_move, has_reached

ALLOWED = {
    (Rung.CANDIDATE, Rung.TESTED),
    (Rung.TESTED, Rung.CERTIFIED),
    (Rung.CERTIFIED, Rung.STAGED),
    (Rung.STAGED, Rung.RELEASED),
    (Rung.CANDIDATE, Rung.REJECTED),
    (Rung.TESTED, Rung.REJECTED),
    (Rung.CERTIFIED, Rung.REJECTED),
    (Rung.STAGED, Rung.REJECTED),
    (Rung.RELEASED, Rung.REVOKED),
    (Rung.RELEASED, Rung.RETIRED),
    (Rung.REJECTED, Rung.RETIRED),
    (Rung.REVOKED, Rung.RETIRED),
}


@pytest.mark.parametrize(("current", "target"), list(itertools.product(Rung, Rung)))
def test_every_pair_of_rungs(current: Rung, target: Rung) -> None:
    if current == target or (current, target) in ALLOWED:
        check_move(current, target)
    else:
        with pytest.raises(IllegalTransition, match=f"'{current}'.*'{target}'.*Allowed from here"):
            check_move(current, target)


@pytest.mark.parametrize(("current", "required"), list(itertools.product(Rung, CLIMB)))
def test_reached_means_on_the_ladder_and_at_least_there(current: Rung, required: Rung) -> None:
    expected = current in CLIMB and list(CLIMB).index(current) >= list(CLIMB).index(required)
    assert has_reached(current, required) is expected


def test_what_fell_off_the_ladder_has_reached_nothing() -> None:
    for rung in (Rung.REJECTED, Rung.REVOKED, Rung.RETIRED):
        assert not has_reached(rung, Rung.CANDIDATE)
