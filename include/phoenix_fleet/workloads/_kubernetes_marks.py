"""What is written on a workload: whose it is, what it was told to run, and what it goes back to.

All of it is in labels and annotations of the workload itself and applied together with the image in one call, so
there is no moment in which one of them is there without the other.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from phoenix_fleet.domain.errors import InvalidSpec, NotOurs
from phoenix_fleet.domain.models import OWNER
from phoenix_fleet.kubernetesapi import Object
from phoenix_fleet.workloads.base import Revision

OWNER_LABEL, FLEET_LABEL, VERSION_LABEL = "phoenix.owner", "phoenix.fleet", "phoenix.version"
CURRENT, PREVIOUS, UNDONE, FINGERPRINT = (
    "phoenix.current",
    "phoenix.previous",
    "phoenix.undone",
    "phoenix.fingerprint",
)
CHANGE_CAUSE = "kubernetes.io/change-cause"
"""``kubectl rollout history`` shows it."""
_BY_DIGEST = re.compile(r"^[^@\s]+@(sha256:[0-9a-f]{64})$")


@dataclass(frozen=True, slots=True)
class Marks:
    """What a workload's marks say, held against the image that it really has."""

    current: Revision
    previous: Revision | None = None
    undone: Revision | None = None
    fingerprint: str = ""
    cause: str = ""


def called(found: Object) -> str:
    """``Deployment shop/api``."""
    return f"{found['kind']} {found['metadata']['namespace']}/{found['metadata']['name']}"


def check_ours(found: Object, fleet: str = "") -> None:
    """Return if it is marked as ours, and as that fleet's where one is named.

    :raises NotOurs: otherwise, with how its owner marks it.
    """
    labels = found["metadata"].get("labels") or {}
    wanted = {OWNER_LABEL: OWNER, **({FLEET_LABEL: fleet} if fleet else {})}
    if any(labels.get(key) != value for key, value in wanted.items()):
        told = ", ".join(f"{key}={value}" for key, value in wanted.items())
        raise NotOurs(
            f"{called(found)} does not carry {told}.",
            remedy="Label it so if it is to be rolled by us, or correct the fleet's file.",
        )


def digest_of(reference: str) -> str:
    """The digest in an image's reference; empty if it names none."""
    match = _BY_DIGEST.match(reference)
    return match[1] if match else ""


def container_of(found: Object, name: str) -> Object:
    """The container whose image is ours to set: the one with that name, or the only one.

    :raises InvalidSpec: there is none, or several and no name.
    """
    containers: list[Object] = found["spec"]["template"]["spec"]["containers"]
    chosen = [each for each in containers if not name or each["name"] == name]
    if len(chosen) != 1:
        known = ", ".join(each["name"] for each in containers)
        what = f"no container '{name}'" if name else f"{len(containers)} containers"
        raise InvalidSpec(f"{called(found)} has {what}: {known}.", remedy="Name one of them as container.")
    return chosen[0]


def read(found: Object, container: str) -> Marks:
    """What the workload runs and goes back to.

    An image that is not the one in our marks was set by somebody else meanwhile: then what it was before is none of
    our business any more.

    :raises InvalidSpec: its image names no digest, so nobody could go back to it.
    """
    reference = str(container_of(found, container)["image"])
    annotations = found["metadata"].get("annotations") or {}
    current = _kept(annotations, CURRENT)
    if current is None or current.reference != reference:
        if not digest_of(reference):
            raise InvalidSpec(
                f"{called(found)} runs {reference}, which names no digest, so there would be no way back.",
                remedy="Set its image by digest once: name@sha256:….",
            )
        made = datetime.fromisoformat(found["metadata"]["creationTimestamp"].replace("Z", "+00:00"))
        return Marks(Revision(reference, digest_of(reference), started_at=made))
    return Marks(
        current,
        _kept(annotations, PREVIOUS),
        _kept(annotations, UNDONE),
        str(annotations.get(FINGERPRINT, "")),
        str(annotations.get(CHANGE_CAUSE, "")),
    )


def written(found: Object, container: str, marks: Marks) -> Object:
    """All fields that are ours, for a server-side apply to exactly the workload that was read."""
    metadata, current = found["metadata"], marks.current
    version = {VERSION_LABEL: current.version} if current.version else {}
    told: dict[str, Any] = {CURRENT: current.data(), FINGERPRINT: marks.fingerprint, CHANGE_CAUSE: marks.cause}
    if marks.previous:
        told[PREVIOUS] = marks.previous.data()
    if marks.undone:
        told[UNDONE] = marks.undone.data()
    return {
        "apiVersion": "apps/v1",
        "kind": found["kind"],
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "labels": version,
            "annotations": {
                key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
                for key, value in told.items()
            },
        },
        "spec": {
            "template": {
                "metadata": {"labels": version},
                "spec": {
                    "containers": [
                        {"name": container_of(found, container)["name"], "image": current.reference},
                    ]
                },
            }
        },
    }


def _kept(annotations: dict[str, str], key: str) -> Revision | None:
    """The revision kept there; None if there is none, or what is there is not ours."""
    try:
        data = json.loads(annotations.get(key) or "null")
        return Revision.of(data) if isinstance(data, dict) else None
    except ValueError:
        return None
