"""Real builds for EC2: Debian's Packer against the lab's EC2, provisioning over SSH a machine that takes its place."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest

from lab import ec2 as lab_ec2
from phoenix_fleet import packer
from phoenix_fleet.builders import _ec2_leftovers as leftovers
from phoenix_fleet.builders import ec2 as builder
from phoenix_fleet.builders.base import Run
from phoenix_fleet.config import Project, Target
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import BuildFailed, InvalidConfig, Unavailable
from phoenix_fleet.domain.models import OWNER
from phoenix_fleet.domain.windows import Version
from phoenix_fleet.platforms import ec2 as driver
from tests.builders import families
from tests.builders.killing import Build
from tests.builders.machine import Machine
from tests.contract.platforms_ec2 import granted

pytestmark = [pytest.mark.slow, pytest.mark.ec2, pytest.mark.builds]

CANONICAL = "099720109477"
KEY, SECRET = "AKIATESTTESTTESTTEST", "a secret of the tests"
DEBIAN = "136693071363"
LATER = 24 * 3600


class Account:
    """An account with a network and Debian's AMIs in view."""

    def __init__(self, cloud: lab_ec2.Cloud, machine: Machine) -> None:
        self.cloud, self.machine = cloud, machine
        extra = {"region_name": lab_ec2.REGION, "endpoint_url": cloud.url}
        self.connections = {"aws_default": Connection("aws_default", login=KEY, password=SECRET, extra=extra)}
        self.by_hand = boto3.client(
            "ec2", region_name=lab_ec2.REGION, endpoint_url=cloud.url, aws_access_key_id="x", aws_secret_access_key="x"
        )
        self.vpc = str(cloud.backend.create_vpc("10.66.0.0/16").id)
        zone = f"{lab_ec2.REGION}a"
        self.subnet = str(cloud.backend.create_subnet(self.vpc, "10.66.0.0/24", availability_zone=zone).id)
        self.group = str(cloud.backend.create_security_group("fleet", "fleet", vpc_id=self.vpc).id)
        for day in ("20261001", "20261101"):
            self.source = self.published(f"debian-12-amd64-{day}", DEBIAN)
        self.published("debian-12-amd64-20991231", "000000000000")  # a look-alike of somebody's

    def published(self, name: str, owner: str) -> str:
        image = self.cloud.backend.register_image(name)
        image.owner_id, image.root_device_name, image.root_device_type = owner, "/dev/xvda", "ebs"
        image.virtualization_type = "hvm"
        image.creation_date = datetime.strptime(name[-8:], "%Y%m%d").replace(tzinfo=UTC)
        return str(image.id)

    def target(self, **changed: Any) -> Target:
        platform = {"subnets": [self.subnet], "security_groups": [self.group], "instance_type": "m7i.large"}
        settings = {
            "source_owner": DEBIAN,
            "source_name": "debian-12-amd64-*",
            "ssh_username": "root",
            "ssh_from": ["10.0.0.0/8"],
            **changed,
        }
        variables = {"ssh_host": "127.0.0.1", "ssh_port": self.machine.port}
        return families.target({"ec2": platform}, "ec2.pkr.hcl", settings=settings, variables=variables)

    def build(self, family: Any, workdir: Path, version: str = families.VERSION, **changed: Any) -> tuple[str, str]:
        """What was built, and everything that was said."""
        lines: list[str] = []
        with self.keys_reach_the_machine():
            made = packer.build(
                family,
                self.target(**changed),
                Version.parse(version),
                self.connections.__getitem__,
                workdir=workdir,
                log=lines.append,
            )
        return made, "\n".join(lines)

    def keys_reach_the_machine(self) -> Any:
        return _KeysReach(self)

    def driver(self) -> driver.Driver:
        return driver.Driver(
            driver.Settings(subnets=(self.subnet,), security_groups=(self.group,), instance_type="m7i.large"),
            self.connections.__getitem__,
        )

    def builder(self, folder: Path, **changed: Any) -> builder.Driver:
        return builder.Driver(self.target(**changed), self.connections.__getitem__, folder)

    def temporary(self) -> dict[str, list[str]]:
        """Whatever there is beside the account's own network and the AMIs in view."""
        backend, ours = self.cloud.backend, self._own_images()
        behind = {image.ebs_snapshot.id for image in backend.amis.values() if image not in ours}
        groups = self.by_hand.describe_security_groups()["SecurityGroups"]
        return {
            "machines": [each.id for each in self.cloud.instances().values() if each.state != "terminated"],
            "key pairs": sorted(backend.key_pairs),
            "security groups": [each["GroupId"] for each in groups if each["GroupName"] not in ("default", "fleet")],
            "volumes": sorted(backend.volumes),
            "AMIs": sorted(image.id for image in ours),
            "snapshots": sorted(set(backend.snapshots) - behind),
        }

    def _own_images(self) -> list[Any]:
        return [image for image in self.cloud.backend.amis.values() if image.owner_id == lab_ec2.ACCOUNT]


