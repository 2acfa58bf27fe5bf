"""Elastic Load Balancing under the contract tests: a target group with EC2 instances, healthy as a test says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import boto3

from lab import ec2 as lab_ec2
from phoenix_fleet.balancers import elbv2
from phoenix_fleet.domain.models import Backend, Instance, InstanceState
from tests.contract.balancers_labs import STATIC, Traits
from tests.contract.platforms_ec2 import Ec2Lab

_serial = itertools.count(1)


class Elbv2Lab(Traits):
    """A target group of its own, with one target that is not ours."""

    counts = False
    drained = Backend.ABSENT
    addresses_change = False

    def __init__(self, lab: Ec2Lab) -> None:
        self.lab, self.cloud = lab, lab.cloud
        by_hand = boto3.client(
            "elbv2",
            region_name=lab_ec2.REGION,
            endpoint_url=self.cloud.url,
            aws_access_key_id="x",
            aws_secret_access_key="x",
        )
        group = by_hand.create_target_group(
            Name=f"web-{next(_serial)}", Protocol="HTTP", Port=80, VpcId=lab.vpc, TargetType="instance"
        )
        self.arn = str(group["TargetGroups"][0]["TargetGroupArn"])
        self._names = {lab.foreign(STATIC, {}): STATIC}
        (self.static,) = self._names
        self.cloud.set_state(self.static, "running")
        by_hand.register_targets(TargetGroupArn=self.arn, Targets=[{"Id": self.static}])
        by_hand.close()
        self.balancer = self.again()

    def again(self) -> elbv2.Driver:
        return elbv2.Driver(elbv2.Settings(target_group=self.arn), self.lab.connections)

    def instance(self) -> Instance:
        born = self.lab.platform.launch(self.lab.intent())
        self._names[born.id] = born.name
        return self.lab.running(born)

    def look_alike(self, address: str) -> Instance:
        return Instance(self.static, STATIC, "web", "static-01", "2026.11-1", "f" * 32, InstanceState.RUNNING, address)

    def set_health(self, instance: Instance, healthy: bool) -> None:
        self.cloud.health[instance.id] = healthy
        if target := self.cloud.targets.get((self.arn, instance.id)):
            target.healthy = healthy

    def gets_traffic(self, instance: Instance) -> bool:
        target = self.cloud.targets.get((self.arn, instance.id))
        return target is not None and target.healthy and not target.draining and target.initial_reads <= 0

    @contextmanager
    def open_request(self, instance: Instance) -> Iterator[None]:
        target = self.cloud.targets[self.arn, instance.id]
        target.open += 1
        try:
            yield
        finally:
            target.open -= 1

    def names(self) -> set[str]:
        return {self._names[each] for arn, each in self.cloud.targets if arn == self.arn}

    def restart(self) -> None:
        """Somebody empties the group."""
        for key in [key for key in self.cloud.targets if key[0] == self.arn and key[1] != self.static]:
            del self.cloud.targets[key]
