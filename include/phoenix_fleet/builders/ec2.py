"""Builds for Amazon EC2: an AMI that Packer (``amazon-ebs``) makes of a published one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from ipaddress import ip_network
from typing import Any

from pydantic import Field, field_validator

from phoenix_fleet import aws
from phoenix_fleet.builders import _ec2_leftovers as leftovers
from phoenix_fleet.builders.base import BUILD_MARK, UNTIL_MARK, Builder, Inputs, Log, Run
from phoenix_fleet.configfields import Frozen
from phoenix_fleet.domain.errors import BuildFailed, InvalidConfig
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import OWNER
from phoenix_fleet.platforms import _ec2_view as view
from phoenix_fleet.platforms._ec2_settings import Settings as Place


class Settings(Frozen):
    """What an AMI is built from, and where its temporary machine is reached from."""

    source_owner: str = Field(
        description="Account that publishes the AMI to start from: 099720109477 is Canonical, 136693071363 Debian.",
        pattern=r"^\d{12}$",
    )
    source_name: str = Field(
        description="Name of that AMI, with * and ?; the newest counts.", min_length=3, max_length=128
    )
    ssh_username: str = Field(description="Who may log in there: ubuntu, admin, …", pattern=r"^[a-z_][a-z0-9_-]{0,31}$")
    ssh_from: tuple[str, ...] = Field(
        min_length=1,
        description="Networks (CIDR) from which the temporary machine may be reached: those of the workers.",
    )
    instance_type: str = Field(
        "", description="Of the temporary machine. Default: the platform's.", pattern=r"^$|^[a-z0-9-]+\.[a-z0-9-]+$"
    )
    disk_gib: int = Field(8, ge=1, le=16384, description="Size of the image's disk in GiB. Default: 8.")
    encrypt: bool = Field(True, description="Whether the image's disk is encrypted. Default: true.")
    kms_key: str = Field(
        "", description="Key to encrypt it with, an ARN. Default: the account's own.", pattern=r"^$|^arn:aws[\w:/-]+$"
    )

    @field_validator("ssh_from")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            if ip_network(each).prefixlen == 0:
                raise ValueError(f"{each} is everybody: name the workers' networks")
        return value


class Driver(Builder):
    """EC2. Templates get the source, the place, the marks and how to log in; keys come by the environment alone.

    What Packer makes is marked with the build and the end of its time. ``finish`` takes that end off and puts the
    version on, in one call: before it the platform lists nothing, after it no sweep takes the AMI.
    """

    Settings = Settings

    def check(self) -> None:
        """EC2 answers, and has the AMI to start from."""
        _ = self._source

    def sweep(self, log: Log) -> None:
        """Machines, key pairs, security groups, volumes, unfinished AMIs and their snapshots."""
        with self._ec2("sweep builds") as client:
            leftovers.remove(client, leftovers.past_their_time(), log)

    def prepare(self, run: Run, log: Log) -> Inputs:
        """A security group for the temporary machine, tagged at birth, which Packer's own would not be."""
        place, settings, source = self._place, self.settings, self._source
        with self._ec2(f"prepare {run.build_id}") as client:
            group = self._security_group(client, run)
        connection = self.connections(place.connection)
        with aws.translated(f"build {run.build_id}"):
            environment = aws.environment(connection)
        log(f"build: starting from {source['ImageId']} ({source.get('Name')})")
        secret = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        return Inputs(
            variables={
                "region": environment["AWS_REGION"],
                "endpoint": aws.endpoint(connection, "ec2") or "",
                "source_owner": settings.source_owner,
                "source_name": settings.source_name,
                "source_ami": source["ImageId"],
                "subnet": place.subnets[0],
                "instance_type": settings.instance_type or place.instance_type,
                "ssh_username": settings.ssh_username,
                "ssh_interface": f"{place.address}_ip",
                "security_group": group,
                "key_name": leftovers.key_name(run),
                "device": source["RootDeviceName"],
                "disk_gib": settings.disk_gib,
                "encrypt": settings.encrypt,
                "kms_key": settings.kms_key,
                "ami_name": f"{OWNER}/{run.family}/{run.version}/{run.build_id}",
                "ami_description": leftovers.description(run),
                "marks": {"Name": run.name, **leftovers.marks(run), view.FAMILY_MARK: run.family},
            },
            environment=environment,
            secrets=tuple(environment[name] for name in secret if name in environment),
        )

    def finish(self, run: Run, made: str, log: Log) -> str:
        """The AMI as EC2 itself describes it becomes the candidate, with its snapshots."""
        with self._ec2(f"finish {run.build_id}") as client:
            image = self._made(client, run, made)
            image_id, snapshots = str(image["ImageId"]), _snapshots(image)
            self._check_snapshots(client, image_id, snapshots)
            # Whoever launches it gets session tokens only: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/
            # configuring-IMDS-new-instances.html#configure-IMDS-new-instances-ami-configuration
            client.modify_image_attribute(ImageId=image_id, ImdsSupport={"Value": "v2.0"})
            tags = {
                "Name": f"{run.family} {run.version}",
                view.OWNER_MARK: OWNER,
                view.FAMILY_MARK: run.family,
                view.VERSION_MARK: run.version,
                view.STATUS_MARK: str(Rung.CANDIDATE),
                BUILD_MARK: run.build_id,
                UNTIL_MARK: "",
            }
            client.create_tags(
                Resources=[image_id, *snapshots], Tags=[{"Key": key, "Value": value} for key, value in tags.items()]
            )
            leftovers.remove(client, _of(run), lambda _: None)  # the security group
        log(f"build: {image_id} is {run.family} {run.version}")
        return image_id

    def clean_up(self, run: Run, log: Log) -> None:
        """The same kinds of things, of this build alone; waits until its machine is gone, which holds the others."""
        with self._ec2(f"clean up {run.build_id}") as client:
            leftovers.remove(client, _of(run), log, patience=leftovers.PATIENCE)

    # Inside

    @cached_property
    def _place(self) -> Place:
        return Place.model_validate(self.target.platform.settings)

    @cached_property
    def _clients(self) -> aws.Clients:
        return aws.Clients(self.connections, self._place.connection)

    @contextmanager
    def _ec2(self, what: str) -> Iterator[Any]:
        with aws.translated(what):
            yield self._clients("ec2")

    def _security_group(self, client: Any, run: Run) -> str:
        (subnet,) = client.describe_subnets(SubnetIds=[self._place.subnets[0]])["Subnets"]
        tags = [{"Key": key, "Value": value} for key, value in {"Name": run.name, **leftovers.marks(run)}.items()]
        made = client.create_security_group(
            GroupName=run.name,
            Description=f"SSH to the temporary machine of {run.build_id}",
            VpcId=subnet["VpcId"],
            TagSpecifications=[{"ResourceType": "security-group", "Tags": tags}],
        )
        networks = list(map(ip_network, self.settings.ssh_from))
        client.authorize_security_group_ingress(
            GroupId=made["GroupId"],
            IpPermissions=[
                {
                    "IpProtocol": "tcp",
                    "FromPort": 22,
                    "ToPort": 22,
                    "IpRanges": [{"CidrIp": str(each)} for each in networks if each.version == 4],
                    "Ipv6Ranges": [{"CidrIpv6": str(each)} for each in networks if each.version == 6],
                }
            ],
        )
        return str(made["GroupId"])

    @cached_property
    def _source(self) -> Mapping[str, Any]:
        """The newest AMI that the settings name; it is what Packer's filter finds, too."""
        owner, name = self.settings.source_owner, self.settings.source_name
        with self._ec2("look for the AMI to start from") as client:
            asked = [
                {"Name": "name", "Values": [name]},
                {"Name": "state", "Values": ["available"]},
                {"Name": "root-device-type", "Values": ["ebs"]},
                {"Name": "virtualization-type", "Values": ["hvm"]},
            ]
            found = client.describe_images(Owners=[owner], Filters=asked)["Images"]
        ours = [image for image in found if image.get("OwnerId") == owner]
        if not ours:
            raise InvalidConfig(
                f"image.yaml: build.settings.source_name: {owner} publishes no AMI '{name}' in this region.",
                remedy="See what it publishes: aws ec2 describe-images --owners.",
            )
        newest: Mapping[str, Any] = max(ours, key=lambda image: str(image.get("CreationDate", "")))
        return newest

    def _made(self, client: Any, run: Run, made: str) -> Mapping[str, Any]:
        wanted = {view.OWNER_MARK: OWNER, BUILD_MARK: run.build_id}
        found = client.describe_images(Owners=["self"], Filters=view.filters(wanted))["Images"]
        view.check_honoured(found, wanted, "ImageId")
        told = re.fullmatch(r"[a-z0-9-]+:(ami-[0-9a-f]+)", made)
        ids = [str(image["ImageId"]) for image in found]
        if len(found) != 1 or told is None or ids != [told[1]]:
            raise BuildFailed(
                f"Packer says that it made {made!r}, and EC2 shows of this build: {', '.join(ids) or 'nothing'}.",
                remedy="See the template's tags: an AMI has var.marks.",
            )
        image: Mapping[str, Any] = found[0]
        if image.get("State") != "available":
            raise BuildFailed(f"{ids[0]} is {image.get('State')}: {(image.get('StateReason') or {}).get('Message')}")
        return image

    def _check_snapshots(self, client: Any, image_id: str, snapshots: list[str]) -> None:
        """A whole AMI has snapshots behind it, as encrypted as it was asked for."""
        if not snapshots:
            raise BuildFailed(f"{image_id} has no snapshot behind it.", remedy="See what the template makes.")
        if self.settings.encrypt:
            for snapshot in client.describe_snapshots(SnapshotIds=snapshots)["Snapshots"]:
                if not snapshot.get("Encrypted"):
                    raise BuildFailed(
                        f"{snapshot['SnapshotId']} behind {image_id} is not encrypted.",
                        remedy="See the template's launch_block_device_mappings, or set build.settings.encrypt: false.",
                    )


def _of(run: Run) -> leftovers.IsDue:
    """What is this build's and not finished: a finished AMI has its id, and no end of its time any more."""
    return lambda build_id, until: (build_id, until) == (run.build_id, str(run.until))


def _snapshots(image: Mapping[str, Any]) -> list[str]:
    mappings = image.get("BlockDeviceMappings") or []
    return [str(each["Ebs"]["SnapshotId"]) for each in mappings if (each.get("Ebs") or {}).get("SnapshotId")]
