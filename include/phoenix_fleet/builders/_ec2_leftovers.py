"""What builds on EC2 leave when they are killed: found by their marks, removed in the order that EC2 lets them go.

A machine, volume, security group, AMI or snapshot is a build's if it has our owner's tag, a build id and the end of
its time; a key pair if its name says both, and an AMI that was not tagged yet if its description does: that is all
that can be said of them at birth.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from phoenix_fleet import aws
from phoenix_fleet.builders.base import BUILD_ID, BUILD_MARK, NAME, UNTIL_MARK, Log, Run, is_over
from phoenix_fleet.domain.models import OWNER
from phoenix_fleet.platforms import _ec2_view as view

IsDue = Callable[[str, str], bool]
"""Whether what has that build id and that end of its time is to be removed."""

PATIENCE = 300
"""Seconds that a terminated machine may take to let its security group go."""
_PAUSE = 3
_PAGE = 1000
_KEY = re.compile(rf"{NAME}(?P<id>{BUILD_ID})\.(?P<until>\d{{9,12}})")
_DESCRIPTION = re.compile(rf"{BUILD_MARK}=(?P<id>{BUILD_ID}) {UNTIL_MARK}=(?P<until>\d{{9,12}})")
_HELD = ("DependencyViolation", "InvalidGroup.InUse", "VolumeInUse", "InvalidSnapshot.InUse", "IncorrectState")
"""What EC2 says of a thing that another one still needs."""

_Left = tuple[str, str, Callable[[], Any]]
"""Kind, id, and how it is removed."""


def key_name(run: Run) -> str:
    """Name of the temporary key pair: key pairs cannot be tagged by every Packer."""
    return f"{run.name}.{run.until}"


def description(run: Run) -> str:
    """Description of the AMI: what it is marked with at birth, since its tags come later."""
    return f"{BUILD_MARK}={run.build_id} {UNTIL_MARK}={run.until}"


def marks(run: Run) -> dict[str, str]:
    """Tags of whatever else the build makes."""
    return {view.OWNER_MARK: OWNER, BUILD_MARK: run.build_id, UNTIL_MARK: str(run.until)}


def past_their_time() -> IsDue:
    """Of builds that cannot run any more."""
    now = time.time()
    return lambda build_id, until: is_over(build_id, until, now)


def remove(client: Any, is_due: IsDue, log: Log, *, patience: float = 0) -> None:
    """Remove what is due. What something else still holds is tried again for ``patience`` seconds, then left."""
    end = time.monotonic() + patience
    said: set[str] = set()
    while True:
        left = 0
        for kind, found, take in _due(client, is_due):
            if found not in said:
                said.add(found)
                log(f"build: removing the {kind} {found}, left behind by a build")
            left += not _gone(take)
        if not left or time.monotonic() >= end:
            return
        time.sleep(_PAUSE)


def _due(client: Any, is_due: IsDue) -> Iterator[_Left]:
    """Each kind after what may hold it. A machine on its way out counts: it holds others."""
    tagged = _tagged(is_due)
    for machine in tagged(_machines(client), "InstanceId"):
        if machine["State"]["Name"] != "terminated":
            yield "machine", machine["InstanceId"], _ending(client, machine)
    for pair in client.describe_key_pairs(Filters=[{"Name": "key-name", "Values": [f"{NAME}*"]}])["KeyPairs"]:
        match = _KEY.fullmatch(str(pair.get("KeyName")))
        if match and is_due(match["id"], match["until"]):
            yield "key pair", pair["KeyName"], _call(client.delete_key_pair, KeyName=pair["KeyName"])
    for group in tagged(_pages(client, "describe_security_groups", "SecurityGroups"), "GroupId"):
        yield "security group", group["GroupId"], _call(client.delete_security_group, GroupId=group["GroupId"])
    for volume in tagged(_pages(client, "describe_volumes", "Volumes"), "VolumeId"):
        yield "volume", volume["VolumeId"], _call(client.delete_volume, VolumeId=volume["VolumeId"])
    for image in _images(client, is_due):
        yield "AMI", image["ImageId"], _deregistering(client, image)
    for snapshot in tagged(_pages(client, "describe_snapshots", "Snapshots", OwnerIds=["self"]), "SnapshotId"):
        yield "snapshot", snapshot["SnapshotId"], _call(client.delete_snapshot, SnapshotId=snapshot["SnapshotId"])


def _tagged(is_due: IsDue) -> Callable[[Sequence[Mapping[str, Any]], str], list[Mapping[str, Any]]]:
    def those(found: Sequence[Mapping[str, Any]], key: str) -> list[Mapping[str, Any]]:
        view.check_honoured(found, {view.OWNER_MARK: OWNER}, key)
        return [each for each in found if _is_due(view.tags(each), is_due)]

    return those


def _is_due(own: Mapping[str, str], is_due: IsDue) -> bool:
    return own.get(view.OWNER_MARK) == OWNER and is_due(own.get(BUILD_MARK, ""), own.get(UNTIL_MARK, ""))


def _machines(client: Any) -> list[dict[str, Any]]:
    return [each for group in _pages(client, "describe_instances", "Reservations") for each in group["Instances"]]


def _pages(client: Any, call: str, key: str, **asked: Any) -> list[dict[str, Any]]:
    """What has our owner's tag and a build's, of every page."""
    filters = [*view.filters({view.OWNER_MARK: OWNER}), {"Name": "tag-key", "Values": [UNTIL_MARK]}]
    pages = client.get_paginator(call).paginate(Filters=filters, PaginationConfig={"PageSize": _PAGE}, **asked)
    return [each for page in pages for each in page[key]]


def _images(client: Any, is_due: IsDue) -> list[dict[str, Any]]:
    """Unfinished AMIs: a finished one has no end of its time in its tags, and those count before its description."""
    found = {str(each["ImageId"]): each for each in _pages(client, "describe_images", "Images", Owners=["self"])}
    born = [{"Name": "description", "Values": [f"{BUILD_MARK}=*"]}]
    pages = client.get_paginator("describe_images").paginate(
        Owners=["self"], Filters=born, PaginationConfig={"PageSize": _PAGE}
    )
    found |= {str(each["ImageId"]): each for page in pages for each in page["Images"]}
    return [each for each in found.values() if _is_unfinished(each, is_due)]


def _is_unfinished(image: Mapping[str, Any], is_due: IsDue) -> bool:
    own = view.tags(image)
    if any(key.startswith("phoenix.") for key in own):
        return _is_due(own, is_due)
    match = _DESCRIPTION.fullmatch(str(image.get("Description")))
    return match is not None and is_due(match["id"], match["until"])


def _deregistering(client: Any, image: Mapping[str, Any]) -> Callable[[], Any]:
    def take() -> None:
        snapshots = [
            each["Ebs"]["SnapshotId"]
            for each in image.get("BlockDeviceMappings") or []
            if (each.get("Ebs") or {}).get("SnapshotId")
        ]
        own = view.tags(image)
        match = _DESCRIPTION.fullmatch(str(image.get("Description")))
        told = {
            view.OWNER_MARK: OWNER,
            BUILD_MARK: own.get(BUILD_MARK) or (match["id"] if match else ""),
            UNTIL_MARK: own.get(UNTIL_MARK) or (match["until"] if match else ""),
        }
        # EC2 forgets with an AMI which snapshots were its own; and only what is tagged may be deleted.
        tags = [{"Key": key, "Value": value} for key, value in told.items()]
        client.create_tags(Resources=[image["ImageId"], *snapshots], Tags=tags)
        client.deregister_image(ImageId=image["ImageId"])

    return take


def _ending(client: Any, machine: Mapping[str, Any]) -> Callable[[], Any]:
    def take() -> bool:
        if machine["State"]["Name"] != "shutting-down":
            client.terminate_instances(InstanceIds=[machine["InstanceId"]])
        return False  # it is gone only once EC2 says so

    return take


def _call(call: Any, **asked: Any) -> Callable[[], Any]:
    return lambda: call(**asked)


def _gone(take: Callable[[], Any]) -> bool:
    """Whether it is away now; what is held by something else is not."""
    from botocore.exceptions import ClientError  # here: reading an image file must not load the SDK

    try:
        return take() is not False
    except ClientError as error:
        code = aws.code_of(error)
        if code in _HELD:
            return False
        if code.endswith(".NotFound") or code in ("InvalidKeyPair.NotFound", "InvalidAMIID.Unavailable"):
            return True
        raise
