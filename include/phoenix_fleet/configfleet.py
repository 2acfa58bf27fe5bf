"""Parts of a fleet file: its slots, how long steps may take, and what stops its rollouts."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field

from phoenix_fleet.configfields import Count, Duration, Frozen, Portion


class Brake(Frozen):
    """When a rollout stops at once, because so much is wrong that a person must look."""

    share: Portion = Field(
        "20%",
        description="More slots than this out of service halt the rollout: a share of the fleet or a count, rounded "
        "down. 100%: never. Default: 20%.",
    )
    at_least: Count = Field(
        5, ge=1, description="Fewer slots than this never halt it, unless they are the whole fleet. Default: 5."
    )
    blind_for: Duration = Field(
        timedelta(minutes=10),
        description="How long platform or balancer may give no complete view before the rollout is halted. "
        "Nothing is touched meanwhile. Default: 10m.",
    )


class Drain(Frozen):
    """When an old instance's connections have had time enough."""

    limit: Duration = Field(timedelta(minutes=5), description="How long open connections may take. Default 5m.")
    policy: Literal["fail", "later", "force"] = Field(
        "fail",
        description="At the limit: halt, come back at the end, or terminate all the same. Default: fail.",
    )


class Timeouts(Frozen):
    """How long each step of a replacement may take before it has failed."""

    ready: Duration = Field(timedelta(minutes=5), description="Until running, reachable, identity known.")
    configure: Duration = Field(timedelta(minutes=20), description="One run of the configurator.")
    verify: Duration = Field(timedelta(minutes=10), description="The fleet's checks.")
    admit: Duration = Field(timedelta(minutes=5), description="Until the balancer finds it healthy.")
    terminate: Duration = Field(timedelta(minutes=10), description="Until gone for certain.")
    volumes: Duration = Field(
        timedelta(minutes=30),
        description="In addition, until an instance is down and its data volumes are copied and free, and until they "
        "are attached. Only where there are any.",
    )
    quorum: Duration = Field(timedelta(minutes=10), description="Until the quorum gates pass after a replacement.")


def slot_names(fleet: str, size: int) -> list[str]:
    """``web-01``, …: as many digits as the size needs, at least two."""
    width = max(2, len(str(size)))
    return [f"{fleet}-{number:0{width}d}" for number in range(1, size + 1)]