NOTHING: dict[str, list[str]] = {
    kind: [] for kind in ("machines", "key pairs", "security groups", "volumes", "AMIs", "snapshots")
}


class _KeysReach:
    """What cloud-init would do: the key pair that a machine was launched with is let in."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.1):
            self.account.machine.admit(
                *(pair.public_key for pair in list(self.account.cloud.backend.key_pairs.values()))
            )


@pytest.fixture
def account(machine: Machine) -> Iterator[Account]:
    with lab_ec2.Cloud().running() as cloud:
        found = Account(cloud, machine)
        try:
            yield found
        finally:
            found.by_hand.close()


def test_a_build_makes_an_ami_that_the_driver_lists(account: Account, tmp_path: Path) -> None:
    made, said = account.build(families.make(tmp_path), tmp_path)

    ((artefact, marks),) = account.driver().list_images("mini")
    assert (artefact.reference, marks) == (made, {"version": families.VERSION, "status": "candidate"})
    assert f"provisioned: mini {families.VERSION}, layers: common machine, by root" in said
    assert f"starting from {account.source} " in said
    assert SECRET not in said + (tmp_path / "packer.log").read_text()
    (image,) = account.by_hand.describe_images(ImageIds=[made])["Images"]
    snapshots = [each["Ebs"]["SnapshotId"] for each in image["BlockDeviceMappings"]]
    assert account.temporary() == {**NOTHING, "AMIs": [made], "snapshots": snapshots}
    for snapshot in account.by_hand.describe_snapshots(SnapshotIds=snapshots)["Snapshots"]:
        assert {"Key": "phoenix.owner", "Value": OWNER} in snapshot["Tags"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("packer-")] == []


def test_the_shipped_ubuntu_starts_from_canonicals_newest_and_from_nobody_elses(
    account: Account, tmp_path: Path
) -> None:
    declared = Project.find().family("ubuntu-base").target("ec2").build.settings
    assert declared["source_owner"] == CANONICAL
    images = "ubuntu/images/hvm-ssd-gp3/ubuntu"
    account.published(f"{images}-noble-24.04-amd64-server-20260814", CANONICAL)
    newest = account.published(f"{images}-noble-24.04-amd64-server-20260926", CANONICAL)
    for other in (
        f"{images}-jammy-22.04-amd64-server-20261101",
        f"{images}-noble-24.04-arm64-server-20261101",
        "ubuntu/images-testing/hvm-ssd-gp3/ubuntu-noble-daily-amd64-server-20261101",
    ):
        account.published(other, CANONICAL)
    account.published(f"{images}-noble-24.04-amd64-server-20991231", "000000000000")
    account.published(f"{images}-noble-24.04-amd64-server-20991230", lab_ec2.ACCOUNT)

    source = {key: declared[key] for key in ("source_owner", "source_name")}
    _, said = account.build(families.make(tmp_path), tmp_path, **source)

    assert f"starting from {newest} " in said
    (asked,) = [call.params for call in account.cloud.calls if call.action == "RunInstances"]
    assert asked["ImageId"] == newest


def test_its_machine_is_marked_at_birth_and_closed(account: Account, tmp_path: Path) -> None:
    account.build(families.make(tmp_path), tmp_path)

    (asked,) = [call.params for call in account.cloud.calls if call.action == "RunInstances"]
    assert asked["ImageId"] == account.source
    assert asked["BlockDeviceMapping.1.Ebs.Encrypted"] == "true"
    for action in ("RunInstances", "CreateSecurityGroup"):
        (call,) = account.cloud.called(action)
        born = {value for key, value in call.params.items() if key.startswith("TagSpecification.1.Tag")}
        assert {"phoenix.owner", OWNER, "phoenix.build", "phoenix.build-until"} <= born, action
    changed = [call.params for call in account.cloud.called("ModifyImageAttribute")]
    assert "v2.0" in [params.get("ImdsSupport.Value") for params in changed]
    (opened,) = account.cloud.called("AuthorizeSecurityGroupIngress")
    assert [value for key, value in opened.params.items() if key.endswith("CidrIp")] == ["10.0.0.0/8"]


def test_a_second_build_of_a_version_is_another_candidate(account: Account, tmp_path: Path) -> None:
    family = families.make(tmp_path)
    first, _ = account.build(family, tmp_path)
    second, _ = account.build(family, tmp_path)
    listed = [artefact.reference for artefact, _ in account.driver().list_images("mini")]
    assert first != second
    assert sorted([first, second]) == sorted(listed)


def test_one_that_fails_says_why_and_leaves_nothing(account: Account, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="exit code 1") as failed:
        account.build(families.make(tmp_path, provision=families.FAILS), tmp_path)
    assert "E: no such package" in str(failed.value)
    assert account.temporary() == NOTHING


@pytest.fixture
def hanging(account: Account, tmp_path: Path) -> Iterator[Build]:
    """A build in the middle of its provisioning."""
    family = families.make(tmp_path, provision=families.HANGS)
    workdir = tmp_path / "work"
    workdir.mkdir()
    with account.keys_reach_the_machine():
        build = Build(family, account.target(), families.VERSION, account.connections, workdir)
        try:
            build.wait_for(lambda: "hangs-here" in build.said, "the provisioning")
            yield build
        finally:
            build.end()


def test_a_killed_packer_is_cleaned_up_after_at_once(account: Account, hanging: Build) -> None:
    for pid in list(hanging.packers()):
        os.kill(pid, signal.SIGKILL)
    hanging.process.wait(180)
    assert "signal 9" in hanging.said
    assert account.temporary() == NOTHING


def test_the_sweep_takes_what_a_killed_build_left_once_its_time_is_over_and_nothing_else(
    account: Account, hanging: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging.kill_all()
    left = account.temporary()
    assert [kind for kind, found in left.items() if found] == ["machines", "key pairs", "security groups", "volumes"]
    strangers = look_alikes(account)
    before = account.temporary()
    lines: list[str] = []

    account.builder(tmp_path).sweep(lines.append)
    assert account.temporary() == before, "its build might still run"
    assert lines == []

    now = time.time()
    monkeypatch.setattr(leftovers.time, "time", lambda: now + LATER)
    for _ in range(4):  # each sweep takes what the one before set free
        account.builder(tmp_path).sweep(lines.append)
    assert account.temporary() == strangers
    for kind in ("machine", "key pair", "security group"):  # a machine's volumes go with it
        assert any(f"removing the {kind} " in line for line in lines), kind


def look_alikes(account: Account) -> dict[str, list[str]]:
    """What is not a build's of ours and looks much like one; what there is of that."""
    name, past = "phoenix-build-mini-2026.11-1-0123abcd", "1700000000"
    build = {"phoenix.build": "mini-2026.11-1-0123abcd", "phoenix.build-until": past}
    ours = {"phoenix.owner": OWNER}
    before = account.temporary()
    for tags in (
        build,  # nobody's mark
        {**build, "phoenix.owner": "somebody"},
        {**ours, "Name": name},  # no build's mark
        {**ours, **build, "phoenix.build-until": "soon"},
        {**ours, **build, "phoenix.build-until": ""},
        {**ours, **build, "phoenix.build": "*"},
    ):
        specs = [{"Key": key, "Value": value} for key, value in tags.items()]
        account.by_hand.run_instances(
            ImageId=account.source,
            MinCount=1,
            MaxCount=1,
            SubnetId=account.subnet,
            TagSpecifications=[{"ResourceType": "instance", "Tags": specs}],
        )
        group = account.by_hand.create_security_group(
            GroupName=f"g{len(account.cloud.calls)}", Description=name, VpcId=account.vpc
        )["GroupId"]
        volume = account.by_hand.create_volume(Size=1, AvailabilityZone=f"{lab_ec2.REGION}a")["VolumeId"]
        image = account.cloud.backend.register_image(f"{name}{len(account.cloud.calls)}", f"about {name}")
        account.by_hand.create_tags(Resources=[group, volume, image.id, image.ebs_snapshot.id], Tags=specs)
    account.by_hand.create_key_pair(KeyName=name)
    account.by_hand.create_key_pair(KeyName=f"{name}.soon")
    account.by_hand.create_key_pair(KeyName=f"my-{name}.{past}")
    account.cloud.backend.register_image("described", f"about phoenix.build={name} phoenix.build-until={past}")
    after = account.temporary()
    return {kind: [each for each in found if each not in before[kind]] for kind, found in after.items()}


