"""Fleets on EC2, from the API to the last request: the lab's account, with a machine behind every instance."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest

from lab import guests, haproxy
from lab.ec2 import REGION
from lab.ec2_lab import BACKEND, KEY, SECRET, Account, Ec2Lab
from lab.guests import NEW, PORT
from lab.places import Places
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.models import Artefact
from phoenix_fleet.platforms import _ec2_view as view
from phoenix_fleet.rollout.progress import Progress
from tests.contract.machinery import KnownConnections, wait_for
from tests.e2e.impostor import answering_instead
from tests.e2e.refresh import Ground, check_halted, make_key, refresh_under_traffic
from tests.sampling import machines_of_the_day

pytestmark = [pytest.mark.e2e, pytest.mark.ec2, pytest.mark.docker, machines_of_the_day("ec2")]
FLEETS = {
    "web": {"haproxy": {"connection": "haproxy", "backend": BACKEND, "port": PORT, "check_interval_ms": 400}},
    "store": {"elbv2": {"target_group": "", "port": PORT}},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ec2Lab]:
    folder = tmp_path_factory.mktemp("ec2")
    lab = Ec2Lab(Places(folder / "home", folder / "run", Places.find().cache), print, check_interval=0.5)
    try:
        lab.up()
        yield lab
    finally:
        lab.down()
    assert lab.left_over() == []


@pytest.fixture(scope="module")
def ground(lab: Ec2Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("project")
    account = lab.account()
    connections = KnownConnections(
        lab.connection(),
        Connection("haproxy", extra={"socket": lab.front("haproxy").control}),
        Connection("phoenix_ssh", extra={"key_file": str(make_key(folder))}),
    )
    artefacts = {version: Artefact("ec2", ami, view.digest(ami)) for version, ami in account.images.items()}
    ground = Ground(folder, connections, artefacts)
    FLEETS["store"]["elbv2"]["target_group"] = account.target_group
    for name, balancer in FLEETS.items():
        ground.declare(name, platform=platform(account), balancer=balancer)
    yield ground
    ground.catalog.close()


def platform(account: Account) -> dict[str, Any]:
    where = {"subnets": account.subnets, "security_groups": [account.security_group], "instance_type": "m7i.large"}
    return {"ec2": where}


@pytest.fixture
def census(lab: Ec2Lab, ground: Ground) -> Callable[[], None]:
    """What the account, the engine and the balancers hold is what the catalog says, and nothing more."""

    def check() -> None:
        promised = ground.promised()
        known = [each for name in ground.fleets for each in ground.instances(name)]
        assert {each.id for each in known} == promised
        with by_hand(lab, "ec2") as ec2:
            groups = ec2.describe_instances()["Reservations"]
            instances = [each for group in groups for each in group["Instances"]]
            assert {each["InstanceId"] for each in instances if each["State"]["Name"] != "terminated"} == promised
            volumes = ec2.describe_volumes()["Volumes"]
            assert {each["InstanceId"] for volume in volumes for each in volume["Attachments"]} == promised
            assert len(volumes) == len(promised)
        machines = guests.containers(lab.owner)
        assert {each["Labels"]["phoenix.lab.instance"] for each in machines} == promised
        with by_hand(lab, "elbv2") as elb:
            arn = lab.account().target_group
            targets = elb.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]
        assert {each["Target"]["Id"] for each in targets} == {each.id for each in known if each.fleet == "store"}
        servers = haproxy.servers(Path(lab.front("haproxy").control), BACKEND)
        assert servers == sorted(each.name for each in known if each.fleet == "web")

    return check


@contextmanager
def by_hand(lab: Ec2Lab, service: str) -> Iterator[Any]:
    client = boto3.client(
        service,
        region_name=REGION,
        endpoint_url=lab.account().url,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
    )
    yield client
    client.close()


def test_what_runs_is_left_alone(lab: Ec2Lab) -> None:
    assert lab.up() == lab.account()
    began = time.monotonic()
    assert lab.up() == lab.account()
    assert time.monotonic() - began < 1


def test_an_instance_does_what_its_container_does(lab: Ec2Lab) -> None:
    account = lab.account()
    with by_hand(lab, "ec2") as ec2, guests.engine() as engine:
        group = ec2.run_instances(ImageId=account.images[NEW], MinCount=1, MaxCount=1, SubnetId=account.subnets[0])
        named = group["Instances"][0]["InstanceId"]
        container = f"{lab.owner}-{named}"

        def word() -> str:
            (seen,) = ec2.describe_instances(InstanceIds=[named])["Reservations"][0]["Instances"]
            return str(seen["State"]["Name"])

        def keys() -> tuple[str, ...]:
            return view.host_keys(ec2.get_console_output(InstanceId=named, Latest=True)["Output"])

        wait_for(lambda: word() == "running", "the machine")
        born_with = wait_for(keys, "its keys on the console")
        ec2.stop_instances(InstanceIds=[named])
        wait_for(lambda: word() == "stopped", "its stop")
        assert not engine.inspect_container(container)["State"]["Running"]
        ec2.start_instances(InstanceIds=[named])
        wait_for(lambda: word() == "running", "its start")
        assert keys() == born_with
        engine.kill(container)
        wait_for(lambda: word() == "stopped", "EC2 to notice that it ended by itself")
        ec2.terminate_instances(InstanceIds=[named])
        wait_for(lambda: word() == "terminated", "its end")
        assert guests.containers(lab.owner) == []


def test_what_a_killed_lab_has_left_is_gone_when_it_is_told_to_stop(tmp_path: Path) -> None:
    lab = Ec2Lab(Places(tmp_path / "home", tmp_path / "run", Places.find().cache), print)
    try:
        account = lab.up()
        with by_hand(lab, "ec2") as ec2:
            ec2.run_instances(ImageId=account.images[NEW], MinCount=1, MaxCount=1, SubnetId=account.subnets[0])
        wait_for(lambda: guests.containers(lab.owner), "its machine")
        os.kill(account.pid, signal.SIGKILL)
        wait_for(lambda: not lab.running(), "its death")
        assert guests.containers(lab.owner)
    finally:
        lab.down()
    assert lab.left_over() == []


@pytest.mark.parametrize(("name", "front"), [("web", "haproxy"), ("store", "elb")])
def test_a_fleet_is_refreshed_under_traffic_and_halted_by_a_bad_image(
    lab: Ec2Lab, ground: Ground, census: Callable[[], None], name: str, front: str
) -> None:
    refresh_under_traffic(ground, name, lab.front(front).url, census)


@pytest.mark.parametrize("step", ["ready", "configure"])
def test_an_impostor_at_the_address_halts_the_rollout(
    lab: Ec2Lab, ground: Ground, census: Callable[[], None], step: str
) -> None:
    """It runs the same image and would let us in: only its host key is another than the one on the console."""
    name, account = f"one-{step}", lab.account()
    ground.declare(name, platform=platform(account), balancer="none", size=1)
    ground.fill(name)
    (old,) = ground.instances(name)
    with answering_instead(lab.owner, ground.key.with_suffix(".pub").read_text()) as take_over:

        def between(progress: Progress) -> None:
            if progress.state == "moved" and progress.step == {"ready": "launch", "configure": "ready"}[step]:
                (new,) = [each for each in ground.instances(name) if each.version == NEW]
                wait_for(lambda: ground.platform(name).get_instance(new.id).host_keys, "its console")
                take_over(f"{lab.owner}-{new.id}")

        reason = check_halted(ground, name, step, lambda: ground.refresh(name, NEW, between))
    assert "host key" in reason
    assert ground.instances(name) == [old]
    census()
