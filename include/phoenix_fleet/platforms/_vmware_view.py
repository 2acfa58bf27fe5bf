"""What a virtual machine's marks and states mean: pure functions over the properties that vCenter answers."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from phoenix_fleet.domain.errors import IntentMismatch
from phoenix_fleet.domain.models import OWNER, Instance, InstanceState, LaunchIntent

OWNER_MARK = "phoenix.owner"
FAMILY_MARK = "phoenix.family"
VERSION_MARK = "phoenix.version"
FLEET_MARK = "phoenix.fleet"
TOKEN_MARK = "phoenix.token"  # noqa: S105 (a key's name)
DIGEST_MARK = "phoenix.digest"
TERMINATING_MARK = "phoenix.terminating"
STATUS_FIELD = "phoenix.status"
"""The custom attribute that shows a template's rung."""
HOST_KEYS = "guestinfo.phoenix.hostkeys"
"""Written by the guest: the only key of ours that it can write."""
_SLOT_MARK = "phoenix.slot"
_PURPOSE_MARK = "phoenix.purpose"
_FINGERPRINT_MARK = "phoenix.fingerprint"
_LAUNCHED_MARK = "phoenix.launched"

VM_PATHS = (
    "name",
    "config.template",
    "config.instanceUuid",
    "config.extraConfig",
    "runtime.powerState",
    "runtime.connectionState",
    "runtime.host",
    "guest.ipAddress",
)
"""What an instance is read from."""

_STOPPING_FOR = timedelta(minutes=5)
"""So long after it was told to terminate a machine counts as stopping; then it is what it is, and is told again."""
_STARTING_FOR = timedelta(hours=1)
"""So long after its launch a machine that was never on counts as starting: a full clone copies its disks first."""
_LOST = ("inaccessible", "invalid", "orphaned")
_VERSION = re.compile(r"\d{4}\.\d{2}-\d+")
_HOST_KEY = re.compile(r"(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)) [A-Za-z0-9+/]{32,}={0,2}(?=\s|,|$)")


def marks(intent: LaunchIntent, launched_at: datetime) -> dict[str, str]:
    """The ``extraConfig`` that a machine of ours is born with; a guest can neither read nor write these keys."""
    return {
        OWNER_MARK: OWNER,
        FLEET_MARK: intent.fleet,
        _SLOT_MARK: intent.slot,
        FAMILY_MARK: intent.family,
        VERSION_MARK: intent.version,
        _PURPOSE_MARK: intent.purpose,
        TOKEN_MARK: intent.token,
        DIGEST_MARK: intent.artefact.digest,
        _FINGERPRINT_MARK: intent.fingerprint,
        _LAUNCHED_MARK: launched_at.isoformat(timespec="seconds"),
        TERMINATING_MARK: "",  # what the template may have been cloned from was perhaps on its way out
        HOST_KEYS: "",
    }


def instance_id(token: str) -> str:
    """The ``instanceUuid`` of the machine with that token: its id for us, known before it is there."""
    return str(uuid.UUID(hex=token))


def options(seen: Mapping[str, Any]) -> dict[str, str]:
    """The machine's ``extraConfig``; of a key that is there twice the later one."""
    return {option.key: str(option.value) for option in seen.get("config.extraConfig") or ()}


def is_ours(seen: Mapping[str, Any]) -> bool:
    """Whether it was launched by us.

    A clone that somebody makes of a machine of ours by hand has all its marks, but never its ``instanceUuid``, which
    is the token. Templates of ours carry the owner's mark and no token.
    """
    own = options(seen)
    token = own.get(TOKEN_MARK, "")
    if own.get(OWNER_MARK) != OWNER or not all(own.get(mark) for mark in (FLEET_MARK, _SLOT_MARK, _FINGERPRINT_MARK)):
        return False
    return bool(re.fullmatch(r"[0-9a-f]{32}", token)) and seen.get("config.instanceUuid") == instance_id(token)


def may_be_ours(seen: Mapping[str, Any], fleet: str = "") -> bool:
    """Whether its marks cannot be read, and its name is like those of that fleet, or of any."""
    named = re.fullmatch(rf"{re.escape(fleet)}.*-[0-9a-f]{{8}}", str(seen.get("name", "")))
    return "config.extraConfig" not in seen and bool(named)


def check_same(seen: Mapping[str, Any], intent: LaunchIntent) -> None:
    """Return if that machine was launched with this very intent.

    :raises IntentMismatch: otherwise.
    """
    own = options(seen)
    if own.get(TOKEN_MARK) != intent.token or own.get(_FINGERPRINT_MARK) != intent.fingerprint:
        raise IntentMismatch(
            f"{intent.name} was launched for {own.get(_PURPOSE_MARK)} with other parameters.",
            remedy="Launch a new attempt; parameters are frozen with an intent.",
        )


