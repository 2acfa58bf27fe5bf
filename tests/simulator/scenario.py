"""What a seed means: a fleet, how its world behaves, and what goes wrong in it, drawn from one random generator."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

TROUBLES = (
    "lost replies",
    "errors",
    "throttling",
    "lag",
    "slow boots",
    "failed boots",
    "wrong images",
    "sick newcomers",
    "crashed machines",
    "zone failure",
    "monitoring partition",
    "empty listings",
    "expired credentials",
    "dying holders",
    "paused holders",
    "many engines",
    "wrong clocks",
    "clock jumps",
    "terminated by hand",
    "launched by hand",
    "retagged by hand",
    "balancer edits",
    "failing checks",
    "failing configuration",
    "no capacity",
    "halt by a person",
    "cancel by a person",
    "revoked release",
    "stuck connections",
    "catalog away",
)
"""Every kind of trouble there is; a seed mixes some of them."""

BAD_IMAGE = "bad image"
"""Every machine born from the release is sick: drawn by itself, because it decides how the story ends."""


@dataclass(frozen=True)
class Scenario:
    """One seed, spelt out."""

    seed: int
    size: int
    zones: int
    hosts: int
    balanced: bool
    max_surge: str
    max_unavailable: str
    max_in_flight: int
    canary: str
    waves: tuple[str, ...]
    failure_domain: str
    drain_policy: str
    drain_limit: int
    """Seconds, as all times here."""
    watch_time: int
    boot: tuple[float, float]
    stop: float
    start: float
    quantum: float
    """A holder never looks more often than this."""
    engines: int
    foreign: int
    troubles: tuple[str, ...]
    horizon: float
    """Trouble begins between the start and this moment."""

    def fleet(self) -> dict[str, Any]:
        """The fleet file."""
        return {
            "fleet": "web",
            "family": "base",
            "owners": {"team": "shop"},
            "size": self.size,
            "platform": "fake",
            "balancer": "fake" if self.balanced else "none",
            "configurator": "fake",
            "verify": [{"fake": {}}],
            "watch": [{"fake": {}}],
            "watch_time": f"{self.watch_time}s",
            "canary": self.canary,
            "waves": list(self.waves),
            "max_surge": self.max_surge,
            "max_unavailable": self.max_unavailable,
            "max_in_flight": self.max_in_flight,
            "failure_domain": self.failure_domain,
            "drain": {"limit": f"{self.drain_limit}s", "policy": self.drain_policy},
        }

    def lines(self) -> list[str]:
        """For people."""
        where = f"{self.zones} zones" if self.zones else "no zones"
        return [
            f"seed {self.seed}: {self.size} machines, {where}, {'a' if self.balanced else 'no'} balancer, "
            f"surge {self.max_surge}, unavailable {self.max_unavailable}, in flight {self.max_in_flight}, "
            f"canary {self.canary}, waves {', '.join(self.waves)}, watched {self.watch_time} s, "
            f"drain {self.drain_limit} s then {self.drain_policy}, {self.engines} engines, {self.foreign} foreign",
            f"trouble: {', '.join(self.troubles) or 'none'}",
        ]


def draw(seed: int, rng: random.Random, troubles: tuple[str, ...] | None = None, size: int | None = None) -> Scenario:
    """The scenario of that seed; troubles and size can be set from outside."""
    drawn = _size(rng)
    size = size or drawn
    zones = rng.choice((0, 0, 2, 3)) if size > 1 else 0
    if troubles is None:
        kinds = rng.sample(TROUBLES, rng.choice((0, 1, 1, 2, 2, 3, 3, 4, 5, 8)))
        troubles = (BAD_IMAGE, *kinds[:2]) if rng.random() < 0.06 else tuple(kinds)
    surge, unavailable = rng.choice(
        (("1", "0"), ("1", "0"), ("1", "0"), ("1", "1"), ("0", "1"), ("2", "0"), ("10%", "10%"), ("0", "0"))
    )
    if surge == "0" and size < 2 * max(1, zones) and rng.random() < 0.9:
        surge = "1"  # without surge the last one of a zone never goes, and there is little more to tell
    return Scenario(
        seed=seed,
        size=size,
        zones=zones,
        hosts=rng.choice((0, 2)) if zones else 0,
        balanced=rng.random() < 0.9,
        max_surge=surge,
        max_unavailable=unavailable,
        max_in_flight=rng.choice((1, 1, 1, 2, 3, 5)),
        canary=rng.choice(("1", "1", "2", "10%")),
        waves=rng.choice((("100%",), ("50%", "100%"), ("10%", "30%", "100%"))),
        failure_domain=rng.choice(("zone", "zone", "host", "none")),
        drain_policy=rng.choice(("fail", "later", "force")),
        drain_limit=rng.choice((10, 30, 120)),
        watch_time=rng.choice((0, 5, 10, 60)) if size < 50 else rng.choice((5, 10)),
        boot=rng.choice(((1.0, 3.0), (2.0, 8.0), (5.0, 60.0))),
        stop=rng.choice((1.0, 4.0, 20.0)),
        start=rng.choice((0.5, 1.0, 4.0)),
        quantum=rng.choice((2.0, 4.0, 8.0)),
        engines=rng.randint(2, 8) if "many engines" in troubles else rng.choice((1, 1, 1, 2)),
        foreign=200 if rng.random() < 0.02 else rng.randint(0, 6),
        troubles=troubles,
        horizon=min(1800.0, 40.0 + 20.0 * size),
    )


def _size(rng: random.Random) -> int:
    """Many small fleets and a tail up to 200: what can go wrong between machines mostly can between three."""
    chance = rng.random()
    if chance < 0.62:
        return rng.randint(1, 3)
    if chance < 0.93:
        return rng.randint(4, 8)
    if chance < 0.993:
        return rng.randint(9, 24)
    return rng.choice((40, 60, 80, 120, 200))
