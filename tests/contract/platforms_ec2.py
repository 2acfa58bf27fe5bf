"""The EC2 platform under the contract tests: the real SDK against moto and what the lab puts around it."""

from __future__ import annotations

import base64
import itertools
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest

from lab import ec2 as lab_ec2
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import Unavailable
from phoenix_fleet.domain.models import OWNER, Artefact, Instance, InstanceState, LaunchIntent
from phoenix_fleet.domain.volumes import VolumeIntent
from phoenix_fleet.platforms import _ec2_view as view
from phoenix_fleet.platforms import ec2 as driver
from tests.contract import machinery

KEY = "AKIATESTTESTTESTTEST"
SECRET = "a secret of the tests"
ROLE = f"arn:aws:iam::{lab_ec2.ACCOUNT}:role/replacer"
POLICIES = ("replacer", "keeper", "mover", "pruner", "examiner")
_serial = itertools.count(1)


def granted(policy: str) -> set[str]:
    """Every action that a shipped policy allows."""
    return {action for statement in statements(policy) for action in statement["Action"]}


def statements(policy: str) -> list[dict[str, Any]]:
    text = (Path(driver.__file__).parent / "iam" / f"{policy}.json").read_text()
    found: list[dict[str, Any]] = json.loads(text)["Statement"]
    return found


def needed(cloud: lab_ec2.Cloud) -> set[str]:
    """What the drivers would have had to be allowed for all that they did."""
    return {each for call in cloud.calls if call.key == KEY for each in call.permissions}


