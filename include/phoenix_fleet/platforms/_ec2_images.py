"""Images of ours on EC2: AMIs with our tags, and the snapshots behind them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from botocore.exceptions import ClientError

from phoenix_fleet import aws
from phoenix_fleet.domain.errors import NotFound, NotOurs
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import OWNER, Artefact
from phoenix_fleet.platforms import _ec2_view as view

_VERSION = re.compile(r"\d{4}\.\d{2}-\d+")
_PAGE = 1000


def of_family(client: Any, family: str) -> Sequence[tuple[Artefact, dict[str, str]]]:
    """Every AMI of this account with our tags and that family's, by version."""
    wanted = {view.OWNER_MARK: OWNER, view.FAMILY_MARK: family}
    pages = client.get_paginator("describe_images").paginate(
        Owners=["self"], Filters=view.filters(wanted), PaginationConfig={"PageSize": _PAGE}
    )
    seen = [image for page in pages for image in page["Images"]]
    view.check_honoured(seen, wanted, "ImageId")
    found = []
    for image in seen:
        marks = view.tags(image)
        version = marks.get(view.VERSION_MARK, "")
        if _VERSION.fullmatch(version):
            status = marks.get(view.STATUS_MARK) or str(Rung.CANDIDATE)
            found.append((_artefact(str(image["ImageId"])), {"version": version, "status": status}))
    return sorted(found, key=lambda entry: (entry[1]["version"], entry[0].reference))


def tag(client: Any, artefact: Artefact, status: Rung) -> None:
    """Write the rung into the AMI's tags.

    :raises NotFound: there is no such AMI.
    :raises NotOurs: it lacks our tags.
    """
    image = find(client, artefact)
    if image is None:
        raise NotFound(f"There is no AMI {artefact.reference} in this account.", remedy="Build it again.")
    _mark(client, artefact.reference, {view.STATUS_MARK: str(status)})


def delete(client: Any, artefact: Artefact) -> None:
    """Deregister the AMI and delete its snapshots; goes on where a crash in between left it.

    EC2 forgets with an AMI which snapshots were its own, so they are told before: each is tagged with the AMI's id.
    """
    image = find(client, artefact)
    if image is not None:
        for mapping in image.get("BlockDeviceMappings") or []:
            snapshot = (mapping.get("Ebs") or {}).get("SnapshotId")
            if snapshot:
                _mark(client, snapshot, {view.OWNER_MARK: OWNER, view.IMAGE_MARK: artefact.reference})
        _unless_gone(client.deregister_image, "InvalidAMIID.Unavailable", ImageId=artefact.reference)
    wanted = {view.OWNER_MARK: OWNER, view.IMAGE_MARK: artefact.reference}
    pages = client.get_paginator("describe_snapshots").paginate(
        OwnerIds=["self"], Filters=view.filters(wanted), PaginationConfig={"PageSize": _PAGE}
    )
    left = [snapshot for page in pages for snapshot in page["Snapshots"]]
    view.check_honoured(left, wanted, "SnapshotId")
    for snapshot in left:
        # Another AMI that was made from the same snapshot still needs it.
        _unless_gone(client.delete_snapshot, "InvalidSnapshot.InUse", SnapshotId=snapshot["SnapshotId"])


def _artefact(image_id: str) -> Artefact:
    return Artefact("ec2", image_id, view.digest(image_id))


def find(client: Any, artefact: Artefact) -> dict[str, Any] | None:
    """What EC2 says of the AMI; None if there is none.

    :raises NotOurs: it lacks our tags.
    """
    if not view.IMAGE_ID.fullmatch(artefact.reference):
        return None
    try:
        found = client.describe_images(Owners=["self"], ImageIds=[artefact.reference])["Images"]
    except ClientError as error:
        if aws.code_of(error) not in ("InvalidAMIID.NotFound", "InvalidAMIID.Unavailable"):
            raise
        return None
    image: dict[str, Any] | None = next((each for each in found if each["ImageId"] == artefact.reference), None)
    if image is None or image.get("State") == "deregistered":
        return None
    marks = view.tags(image)
    if marks.get(view.OWNER_MARK) != OWNER or not _VERSION.fullmatch(marks.get(view.VERSION_MARK, "")):
        raise NotOurs(f"{artefact.reference} does not carry our tags.", remedy="Ask whose image it is.")
    return image


def _mark(client: Any, resource: str, marks: dict[str, str]) -> None:
    client.create_tags(Resources=[resource], Tags=[{"Key": key, "Value": value} for key, value in marks.items()])


def _unless_gone(call: Any, also: str, **asked: Any) -> None:
    """Do it; that it is not there, or that other code, is fine."""
    try:
        call(**asked)
    except ClientError as error:
        code = aws.code_of(error)
        if not code.endswith(".NotFound") and code != also:
            raise
