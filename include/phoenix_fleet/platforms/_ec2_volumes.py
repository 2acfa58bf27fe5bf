"""Data volumes on EC2: EBS volumes with tags that say whose slot they belong to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from phoenix_fleet import aws
from phoenix_fleet.domain.errors import InUse, InvalidSpec, NotFound, NotOurs, Unavailable
from phoenix_fleet.domain.models import OWNER
from phoenix_fleet.domain.volumes import Snapshot, Volume, VolumeIntent, VolumeState
from phoenix_fleet.platforms import _ec2_view as view

_NAME_MARK = "phoenix.volume"
"""Only data volumes have it: root volumes carry the other marks of their instance too."""
_SNAPSHOT_MARK = "phoenix.snapshot"
_ID = re.compile(r"vol-(?:[0-9a-f]{8}|[0-9a-f]{17})")
_PAGE = 500
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Volume.html and API_VolumeAttachment.html
_STATES = {"creating": VolumeState.CREATING, "available": VolumeState.FREE}
_ATTACHMENTS = {
    "attaching": VolumeState.ATTACHING,
    "attached": VolumeState.ATTACHED,
    "detaching": VolumeState.DETACHING,
    "busy": VolumeState.DETACHING,
}
_DEVICES = tuple(f"/dev/sd{letter}" for letter in "fghijklmnop")
"""Recommended for data volumes: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/device_naming.html"""


class VolumeSettings(BaseModel):
    """What a fleet file may say of an EBS volume."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str = Field("gp3", description="Volume type. Default: gp3.", pattern=r"^(gp2|gp3|io1|io2|st1|sc1|standard)$")
    iops: int | None = Field(None, ge=100, le=256000, description="IOPS, for gp3, io1 and io2. Default: the type's.")
    throughput: int | None = Field(None, ge=125, le=2000, description="MiB/s, for gp3. Default: the type's.")
    encrypted: bool = Field(True, description="Whether it is encrypted. Default: true.")
    kms_key: str = Field(
        "",
        description="KMS key, by id, ARN or alias. Default: the account's for EBS.",
        max_length=256,
        pattern=r"^[A-Za-z0-9_:/-]*$",
    )


def listed(client: Any, fleet: str) -> list[Volume]:
    """Every data volume of ours with that fleet's tag, of every page."""
    wanted = {view.OWNER_MARK: OWNER, view.FLEET_MARK: fleet}
    pages = client.get_paginator("describe_volumes").paginate(
        Filters=[*view.filters(wanted), {"Name": "tag-key", "Values": [_NAME_MARK]}],
        PaginationConfig={"PageSize": _PAGE},
    )
    found = [each for page in pages for each in page["Volumes"]]
    view.check_honoured(found, wanted, "VolumeId")
    return sorted((_volume(each) for each in found if _is_data(each)), key=lambda each: each.label)


def make(client: Any, intent: VolumeIntent) -> Volume:
    """The volume that the token gives: EC2 itself keeps it."""
    if not intent.zone:
        raise InvalidSpec(f"{intent.label}: an EBS volume needs a zone.", remedy="Make it for an instance that stands.")
    options = VolumeSettings.model_validate(dict(intent.options))
    marks = {
        view.NAME: intent.label,
        view.OWNER_MARK: OWNER,
        view.FLEET_MARK: intent.fleet,
        view.SLOT_MARK: intent.slot,
        _NAME_MARK: intent.name,
    }
    more = intent.settings.get("tags") or {}
    asked: dict[str, Any] = {
        "ClientToken": intent.token,
        "AvailabilityZone": intent.zone,
        "Size": intent.size_gib,
        "VolumeType": options.type,
        "Encrypted": options.encrypted,
        "TagSpecifications": _tagged("volume", {**more, **marks}),
    }
    asked |= {key: value for key, value in (("Iops", options.iops), ("Throughput", options.throughput)) if value}
    if options.kms_key:
        asked["KmsKeyId"] = options.kms_key
    made = client.create_volume(**asked)
    return _volume({**made, "Tags": [{"Key": key, "Value": value} for key, value in marks.items()]})


def snapshots(client: Any, volume_id: str, token: str = "") -> list[Snapshot]:
    """Every snapshot of ours of that volume, or those with the token."""
    wanted = {view.OWNER_MARK: OWNER, **({_SNAPSHOT_MARK: token} if token else {})}
    own = [{"Name": "volume-id", "Values": [volume_id]}, *view.filters(wanted)]
    pages = client.get_paginator("describe_snapshots").paginate(
        OwnerIds=["self"], Filters=own, PaginationConfig={"PageSize": _PAGE}
    )
    found = [each for page in pages for each in page["Snapshots"]]
    view.check_honoured(found, wanted, "SnapshotId")
    if any(each["VolumeId"] != volume_id for each in found):
        raise Unavailable(f"EC2 ignored the filter volume-id {volume_id}.", remedy="Its answer says nothing.")
    return [_snapshot(each) for each in found if view.tags(each).get(_SNAPSHOT_MARK)]


def snapshot(client: Any, volume_id: str, token: str) -> Snapshot:
    """The token's snapshot. EC2 takes no token for this call: a reply that was lost may leave one too many."""
    seen = inspect(client, volume_id)
    if known := snapshots(client, volume_id, token):
        return known[0]
    own = view.tags(seen)
    marks = {mark: own[mark] for mark in (view.NAME, view.FLEET_MARK, view.SLOT_MARK, _NAME_MARK) if mark in own}
    marks |= {view.OWNER_MARK: OWNER, _SNAPSHOT_MARK: token}
    made = client.create_snapshot(
        VolumeId=volume_id,
        Description=f"before {own.get(_NAME_MARK)} of {own.get(view.SLOT_MARK)} moves",
        TagSpecifications=_tagged("snapshot", marks),
    )
    return _snapshot({**made, "Tags": [{"Key": key, "Value": value} for key, value in marks.items()]})


