"""Parts of a fleet file: what stops its rollouts."""

from __future__ import annotations

from datetime import timedelta

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
