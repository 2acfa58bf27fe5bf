"""What only Elastic Load Balancing can get wrong."""

from __future__ import annotations

import pytest

from phoenix_fleet.domain.errors import InUse, InvalidConfig, InvalidSpec, Throttled, Unavailable
from tests.contract.balancers_elbv2 import Elbv2Lab
from tests.contract.machinery import wait_for


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("initial Elb.InitialHealthChecking", "starting"),
        ("unused Target.NotInUse", "unhealthy"),
        ("unused Target.InvalidState", "unhealthy"),
        ("unhealthy.draining Target.FailedHealthChecks", "unhealthy"),
        ("unavailable Target.HealthCheckDisabled", "unhealthy"),
        ("dreaming", "unhealthy"),
    ],
)
def test_words_of_health(elbv2_lab: Elbv2Lab, told: str, expected: str) -> None:
    who = elbv2_lab.instance()
    elbv2_lab.balancer.admit(who)
    elbv2_lab.cloud.targets[elbv2_lab.arn, who.id].reason = told

    assert elbv2_lab.balancer.state(who).state == expected


def test_removing_a_healthy_one_drains_it_first(elbv2_lab: Elbv2Lab) -> None:
    who = elbv2_lab.instance()
    elbv2_lab.balancer.admit(who)
    wait_for(lambda: elbv2_lab.balancer.state(who).state == "healthy", "health")

    with pytest.raises(InUse):
        elbv2_lab.balancer.remove(who)

    wait_for(lambda: elbv2_lab.balancer.state(who).state == "absent", "the delay")


def test_one_that_ec2_has_forgotten_can_be_removed(elbv2_lab: Elbv2Lab) -> None:
    who = elbv2_lab.instance()
    elbv2_lab.cloud.forget(who.id)
    elbv2_lab.cloud.refuse("DescribeTargetHealth", "InvalidTarget")

    elbv2_lab.balancer.remove(who)

    assert elbv2_lab.balancer.state(who).state == "absent"


def test_one_that_cannot_be_a_target_is_not_absent(elbv2_lab: Elbv2Lab) -> None:
    who = elbv2_lab.instance()
    elbv2_lab.cloud.refuse("DescribeTargetHealth", "InvalidTarget")

    with pytest.raises(InvalidSpec):
        elbv2_lab.balancer.state(who)


def test_a_group_that_is_not_there(elbv2_lab: Elbv2Lab) -> None:
    who = elbv2_lab.instance()
    elbv2_lab.cloud.refuse("DescribeTargetHealth", "TargetGroupNotFound")

    with pytest.raises(InvalidConfig, match="target_group"):
        elbv2_lab.balancer.state(who)


def test_throttling_is_no_bad_health(elbv2_lab: Elbv2Lab) -> None:
    who = elbv2_lab.instance()
    elbv2_lab.cloud.refuse("DescribeTargetHealth", "Throttling")

    with pytest.raises(Throttled):
        elbv2_lab.balancer.state(who)


def test_one_that_does_not_run_yet_waits(elbv2_lab: Elbv2Lab) -> None:
    who = elbv2_lab.instance()
    elbv2_lab.cloud.set_state(who.id, "pending")

    with pytest.raises(Unavailable):
        elbv2_lab.balancer.admit(who)