def delete_snapshot(client: Any, volume_id: str, snapshot_id: str) -> None:
    """Delete it if it is one of ours of that volume."""
    if snapshot_id not in [each.id for each in snapshots(client, volume_id)]:
        return
    try:
        client.delete_snapshot(SnapshotId=snapshot_id)
    except view.client_error() as error:
        if aws.code_of(error) != "InvalidSnapshot.NotFound":  # somebody else was quicker
            raise


def detach(client: Any, volume_id: str, holder: Mapping[str, Any] | None, instance_id: str) -> None:
    """Ask for it, unless somebody else has the volume. Never by force: that loses what was not written.

    :param holder: what EC2 says of the instance; None if it does not show it any more
    """
    attached = _attachment(inspect(client, volume_id))
    if attached is None or attached["InstanceId"] != instance_id or attached["State"] in ("detaching", "busy"):
        return
    if holder is not None and holder["State"]["Name"] not in ("stopped", "terminated"):
        raise InUse(
            f"{instance_id} is {holder['State']['Name']} and may write to {volume_id}.", remedy="Stop it first."
        )
    client.detach_volume(VolumeId=volume_id, InstanceId=instance_id)


def attach(client: Any, volume_id: str, instance: Mapping[str, Any]) -> None:
    """Ask for it at the first free device."""
    instance_id = instance["InstanceId"]
    attached = _attachment(inspect(client, volume_id))
    if attached is not None:
        if attached["InstanceId"] == instance_id:
            return
        raise InUse(f"{volume_id} is {attached['State']} at {attached['InstanceId']}.", remedy="See whose that is.")
    taken = {str(each["DeviceName"]) for each in instance.get("BlockDeviceMappings") or ()}
    free = [each for each in _DEVICES if each not in taken]
    if not free:
        raise InvalidSpec(f"{instance_id} has no device left for {volume_id}.", remedy="Declare fewer volumes.")
    try:
        client.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device=free[0])
    except view.client_error() as error:
        if aws.code_of(error) == "VolumeInUse":
            raise InUse(f"{volume_id} is in use by another instance.", remedy="See whose that is.") from error
        raise


def inspect(client: Any, volume_id: str) -> dict[str, Any]:
    """What EC2 says of exactly that data volume of ours.

    :raises NotFound: it is not to be seen. :raises NotOurs: it lacks our marks.
    """
    missing = NotFound(f"There is no volume {volume_id!r} to be seen.", remedy="Look again; reads may be late.")
    if not _ID.fullmatch(volume_id):
        raise missing
    try:
        found = client.describe_volumes(VolumeIds=[volume_id])["Volumes"]
    except view.client_error() as error:
        if aws.code_of(error) in ("InvalidVolume.NotFound", "InvalidParameterValue"):
            raise missing from None
        raise
    seen: dict[str, Any] | None = next((each for each in found if each["VolumeId"] == volume_id), None)
    if seen is None:
        raise missing
    if view.tags(seen).get(view.OWNER_MARK) != OWNER or not _is_data(seen):
        raise NotOurs(f"The volume {volume_id} is no data volume of ours.", remedy="Ask whose it is.")
    return seen


def _is_data(seen: Mapping[str, Any]) -> bool:
    own = view.tags(seen)
    return all(own.get(mark) for mark in (view.FLEET_MARK, view.SLOT_MARK, _NAME_MARK))


def _attachment(seen: Mapping[str, Any]) -> dict[str, Any] | None:
    """What has it, or had it until a moment ago; more than one never is, since ours are made for one instance."""
    living = [each for each in seen.get("Attachments") or () if each.get("State") != "detached"]
    found: dict[str, Any] | None = living[0] if living else None
    return found


def _volume(seen: Mapping[str, Any]) -> Volume:
    own, attached = view.tags(seen), _attachment(seen)
    word = str(seen.get("State", ""))
    state = _STATES.get(word, VolumeState.FAILED)
    if attached is not None:
        state = _ATTACHMENTS.get(str(attached.get("State")), VolumeState.FAILED)
    elif word == "in-use":  # EC2 says no more by whom
        state = VolumeState.DETACHING
    volume_id = str(seen["VolumeId"])
    return Volume(
        id=volume_id,
        fleet=own.get(view.FLEET_MARK, ""),
        slot=own.get(view.SLOT_MARK, ""),
        name=own.get(_NAME_MARK, ""),
        state=state,
        attached_to=str(attached["InstanceId"]) if attached else "",
        device=device(volume_id) if state is VolumeState.ATTACHED else "",
        zone=str(seen.get("AvailabilityZone") or ""),
    )


def device(volume_id: str) -> str:
    """Where udev shows it on a Nitro machine, whatever device was asked for.

    https://docs.aws.amazon.com/ebs/latest/userguide/nvme-ebs-volumes.html: the NVMe serial number is the volume's id.
    """
    return f"/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_{volume_id.replace('-', '')}"


def _snapshot(seen: Mapping[str, Any]) -> Snapshot:
    """Pending is taken: it holds what was written when it was asked for, and the volume may go on.

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateSnapshot.html
    """
    word = str(seen.get("State", ""))
    failed = f"{word}: {seen.get('StateMessage') or 'EC2 does not say why'}" if word == "error" else ""
    taken = word in ("pending", "completed")
    return Snapshot(
        str(seen["SnapshotId"]), str(seen["VolumeId"]), view.tags(seen).get(_SNAPSHOT_MARK, ""), taken, failed
    )


def _tagged(kind: str, marks: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in marks.items()]}]