def test_an_ami_that_was_never_tagged_is_swept_by_what_it_was_born_with(account: Account, tmp_path: Path) -> None:
    run = Run("mini", families.VERSION, "mini-2026.11-1-0123abcd", 1700000000, tmp_path, tmp_path)
    account.cloud.backend.register_image("half", leftovers.description(run))
    running = Run("mini", families.VERSION, "mini-2026.11-1-0123abce", int(time.time()) + 60, tmp_path, tmp_path)
    alive = account.cloud.backend.register_image("whole", leftovers.description(running))
    account.builder(tmp_path).sweep(print)
    assert account.temporary()["AMIs"] == [alive.id]
    assert account.temporary()["snapshots"] == [alive.ebs_snapshot.id]


def test_a_volume_that_outlived_its_machine_is_swept(account: Account, tmp_path: Path) -> None:
    kept = []
    for number, until in enumerate((1700000000, int(time.time()) + 60)):
        run = Run("mini", families.VERSION, f"mini-2026.11-1-0123abc{number}", until, tmp_path, tmp_path)
        volume = account.cloud.backend.create_volume(size=1, zone_name=f"{lab_ec2.REGION}a")
        volume.add_tags(leftovers.marks(run))
        kept.append(volume.id)
    account.builder(tmp_path).sweep(print)
    assert account.temporary()["volumes"] == kept[1:]


