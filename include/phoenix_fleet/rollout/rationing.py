"""What the platform takes in an hour: a launch beyond that waits until one of those before is an hour old.

Kept by us, because a platform answers what is too much with errors that hit everybody on the same account.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from phoenix_fleet.domain.errors import Throttled
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.rollout.progress import LONG_PATIENCE, SOON, Waiting

if TYPE_CHECKING:
    from phoenix_fleet.catalog.database import Transaction
    from phoenix_fleet.rollout.replacement import Replacement

HOUR = timedelta(hours=1)


class Rationed(Throttled):
    """The fleet has launched as many instances within an hour as it may; nothing was called."""

    def __init__(self, rate: int, opens: datetime) -> None:
        super().__init__(f"the quota of {rate} {'launch' if rate == 1 else 'launches'} an hour is used up")
        self.opens = opens


def rate_of(work: Replacement) -> int | None:
    """Most launches in an hour: the fleet file's, or else the driver's; None for no limit."""
    return work.fleet.quota.over(work.deps.platform.limits).launches_per_hour


def find_rationed(work: Replacement) -> Waiting | None:
    """What to wait for before this replacement begins; None if it may launch, those about to launch counted in."""
    rate = rate_of(work)
    if rate is None:
        return None
    rollouts, now = work.deps.catalog.rollouts, work.now
    under_way = rollouts.under_way(work.rollout.id)
    ahead = sum(each.step not in (None, Step.CHECK) and not each.new_instance for each in under_way)
    launches = work.deps.catalog.intents.launches(work.fleet.name, now - HOUR)
    opens = _opens([moment for moment, _ in launches] + [now] * ahead, rate, now)
    return None if opens is None else waiting(work, Rationed(rate, opens))


def check_ration(work: Replacement, token: str) -> Callable[[Transaction], None] | None:
    """To be asked within the transaction that begins the launch, so that no two share the last place.

    It raises ``Rationed``. A launch begun before is the same launch, and always goes on.
    """
    rate = rate_of(work)
    if rate is None:
        return None

    def check(tx: Transaction) -> None:
        launches = work.deps.catalog.intents.launches(work.fleet.name, tx.now - HOUR, tx)
        opens = _opens([moment for moment, _ in launches], rate, tx.now)
        if opens is not None and token not in [known for _, known in launches]:
            raise Rationed(rate, opens)

    return check


def waiting(work: Replacement, rationed: Rationed) -> Waiting:
    """Until there is room again, however long that takes."""
    left = rationed.opens - work.now
    told = f"{rationed}; the next may go at {rationed.opens:%Y-%m-%d %H:%M} UTC"
    return Waiting(told, max(min(left, LONG_PATIENCE), SOON), {"held_until": work.now.isoformat()}, patient=True)


def _opens(launches: list[datetime], rate: int, now: datetime) -> datetime | None:
    """When the next may go; None if it may go now. All those within the last hour are given.

    One that a clock gone wrong has put into the future was at the latest now.
    """
    return None if len(launches) < rate else min(sorted(launches)[-rate], now) + HOUR
