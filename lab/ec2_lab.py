"""Amazon EC2 on this machine: ``python -m lab ec2 up``, ``down``, ``status``.

The API of moto with a container behind every instance, a network, images of three releases, a load balancer of Elastic
Load Balancing's kind with one target group, and an HAProxy for fleets that are balanced by one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from lab import fronts, guests
from lab.commands import app_of
from lab.ec2 import REGION
from lab.elb import BACKEND as ELB_BACKEND
from lab.fronts import Front, owner_of
from lab.places import REPOSITORY, Places
from lab.processes import Processes
from lab.settings import choose_port
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import NotFound
from phoenix_fleet.domain.models import OWNER

NAME = "ec2"
KEY, SECRET = "AKIALABLABLABLABLABL", "the lab knows no secrets"
BACKEND = "web"
"""The HAProxy's backend."""
DEREGISTRATION_SECONDS = 4
"""Longer than the traffic's slow orders take; Amazon's default is 300."""
_ZONES = ("a", "b")


@dataclass(frozen=True)
class Account:
    """What there is in the lab's account."""

    url: str
    pid: int
    subnets: list[str]
    security_group: str
    images: dict[str, str]
    """The AMI of each release."""
    target_group: str


class Ec2Lab:
    """The lab's EC2, which has those places to itself."""

    def __init__(self, places: Places, log: Callable[[str], None], *, check_interval: float = 0) -> None:
        """``check_interval``: seconds between two health checks of a target, instead of the target group's 5."""
        self._places, self._log, self._interval = places, log, check_interval
        self._processes = Processes(places.pids, places.logs)
        self._home = places.home / NAME
        self.owner = owner_of(places, NAME)

    def up(self) -> Account:
        """Everything of it, unless it runs already; the account is a new one each time it starts."""
        if not self._processes.running(NAME):
            self.down()
            self._places.make()
            try:
                self._start()
            except BaseException:  # nothing half-way is left, whatever ended it
                self.down()
                raise
        return self.account()

    def down(self) -> None:
        """Remove all of it, also what one that was killed has left; the images stay for the next."""
        self._processes.stop(NAME, f"{NAME}-elb", f"{NAME}-haproxy", grace=30)
        guests.sweep(self.owner)
        for folder in (self._places.home, self._places.run):
            shutil.rmtree(folder, ignore_errors=True)

    def running(self) -> bool:
        """Whether it runs."""
        return self._processes.running(NAME)

    def account(self) -> Account:
        """What there is.

        :raises NotFound: it is not up.
        """
        return Account(**self._read("account"))

    def front(self, which: str) -> Front:
        """Where traffic comes in: ``elb`` or ``haproxy``.

        :raises NotFound: it is not up.
        """
        return Front(**self._read(which))

    def connection(self, conn_id: str = "aws_default") -> Connection:
        """The way to the API."""
        return Connection(
            conn_id, login=KEY, password=SECRET, extra={"region_name": REGION, "endpoint_url": self.account().url}
        )

    def left_over(self) -> list[str]:
        """What there still is of it: processes, containers, networks, files."""
        found = [each["Names"][0] for each in guests.containers(self.owner)]
        found += [each["Name"] for each in guests.networks(self.owner)]
        return [*self._processes.names(), *found, *([str(self._places.home)] if self._places.home.exists() else [])]

    def _start(self) -> None:
        self._home.mkdir(mode=0o700)
        images = guests.images(self._log)
        for which, backend in (("elb", ELB_BACKEND), ("haproxy", BACKEND)):
            front = fronts.start(self._places, self._processes, f"{NAME}-{which}", backend)
            self._write(which, asdict(front))
        asked = {
            "owner": self.owner,
            "port": choose_port(0),
            "control": self.front("elb").control,
            "interval": self._interval,
            "images": images,
        }
        argv = [sys.executable, "-m", "lab.ec2_lab", json.dumps(asked), str(self._home / "account.json")]
        self._processes.start(NAME, argv, cwd=REPOSITORY)
        self._processes.wait_ready(NAME, self._answers, seconds=60)

    def _answers(self) -> bool:
        try:
            account = self.account()
            httpx.get(account.url, timeout=5, trust_env=False)
        except (NotFound, httpx.HTTPError):
            return False
        return account.pid == self._processes.pid(NAME)

    def _read(self, what: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self._home / f"{what}.json").read_text())
        except FileNotFoundError:
            raise NotFound("The lab's EC2 is not up.", remedy="Run `python -m lab ec2 up`.") from None
        return found

    def _write(self, what: str, data: dict[str, Any]) -> None:
        _write(self._home / f"{what}.json", data)


