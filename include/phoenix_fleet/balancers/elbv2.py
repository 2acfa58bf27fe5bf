"""Elastic Load Balancing (Application and Network Load Balancers): EC2 instances come and go in a target group.

The target group is the administrator's: target type ``instance``, used by a load balancer in every zone of the fleet,
with health checks and with the deregistration delay that the service needs (60 s, say; Amazon's default is 300 s). The
fleet's drain limit must be longer than that delay.

How connections are reported: Elastic Load Balancing tells no number of them for a target. A target that is being
deregistered is shown as draining until the delay is over, even if its last connection has ended before
(https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-target-group-attributes.html#deregistration-delay),
so ``state`` says ``draining`` with one connection for "not known to be none", and ``absent`` with none after it. Of
any other target it says none, which is no reason to terminate it: it has to be drained first.

Whose a target is, the group does not tell. It is ours if EC2 says that the instance is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from phoenix_fleet import aws
from phoenix_fleet.balancers.base import Balancer
from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.errors import InUse, InvalidConfig, InvalidSpec, NotFound, NotOurs, Unavailable
from phoenix_fleet.domain.models import OWNER, Backend, BackendStatus, Instance

_OWNER_MARK, _TOKEN_MARK = "phoenix.owner", "phoenix.token"
_INSTANCE_ID = re.compile(r"i-(?:[0-9a-f]{8}|[0-9a-f]{17})")

# https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetHealth.html
_STATES = {
    "initial": Backend.STARTING,
    "healthy": Backend.HEALTHY,
    "unhealthy": Backend.UNHEALTHY,
    "unhealthy.draining": Backend.UNHEALTHY,  # its connections are being closed because it is sick; still registered
    "draining": Backend.DRAINING,
    # Registered, but no load balancer sends it anything: none uses the group, none in its zone, or it is stopped.
    "unused": Backend.UNHEALTHY,
    "unavailable": Backend.UNHEALTHY,  # no health is known of it
}
_NOT_REGISTERED = "Target.NotRegistered"


class Settings(BaseModel):
    """Which target group, and at which port instances serve."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    connection: str = Field("aws_default", description="Airflow connection of type aws. Default: aws_default.")
    target_group: str = Field(
        description="ARN of the target group; its target type is instance.",
        pattern=r"^arn:[a-z0-9-]+:elasticloadbalancing:[a-z0-9-]+:\d{12}:targetgroup/[A-Za-z0-9-]{1,32}/[0-9a-f]+$",
    )
    port: int = Field(
        0, ge=0, le=65535, description="TCP port that instances serve on. Default: 0, the target group's own."
    )


