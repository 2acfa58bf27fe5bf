"""What is played of that which does not fit into CI's hour: a part that changes from day to day, or the whole.

``scripts/test --whole`` (PHOENIX_WHOLE=1) plays all of it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeVar

import pytest

Thing = TypeVar("Thing")

WHOLE = bool(os.environ.get("PHOENIX_WHOLE"))


def sample(things: Sequence[Thing], count: int) -> list[Thing]:
    """So many of them, in their order, others every day until all have been played; or all."""
    if WHOLE or count >= len(things):
        return list(things)
    first = datetime.now(UTC).toordinal() * count
    chosen = {(first + number) % len(things) for number in range(count)}
    return [thing for number, thing in enumerate(things) if number in chosen]


MACHINES = ("qemu", "ec2", "vmware", "kubernetes")


def machines_of_the_day(kind: str) -> pytest.MarkDecorator:
    """The mark of end-to-end tests on that kind of machines: each is played every fourth day, or when everything is."""
    reason = f"played every fourth day: {', '.join(MACHINES)}; now: scripts/test --whole"
    return pytest.mark.skipif(kind not in sample(MACHINES, 1), reason=reason)