def serve(asked: dict[str, Any], record: Path) -> None:
    """The API and its machines until told to end; the account goes to that file when all is there."""
    from lab.ec2_backed import BackedCloud
    from lab.ec2_machines import Machines

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    cloud = BackedCloud(
        Machines(asked["owner"]), port=asked["port"], control=Path(asked["control"]), interval=asked["interval"]
    )
    try:
        with cloud.running():
            _write(record, asdict(_furnish(cloud, asked["owner"], asked["images"])))
            ended.wait()
    finally:
        guests.sweep(asked["owner"])


def _furnish(cloud: Any, owner: str, images: dict[str, str]) -> Account:
    from lab.ec2_backed import IMAGE_TAG

    backend = cloud.backend
    vpc = backend.create_vpc("10.66.0.0/16").id
    subnets = [
        str(backend.create_subnet(vpc, guests.make_bridge(owner), availability_zone=f"{REGION}{zone}").id)
        for zone in _ZONES
    ]
    amis = {}
    for version, image in images.items():
        ami = backend.register_image(f"{guests.FAMILY}-{version}")
        marks = {"phoenix.owner": OWNER, "phoenix.family": guests.FAMILY, "phoenix.version": version}
        ami.add_tags({**marks, IMAGE_TAG: image})
        amis[version] = str(ami.id)
    return Account(
        url=cloud.url,
        pid=os.getpid(),
        subnets=subnets,
        security_group=str(backend.create_security_group("fleet", "fleet", vpc_id=vpc).id),
        images=amis,
        target_group=_balance(cloud.url, vpc, subnets),
    )


def _balance(url: str, vpc: str, subnets: list[str]) -> str:
    """The ARN of a target group behind a load balancer."""
    import boto3

    client = boto3.client(
        "elbv2", region_name=REGION, endpoint_url=url, aws_access_key_id=KEY, aws_secret_access_key=SECRET
    )
    (group,) = client.create_target_group(
        Name=BACKEND,
        Protocol="HTTP",
        Port=guests.PORT,
        VpcId=vpc,
        TargetType="instance",
        HealthCheckPath="/healthz",
        HealthCheckIntervalSeconds=5,
        HealthCheckTimeoutSeconds=2,
        HealthyThresholdCount=2,
        UnhealthyThresholdCount=2,
    )["TargetGroups"]
    arn = str(group["TargetGroupArn"])
    delay = {"Key": "deregistration_delay.timeout_seconds", "Value": str(DEREGISTRATION_SECONDS)}
    client.modify_target_group_attributes(TargetGroupArn=arn, Attributes=[delay])
    (balancer,) = client.create_load_balancer(Name=BACKEND, Subnets=subnets)["LoadBalancers"]
    forward = {"Type": "forward", "TargetGroupArn": arn}
    client.create_listener(
        LoadBalancerArn=balancer["LoadBalancerArn"], Protocol="HTTP", Port=80, DefaultActions=[forward]
    )
    client.close()
    return arn


def _write(path: Path, data: dict[str, Any]) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(data))
    fresh.rename(path)


def _told(lab: Ec2Lab) -> dict[str, str]:
    account = lab.account()
    return {
        "API": f"{account.url} in {REGION}, any credentials",
        "subnets": ", ".join(account.subnets),
        "security group": account.security_group,
        "target group": account.target_group,
        **{f"image {version}": ami for version, ami in account.images.items()},
        "front of the target group": lab.front("elb").url,
        "front of HAProxy": f"{lab.front('haproxy').url}, backend {BACKEND}, socket {lab.front('haproxy').control}",
    }


app = app_of(NAME, "Amazon EC2, with a container behind every instance", Ec2Lab, _told)


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]), Path(sys.argv[2]))