class Driver(Balancer):
    """One target group. Safe from any thread."""

    Settings = Settings

    def __init__(self, settings: Any, connections: Connections) -> None:
        super().__init__(settings, connections)
        self._clients = aws.Clients(lambda conn_id: self.connections(conn_id), settings.connection)

    # The seam

    def admit(self, instance: Instance) -> None:
        """Register the target, unless it is; one that is draining is registered anew and checked from the start."""
        if not instance.address:
            raise InvalidSpec(f"{instance.name} has no address.", remedy="Admit it once it is running.")
        with self._calls(f"admit {instance.name}"):
            found = self._look(instance)
            if found in (Backend.ABSENT, Backend.DRAINING):
                self._register(instance)

    def drain(self, instance: Instance) -> None:
        """Deregister the target: it gets nothing new, and the group keeps it as draining until its delay is over."""
        with self._calls(f"drain {instance.name}"):
            if self._look(instance) not in (Backend.ABSENT, Backend.DRAINING):
                self._deregister(instance)

    def remove(self, instance: Instance) -> None:
        """Deregister the target, as for draining: nothing else takes it out of its group.

        ``InUse`` as long as it may have connections: while it drains, and if it was healthy until now.
        """
        with self._calls(f"remove {instance.name}"):
            found = self._look(instance)
            if found is Backend.ABSENT:
                return
            if found is not Backend.DRAINING:
                self._deregister(instance)
            if found in (Backend.DRAINING, Backend.HEALTHY):
                raise InUse(
                    f"{instance.name} may still have connections.", remedy="Wait for the group's deregistration delay."
                )

    def state(self, instance: Instance) -> BackendStatus:
        """The group's word; one connection stands for "not known to be none" while it drains."""
        with self._calls(f"look for {instance.name}"):
            found = self._look(instance)
            return BackendStatus(found, 1 if found is Backend.DRAINING else 0)

    # Inside

    @contextmanager
    def _calls(self, what: str) -> Iterator[None]:
        try:
            with aws.translated(what):
                yield
        except NotFound as error:
            raise InvalidConfig(str(error), remedy="Correct balancer.elbv2.target_group.") from error

    def _look(self, instance: Instance) -> Backend:
        """The target's state.

        :raises NotOurs: EC2 says that the instance is somebody else's.
        """
        if not _INSTANCE_ID.fullmatch(instance.id):
            raise InvalidSpec(f"{instance.id!r} is no EC2 instance.", remedy="elbv2 balances platform ec2 alone.")
        seen = self._check_ours(instance)
        try:
            answer = self._clients("elbv2").describe_target_health(
                TargetGroupArn=self.settings.target_group, Targets=[self._target(instance)]
            )
        except _client_error() as error:
            if aws.code_of(error) == "InvalidTarget" and not seen:
                return Backend.ABSENT
            raise
        entries = answer["TargetHealthDescriptions"]
        if len(entries) != 1 or entries[0]["Target"]["Id"] != instance.id:
            raise Unavailable(f"Asked for {instance.name}, the target group answered with {len(entries)} targets.")
        return _backend(entries[0]["TargetHealth"])

    def _check_ours(self, instance: Instance) -> bool:
        """Whether EC2 shows the instance. One that is long gone it does not; an id is never used again."""
        try:
            answer = self._clients("ec2").describe_instances(InstanceIds=[instance.id])
        except _client_error() as error:
            if aws.code_of(error) == "InvalidInstanceID.NotFound":
                return False
            raise
        found = [each for group in answer["Reservations"] for each in group["Instances"]]
        for seen in found:
            marks = {tag["Key"]: tag["Value"] for tag in seen.get("Tags") or []}
            if marks.get(_OWNER_MARK) != OWNER or marks.get(_TOKEN_MARK) != instance.token:
                raise NotOurs(f"The instance {instance.id} is not {instance.name} of ours.", remedy="Ask whose it is.")
        return bool(found)

    def _register(self, instance: Instance) -> None:
        try:
            self._clients("elbv2").register_targets(
                TargetGroupArn=self.settings.target_group, Targets=[self._target(instance)]
            )
        except _client_error() as error:
            failure = aws.error_of(f"admit {instance.name}", error)
            if aws.code_of(error) == "InvalidTarget" and "running" in str(failure):
                raise Unavailable(str(failure), remedy="Admit it once it is running.") from error
            raise

    def _deregister(self, instance: Instance) -> None:
        self._clients("elbv2").deregister_targets(
            TargetGroupArn=self.settings.target_group, Targets=[self._target(instance)]
        )

    def _target(self, instance: Instance) -> dict[str, Any]:
        port = {"Port": self.settings.port} if self.settings.port else {}
        return {"Id": instance.id, **port}


def _client_error() -> type[Any]:
    from botocore.exceptions import ClientError

    found: type[Any] = ClientError
    return found


def _backend(health: Mapping[str, Any]) -> Backend:
    """Our word for a target's health; a word that it never had before is not a sign of good health."""
    if health.get("Reason") == _NOT_REGISTERED:
        return Backend.ABSENT
    return _STATES.get(str(health.get("State")), Backend.UNHEALTHY)
