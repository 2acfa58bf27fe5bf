"""What a launch asks of EC2: one request, whole at birth and the same whenever it is made again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

from phoenix_fleet.domain.errors import InvalidSpec, Unavailable
from phoenix_fleet.domain.models import LaunchIntent
from phoenix_fleet.platforms import _ec2_view as view
from phoenix_fleet.platforms._ec2_settings import Settings

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_PUBLIC_KEY = re.compile(r"[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2}( [^\r\n]*)?")
_LONGEST_TAG = 256
"""Characters: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html#tag-restrictions"""


def check(intent: LaunchIntent) -> None:
    """Return if EC2 can be asked for this.

    :raises InvalidSpec: it can never work.
    """
    if not _NAME.fullmatch(intent.name):
        raise InvalidSpec(f"{intent.name!r} is no host name.", remedy="Use letters, digits and dashes, at most 63.")
    if intent.authorized_key and not _PUBLIC_KEY.fullmatch(intent.authorized_key):
        raise InvalidSpec("The authorized key is not one public key.", remedy="Give one line: type, key, comment.")
    image_id = intent.artefact.reference
    if not view.IMAGE_ID.fullmatch(image_id):
        raise InvalidSpec(f"{image_id!r} is no AMI.", remedy="An artefact's reference is an id such as ami-0123….")
    if intent.artefact.digest != view.digest(image_id):
        raise InvalidSpec(f"{image_id} is not the digest {intent.artefact.digest}.")
    for mark, value in view.marks(intent).items():
        if len(value) > _LONGEST_TAG:
            raise InvalidSpec(f"{mark} of {intent.name} has more than {_LONGEST_TAG} characters.")


def choose(subnets: Sequence[Mapping[str, Any]], wanted: Sequence[str], intent: LaunchIntent, address: str = "") -> str:
    """The subnet to launch into: in the intent's zone if it has one; else, and among several, by the slot.

    By the slot and not by what is free: the same intent must always ask for the same.

    :param subnets: what EC2 says of them
    :param wanted: their ids as the fleet file has them
    :param address: the slot's own, which must lie in it; empty for none
    :raises InvalidSpec: none of them is in that zone, or has that address.
    """
    zones = {str(subnet["SubnetId"]): str(subnet["AvailabilityZone"]) for subnet in subnets}
    if set(zones) != set(wanted):
        raise Unavailable(f"EC2 was asked for the subnets {', '.join(wanted)} and described {', '.join(zones)}.")
    fit = [each for each in wanted if not intent.zone or zones[each] == intent.zone]
    if not fit:
        raise InvalidSpec(
            f"None of the subnets {', '.join(wanted)} is in {intent.zone}, where {intent.name} has to stand.",
            remedy="Add a subnet of that zone to platform.ec2.subnets.",
        )
    if address:
        nets = {str(subnet["SubnetId"]): ip_network(str(subnet["CidrBlock"])) for subnet in subnets}
        fit = [each for each in fit if ip_address(address) in nets[each]]
        if not fit:
            raise InvalidSpec(
                f"{address} of {intent.slot} lies in none of the subnets that it may stand in.",
                remedy="Correct platform.ec2.addresses, or add its subnet to platform.ec2.subnets.",
            )
    number = re.search(r"\d+$", intent.slot)
    return fit[(int(number[0]) if number else int(intent.token[:8], 16)) % len(fit)]


def request(intent: LaunchIntent, settings: Settings, subnet: str) -> dict[str, Any]:
    """The parameters of ``RunInstances``."""
    tags = [{"Key": key, "Value": value} for key, value in {**settings.tags, **view.marks(intent)}.items()]
    asked: dict[str, Any] = {
        # At most 64 ASCII characters: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RunInstances.html
        "ClientToken": intent.token,
        "ImageId": intent.artefact.reference,
        "InstanceType": settings.instance_type,
        "MinCount": 1,
        "MaxCount": 1,
        "SubnetId": subnet,
        "SecurityGroupIds": list(settings.security_groups),
        # Session tokens only, and none beyond the machine itself (no container behind another hop gets one).
        "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")],
        "UserData": user_data(intent),
    }
    if intent.slot in settings.addresses:
        asked["PrivateIpAddress"] = settings.addresses[intent.slot]
    if settings.instance_profile:
        asked["IamInstanceProfile"] = {"Name": settings.instance_profile}
    return asked


def user_data(intent: LaunchIntent) -> str:
    """What cloud-init does at the first boot. Every guest process may read it, so it holds nothing secret.

    Host keys are made anew on the machine and shown on its console, where the platform reads them
    (https://docs.cloud-init.io/en/latest/reference/modules.html#ssh).
    """
    wanted: dict[str, Any] = {
        "hostname": intent.host_name,
        "disable_root": False,
        "ssh_deletekeys": True,
        "ssh_genkeytypes": ["ed25519", "ecdsa", "rsa"],
        "ssh": {"emit_keys_to_console": True},
    }
    if intent.authorized_key:
        wanted["ssh_authorized_keys"] = [intent.authorized_key]
    # JSON is YAML, and quotes whatever a key's comment may hold.
    return f"#cloud-config\n{json.dumps(wanted, indent=1)}\n"
