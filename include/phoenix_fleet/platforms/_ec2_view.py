"""What EC2 says of an instance, in our words: marks (tags), states, identity."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from phoenix_fleet.domain.errors import IntentMismatch, Unavailable
from phoenix_fleet.domain.models import OWNER, Instance, InstanceState, LaunchIntent

OWNER_MARK = "phoenix.owner"
FAMILY_MARK = "phoenix.family"
VERSION_MARK = "phoenix.version"
STATUS_MARK = "phoenix.status"
IMAGE_MARK = "phoenix.image"
FLEET_MARK = "phoenix.fleet"
TOKEN_MARK = "phoenix.token"  # noqa: S105 (a tag's name)
SLOT_MARK = "phoenix.slot"
_PURPOSE_MARK = "phoenix.purpose"
_FINGERPRINT_MARK = "phoenix.fingerprint"
NAME = "Name"

INSTANCE_ID = re.compile(r"i-(?:[0-9a-f]{8}|[0-9a-f]{17})")
IMAGE_ID = re.compile(r"ami-(?:[0-9a-f]{8}|[0-9a-f]{17})")

# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-lifecycle.html
_STATES = {
    "pending": InstanceState.STARTING,
    "running": InstanceState.RUNNING,
    "shutting-down": InstanceState.STOPPING,
    "stopping": InstanceState.STOPPING,
    "stopped": InstanceState.FAILED,  # it answers nobody and costs its volumes until a person starts it
    "terminated": InstanceState.GONE,
}
LIVING = ("pending", "running", "shutting-down", "stopping", "stopped")
"""EC2's words for all but what is gone; it goes on showing that for about an hour."""

_KEYS = re.compile(r"-----BEGIN SSH HOST KEY KEYS-----\r?\n(?P<keys>.*?)-----END SSH HOST KEY KEYS-----", re.DOTALL)
_KEY = re.compile(
    r"(?:\[[^\]\n]*\] cloud-init\[\d+\]: )?"
    r"(?P<key>(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)) [A-Za-z0-9+/]{32,}={0,2})(?:\s[^\n]*)?"
)


def marks(intent: LaunchIntent) -> dict[str, str]:
    """The tags that an instance of ours and its volumes are born with."""
    return {
        NAME: intent.name,
        OWNER_MARK: OWNER,
        FLEET_MARK: intent.fleet,
        SLOT_MARK: intent.slot,
        FAMILY_MARK: intent.family,
        VERSION_MARK: intent.version,
        _PURPOSE_MARK: intent.purpose,
        TOKEN_MARK: intent.token,
        _FINGERPRINT_MARK: intent.fingerprint,
    }


def tags(seen: Mapping[str, Any]) -> dict[str, str]:
    """The tags of whatever EC2 describes."""
    return {str(tag["Key"]): str(tag.get("Value", "")) for tag in seen.get("Tags") or []}


def is_ours(marks: Mapping[str, str]) -> bool:
    """Whether the tags are those of a launch of ours; the owner's alone proves nothing, since images have it too."""
    launched = all(marks.get(mark) for mark in (FLEET_MARK, SLOT_MARK, TOKEN_MARK, _FINGERPRINT_MARK))
    return launched and marks.get(OWNER_MARK) == OWNER


def check_same(marks: Mapping[str, str], intent: LaunchIntent) -> None:
    """Return if an instance with those tags was launched with this very intent.

    :raises IntentMismatch: otherwise.
    """
    if marks.get(TOKEN_MARK) != intent.token or marks.get(_FINGERPRINT_MARK) != intent.fingerprint:
        raise IntentMismatch(
            f"{intent.name} was launched for {marks.get(_PURPOSE_MARK)} with other parameters.",
            remedy="Launch a new attempt; parameters are frozen with an intent.",
        )


def filters(wanted: Mapping[str, str]) -> list[dict[str, Any]]:
    """Server-side filters for those tags; what EC2 would take for a wildcard is escaped.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html: ``*``, ``?`` and the backslash.
    """
    return [{"Name": f"tag:{mark}", "Values": [re.sub(r"([*?\\])", r"\\\1", value)]} for mark, value in wanted.items()]


def check_honoured(found: Iterable[Mapping[str, Any]], wanted: Mapping[str, str], key: str) -> None:
    """Return if everything listed has the tags that were asked for; ``key`` is where its id is.

    :raises Unavailable: a filter was dropped on the way, so the answer says nothing about what there is.
    """
    for seen in found:
        own = tags(seen)
        if any(own.get(mark) != value for mark, value in wanted.items()):
            raise Unavailable(
                f"EC2 ignored the filter {dict(wanted)}: it listed {seen.get(key)}.",
                remedy="Its answer says nothing about what there is; look at what lies between here and EC2.",
            )


def digest(image_id: str) -> str:
    """The digest that stands for an AMI.

    EC2 tells none of an AMI's content. But an id is never used again and what an AMI holds cannot be changed, so the
    hash of the id is bound to the content as a digest is. It can be told of every instance, even once the AMI is gone.
    """
    return f"sha256:{hashlib.sha256(image_id.encode()).hexdigest()}"


def state(word: str) -> InstanceState:
    """Our word for EC2's; a word that it never had before is a failure to look into."""
    return _STATES.get(word, InstanceState.FAILED)


def instance(
    seen: Mapping[str, Any],
    *,
    public: bool = False,
    host_keys: tuple[str, ...] = (),
    born_with: Mapping[str, str] | None = None,
) -> Instance:
    """The instance, from EC2's description of it.

    :param public: whether its address is the public one
    :param born_with: its tags, where the description leaves them out
    """
    own = tags(seen) or dict(born_with or {})
    word = str((seen.get("State") or {}).get("Name", ""))
    found = state(word)
    launched = seen.get("LaunchTime")
    place = seen.get("Placement") or {}
    image_id = str(seen.get("ImageId") or "")
    return Instance(
        id=str(seen["InstanceId"]),
        name=own.get(NAME, ""),
        fleet=own.get(FLEET_MARK, ""),
        slot=own.get(SLOT_MARK, ""),
        version=own.get(VERSION_MARK, ""),
        token=own.get(TOKEN_MARK, ""),
        state=found,
        address=str(seen.get("PublicIpAddress" if public else "PrivateIpAddress") or ""),
        digest=digest(image_id) if image_id else "",
        launched_at=launched.astimezone(UTC) if isinstance(launched, datetime) else None,
        host_keys=host_keys,
        message=_reason(seen, word) if found is InstanceState.FAILED else "",
        zone=str(place.get("AvailabilityZone") or ""),
        host=str(place.get("HostId") or ""),
    )


def _reason(seen: Mapping[str, Any], word: str) -> str:
    said = (seen.get("StateReason") or {}).get("Message") or seen.get("StateTransitionReason") or ""
    return f"{word}: {said}" if said else word


def host_keys(console: str) -> tuple[str, ...]:
    """The public SSH host keys in the last complete block that cloud-init wrote to the console; none before it did.

    ``cc_keys_to_console`` writes them between two lines of dashes, and a machine's keys are those of its last boot:
    https://docs.cloud-init.io/en/latest/reference/modules.html#keys-to-console
    """
    blocks = list(_KEYS.finditer(console))
    if not blocks:
        return ()
    lines = (line.strip() for line in blocks[-1]["keys"].splitlines())
    found = (_KEY.fullmatch(line) for line in lines)
    return tuple(dict.fromkeys(match["key"] for match in found if match))


def client_error() -> type[Any]:
    """The SDK's error for what EC2 answered; loaded only once it is needed."""
    from botocore.exceptions import ClientError

    found: type[Any] = ClientError
    return found