def never_on(seen: Mapping[str, Any], powered: str, now: datetime) -> bool:
    """Whether it is off, was never on as far as vCenter's events (``powered``) tell, and may still come up."""
    launched = _moment(options(seen).get(_LAUNCHED_MARK))
    young = launched is not None and now - launched < _STARTING_FOR
    return seen.get("runtime.powerState") == "poweredOff" and not powered and young


def state(seen: Mapping[str, Any], powered: str, now: datetime) -> InstanceState:
    """Our word for what vCenter says; ``powered`` is its last event about power, empty if there is none."""
    told = _moment(options(seen).get(TERMINATING_MARK))
    if told is not None and now - told < _STOPPING_FOR:
        return InstanceState.STOPPING
    if seen.get("runtime.connectionState") in _LOST:
        return InstanceState.FAILED
    if seen.get("runtime.powerState") == "poweredOn":
        return InstanceState.RUNNING
    return InstanceState.STARTING if never_on(seen, powered, now) else InstanceState.FAILED


def instance(seen: Mapping[str, Any], host: str, powered: str, now: datetime, *, keys: bool) -> Instance:
    """The instance of a machine of ours, with its host keys where ``keys`` says so."""
    own = options(seen)
    found = state(seen, powered, now)
    return Instance(
        id=str(seen["config.instanceUuid"]),
        name=str(seen["name"]),
        fleet=own[FLEET_MARK],
        slot=own[_SLOT_MARK],
        version=own.get(VERSION_MARK, ""),
        token=own[TOKEN_MARK],
        state=found,
        address=str(seen.get("guest.ipAddress") or ""),
        digest=own.get(DIGEST_MARK, ""),
        launched_at=_moment(own.get(_LAUNCHED_MARK)),
        host_keys=host_keys(own) if keys and found is InstanceState.RUNNING else (),
        message=_message(seen, powered) if found is InstanceState.FAILED else "",
        host=host,
    )


def born(intent: LaunchIntent, now: datetime) -> Instance:
    """The instance as it was accepted, while vCenter does not show it yet."""
    return Instance(
        id=instance_id(intent.token),
        name=intent.name,
        fleet=intent.fleet,
        slot=intent.slot,
        version=intent.version,
        token=intent.token,
        state=InstanceState.STARTING,
        launched_at=now.replace(microsecond=0),
    )


def host_keys(own: Mapping[str, str]) -> tuple[str, ...]:
    """The public SSH host keys that the guest told, without comments; whatever else it told is left out."""
    return tuple(sorted(set(_HOST_KEY.findall(own.get(HOST_KEYS, "")[:16384]))))


def is_image(seen: Mapping[str, Any]) -> bool:
    """Whether it is a template that a build of ours made."""
    own = options(seen)
    proper = own.get(OWNER_MARK) == OWNER and own.get(FAMILY_MARK) and _VERSION.fullmatch(own.get(VERSION_MARK, ""))
    return bool(seen.get("config.template") and proper)


def template_digest(seen: Mapping[str, Any]) -> str:
    """``sha256:…`` over what vCenter says of a template's identity and of its disks' content.

    vSphere keeps no digest of a template. ``contentId`` changes when a disk is written to (VirtualDisk backings,
    vSphere Web Services API), ``uuid`` is the disk's own.
    """
    disks = []
    for device in seen.get("config.hardware.device") or ():
        backing = getattr(device, "backing", None)
        if hasattr(device, "capacityInKB"):
            disks.append([device.key, device.capacityInKB, _of(backing, "uuid"), _of(backing, "contentId")])
    identity = json.dumps([str(seen.get("config.instanceUuid")), sorted(disks)])
    return f"sha256:{hashlib.sha256(identity.encode()).hexdigest()}"


def custom_values(seen: Mapping[str, Any], fields: Sequence[Any]) -> dict[str, str]:
    """A machine's custom attributes by name."""
    names = {field.key: field.name for field in fields}
    return {names[value.key]: str(value.value) for value in seen.get("customValue") or () if value.key in names}


def _of(backing: Any, name: str) -> str:
    return str(getattr(backing, name, None) or "")


def _message(seen: Mapping[str, Any], powered: str) -> str:
    connection, power = seen.get("runtime.connectionState"), seen.get("runtime.powerState")
    if connection in _LOST:
        return f"vCenter shows it as {connection}"
    if power == "suspended":
        return "it is suspended"
    return powered or "it was never powered on"


def _moment(text: str | None) -> datetime | None:
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