class Ec2Lab:
    """What the contract tests ask of a platform's surroundings."""

    name = "ec2"

    def __init__(self, cloud: lab_ec2.Cloud) -> None:
        self.cloud = cloud
        extra = {"region_name": lab_ec2.REGION, "endpoint_url": cloud.url}
        self.connections = machinery.KnownConnections(
            Connection("aws_default", login=KEY, password=SECRET, extra=extra),
            Connection("no_region", login=KEY, password=SECRET, extra={"endpoint_url": cloud.url}),
            Connection("nowhere", login=KEY, password=SECRET, extra={**extra, "endpoint_url": "http://127.0.0.1:9"}),
            Connection("no_url", login=KEY, password=SECRET, extra={**extra, "endpoint_url": "127.0.0.1"}),
            Connection(
                "saml", login=KEY, password=SECRET, extra={**extra, "assume_role_method": "assume_role_with_saml"}
            ),
            Connection("no_tls", login=KEY, password=SECRET, extra={**extra, "endpoint_url": "http://192.0.2.1"}),
            Connection("unverified", login=KEY, password=SECRET, extra={**extra, "verify": False}),
            Connection("role", login=KEY, password=SECRET, extra={**extra, "role_arn": ROLE}),
            Connection("no_keys", extra=extra),
            Connection("role_alone", extra={**extra, "role_arn": ROLE}),
            Connection("in_extra", extra={**extra, "aws_access_key_id": KEY, "aws_secret_access_key": SECRET}),
            Connection(
                "by_service",
                login=KEY,
                password=SECRET,
                extra={
                    **extra,
                    "endpoint_url": "http://127.0.0.1:9",
                    "service_config": {"ec2": {"endpoint_url": cloud.url}},
                },
            ),
        )
        self.by_hand = boto3.client(
            "ec2", region_name=lab_ec2.REGION, endpoint_url=cloud.url, aws_access_key_id="x", aws_secret_access_key="x"
        )
        self.zones, self.subnets = self._network()
        self.group = str(self.cloud.backend.create_security_group("fleet", "fleet", vpc_id=self.vpc).id)
        self.settings: Mapping[str, Any] = {
            "subnets": list(self.subnets),
            "security_groups": [self.group],
            "instance_type": "m7i.large",
        }
        self.platform = self.again()
        self.standard = self.artefact("lab", "2026.11-1")

    def _network(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        self.vpc = str(self.cloud.backend.create_vpc("10.66.0.0/16").id)
        zones = tuple(f"{lab_ec2.REGION}{letter}" for letter in "ab")
        made = [
            self.cloud.backend.create_subnet(self.vpc, f"10.66.{number}.0/24", availability_zone=zone).id
            for number, zone in enumerate(zones)
        ]
        return zones, tuple(map(str, made))

    def again(self, **settings: Any) -> driver.Driver:
        """Another driver object for the same world."""
        return driver.Driver(driver.Settings(**{**self.settings, **settings}), self.connections)

    def intent(self, authorized_key: str = "") -> LaunchIntent:
        """A launch that will work, of a fleet of its own."""
        fleet = f"t{uuid.uuid4().hex[:8]}"
        slot, purpose = f"{fleet}-01", "rollout-1"
        return LaunchIntent(
            fleet, slot, purpose, 1, "lab", "2026.11-1", self.standard, authorized_key, settings=self.settings
        )

    def running(self, instance: Instance) -> Instance:
        """The instance, once it runs."""

        def look() -> Instance | None:
            seen = self.platform.get_instance(instance.id)
            return seen if seen.state is InstanceState.RUNNING else None

        return machinery.wait_for(look, instance.name)

    def artefact(self, family: str, version: str, *, ours: bool = True) -> Artefact:
        image = self.cloud.backend.register_image(f"{family}-{version}-{next(_serial)}")
        marks = {"phoenix.family": family, "phoenix.version": version}
        image.add_tags({**marks, "phoenix.owner": OWNER} if ours else marks)
        return Artefact("ec2", image.id, view.digest(image.id))

    def foreign(self, name: str, marks: Mapping[str, str]) -> str:
        tags = [{"Key": key, "Value": value} for key, value in {"Name": name, **marks}.items()]
        group = self.by_hand.run_instances(
            ImageId=self.standard.reference,
            MinCount=1,
            MaxCount=1,
            SubnetId=self.subnets[0],
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
        )
        return str(group["Instances"][0]["InstanceId"])

    # Data volumes

    def volume_intent(self, fleet: str, name: str = "data") -> VolumeIntent:
        """A volume that can be made, beside instances of slot 01."""
        return VolumeIntent(fleet, f"{fleet}-01", name, 10, zone=self.zones[1], settings=self.settings)

    def foreign_volume(self, fleet: str, name: str) -> str:
        """One with our words on it, but not as ours."""
        tags = {"Name": f"{fleet}-01/{name}", "phoenix.fleet": fleet, "phoenix.slot": f"{fleet}-01"}
        tags |= {"phoenix.volume": name, "phoenix.owner": "phoenix"}
        marked = [{"Key": key, "Value": value} for key, value in tags.items()]
        made = self.by_hand.create_volume(
            AvailabilityZone=self.zones[1], Size=1, TagSpecifications=[{"ResourceType": "volume", "Tags": marked}]
        )
        return str(made["VolumeId"])

    def volume_exists(self, volume_id: str) -> bool:
        return volume_id in self.cloud.backend.volumes

    @contextmanager
    def losing_the_reply(self, method: str) -> Iterator[None]:
        """The next call of that method takes effect, and the caller hears nothing."""
        actions = {"create_volume": "CreateVolume", "snapshot_volume": "CreateSnapshot", "stop": "StopInstances"}
        self.cloud.lose_reply(actions.get(method) or method.title().replace("_", ""))
        with pytest.raises(Unavailable):
            yield

    def is_alive(self, instance_id: str) -> bool:
        return str(self.cloud.instances()[instance_id].state) in ("pending", "running")

    def count(self, token: str) -> int:
        """How many instances carry the token, in truth, living or not."""
        return sum(self.marks(each).get("phoenix.token") == token for each in self.cloud.instances())

    def authorized_key(self, instance_id: str) -> str:
        """What cloud-init is told to let in as root."""
        data = self.user_data(instance_id)
        assert data["disable_root"] is False
        (key,) = data["ssh_authorized_keys"]
        return str(key)

    def user_data(self, instance_id: str) -> dict[str, Any]:
        attribute = self.by_hand.describe_instance_attribute(InstanceId=instance_id, Attribute="userData")
        first, _, rest = base64.b64decode(attribute["UserData"]["Value"]).decode().partition("\n")
        assert first == "#cloud-config"
        data: dict[str, Any] = json.loads(rest)
        return data

    def snapshots(self, artefact: Artefact) -> set[str]:
        """Those behind an AMI."""
        (image,) = self.by_hand.describe_images(ImageIds=[artefact.reference])["Images"]
        return {str(each["Ebs"]["SnapshotId"]) for each in image["BlockDeviceMappings"]}

    def instance_profile(self, name: str) -> None:
        """Let there be one of that name."""
        from moto.iam.models import iam_backends

        iam_backends[lab_ec2.ACCOUNT]["aws"].create_instance_profile(name, "/", [])

    def marks(self, resource: str) -> dict[str, str]:
        return {tag["key"]: tag["value"] for tag in self.cloud.backend.describe_tags({"resource-id": [resource]})}

    def crash_in_launch(self, intent: LaunchIntent) -> None:
        """Launch, and die before the reply."""
        self.cloud.lose_reply("RunInstances")
        try:
            self.platform.launch(intent)
        except Unavailable:
            return
        raise AssertionError("the reply was not lost")

    def break_down(self, instance_id: str) -> None:
        """Let the machine end by itself, for good."""
        self.cloud.set_state(instance_id, "stopped", "Instance initiated shutdown")


@contextmanager
def opened() -> Iterator[Ec2Lab]:
    """An account of this lab's own, empty but for a network."""
    with lab_ec2.Cloud().running() as cloud:
        lab = Ec2Lab(cloud)
        try:
            yield lab
        finally:
            lab.by_hand.close()
        # Whatever the tests made the drivers do, the shipped policies allow it.
        allowed = set().union(*map(granted, POLICIES)) | {"sts:AssumeRole"}
        assert needed(cloud) <= allowed, needed(cloud) - allowed
