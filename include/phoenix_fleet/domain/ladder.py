"""The ladder an image climbs: ``candidate → tested → certified → staged → released``, or ``rejected``."""

from __future__ import annotations

from enum import StrEnum
from itertools import pairwise

from phoenix_fleet.domain.errors import IllegalTransition


class Rung(StrEnum):
    """Where an image stands."""

    CANDIDATE = "candidate"
    TESTED = "tested"
    CERTIFIED = "certified"
    STAGED = "staged"
    RELEASED = "released"
    REJECTED = "rejected"
    REVOKED = "revoked"
    RETIRED = "retired"


CLIMB = (Rung.CANDIDATE, Rung.TESTED, Rung.CERTIFIED, Rung.STAGED, Rung.RELEASED)

_MOVES: dict[Rung, frozenset[Rung]] = {
    **{rung: frozenset({above, Rung.REJECTED}) for rung, above in pairwise(CLIMB)},
    Rung.RELEASED: frozenset({Rung.REVOKED, Rung.RETIRED}),
    Rung.REJECTED: frozenset({Rung.RETIRED}),
    Rung.REVOKED: frozenset({Rung.RETIRED}),
    Rung.RETIRED: frozenset(),
}


def check_move(current: Rung, target: Rung) -> None:
    """Return if an image may go from ``current`` to ``target``; staying put is allowed (idempotent).

    :raises IllegalTransition: otherwise, naming the moves that are allowed.
    """
    if target == current or target in _MOVES[current]:
        return
    allowed = ", ".join(sorted(_MOVES[current])) or "none: it is the last rung"
    raise IllegalTransition(
        f"An image on rung '{current}' may not move to '{target}'.", remedy=f"Allowed from here: {allowed}."
    )


def has_reached(current: Rung, required: Rung) -> bool:
    """Whether an image on ``current`` has climbed at least to ``required``; off the ladder it never has."""
    return current in CLIMB and CLIMB.index(current) >= CLIMB.index(required)