def test_a_finished_ami_is_never_swept(account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = account.build(families.make(tmp_path), tmp_path)
    now = time.time()
    monkeypatch.setattr(leftovers.time, "time", lambda: now + LATER)
    account.builder(tmp_path).sweep(print)
    assert account.temporary()["AMIs"] == [made]


@pytest.mark.parametrize("made", ["eu-central-1:ami-0123456789abcdef0", "", "ami-1", "nonsense"])
def test_what_the_manifest_says_is_not_believed(account: Account, tmp_path: Path, made: str) -> None:
    run = Run("mini", families.VERSION, "mini-2026.11-1-0123abcd", int(time.time()) + 60, tmp_path, tmp_path)
    image = account.cloud.backend.register_image("made", "")
    image.add_tags(leftovers.marks(run))
    with pytest.raises(BuildFailed, match="EC2 shows of this build"):
        account.builder(tmp_path).finish(run, made, print)
    assert list(account.driver().list_images("mini")) == []


def test_an_ami_that_is_not_encrypted_is_refused(account: Account, tmp_path: Path) -> None:
    run = Run("mini", families.VERSION, "mini-2026.11-1-0123abcd", int(time.time()) + 60, tmp_path, tmp_path)
    image = account.cloud.backend.register_image("made", "")
    image.add_tags(leftovers.marks(run))
    with pytest.raises(BuildFailed, match="is not encrypted"):
        account.builder(tmp_path).finish(run, f"eu-central-1:{image.id}", print)
    account.builder(tmp_path, encrypt=False).finish(run, f"eu-central-1:{image.id}", print)


def test_what_cannot_work_is_said_before_anything_is_launched(account: Account, tmp_path: Path) -> None:
    family = families.make(tmp_path)
    with pytest.raises(InvalidConfig, match="publishes no AMI 'fedora-"):
        account.build(family, tmp_path, source_name="fedora-*")
    account.connections["aws_default"] = Connection(
        "aws_default",
        login=KEY,
        password=SECRET,
        extra={"region_name": lab_ec2.REGION, "endpoint_url": "http://127.0.0.1:9"},
    )
    with pytest.raises(Unavailable):
        account.build(family, tmp_path)
    assert account.cloud.called("RunInstances") == []


def test_the_builders_policy_allows_what_is_called_and_nothing_else(
    account: Account, hanging: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging.kill_all()
    run = Run("mini", families.VERSION, "mini-2026.11-1-0123abcd", 1700000000, tmp_path, tmp_path)
    account.cloud.backend.register_image("half", leftovers.description(run))
    volume = account.cloud.backend.create_volume(size=1, zone_name=f"{lab_ec2.REGION}a")
    volume.add_tags(leftovers.marks(run))
    now = time.time()
    monkeypatch.setattr(leftovers.time, "time", lambda: now + LATER)
    for _ in range(4):
        account.builder(tmp_path).sweep(print)
    monkeypatch.undo()
    account.build(families.make(tmp_path / "again"), tmp_path)
    used = {each for call in account.cloud.calls if call.key == KEY for each in call.permissions}
    assert used == granted("builder")
