"""What a container's marks and states mean: pure functions over what the Docker engine answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from phoenix_fleet.domain.errors import IntentMismatch
from phoenix_fleet.domain.models import OWNER, Instance, InstanceState, LaunchIntent

OWNER_MARK = "phoenix.owner"
FAMILY_MARK = "phoenix.family"
VERSION_MARK = "phoenix.version"
FLEET_MARK = "phoenix.fleet"
TOKEN_MARK = "phoenix.token"  # noqa: S105 (a label's name)
_SLOT_MARK = "phoenix.slot"
_PURPOSE_MARK = "phoenix.purpose"
_FINGERPRINT_MARK = "phoenix.fingerprint"

_STATES = {
    "created": InstanceState.STARTING,
    "restarting": InstanceState.STARTING,
    "running": InstanceState.RUNNING,
    "removing": InstanceState.STOPPING,
    "exited": InstanceState.FAILED,
    "dead": InstanceState.FAILED,
    "paused": InstanceState.FAILED,  # it answers nobody until a person lets it go on
}


def marks(intent: LaunchIntent) -> dict[str, str]:
    """The labels that a container of ours is born with."""
    return {
        OWNER_MARK: OWNER,
        FLEET_MARK: intent.fleet,
        _SLOT_MARK: intent.slot,
        FAMILY_MARK: intent.family,
        VERSION_MARK: intent.version,
        _PURPOSE_MARK: intent.purpose,
        TOKEN_MARK: intent.token,
        _FINGERPRINT_MARK: intent.fingerprint,
    }


def is_ours(labels: Mapping[str, str] | None) -> bool:
    """Whether the labels are those of a launch of ours.

    The owner's mark alone proves nothing: images of ours carry it too, and so does every container that somebody
    starts from one by hand. An image never has the others.
    """
    labels = labels or {}
    launched = all(labels.get(mark) for mark in (FLEET_MARK, _SLOT_MARK, TOKEN_MARK, _FINGERPRINT_MARK))
    return launched and labels.get(OWNER_MARK) == OWNER


def check_same(labels: Mapping[str, str], intent: LaunchIntent) -> None:
    """Return if a container with those labels was launched with this very intent.

    :raises IntentMismatch: otherwise.
    """
    if labels[TOKEN_MARK] != intent.token or labels[_FINGERPRINT_MARK] != intent.fingerprint:
        raise IntentMismatch(
            f"{intent.name} was launched for {labels.get(_PURPOSE_MARK)} with other parameters.",
            remedy="Launch a new attempt; parameters are frozen with an intent.",
        )


def state(word: str) -> InstanceState:
    """Our word for the engine's; a word that it never had before is a failure to look into."""
    return _STATES.get(word, InstanceState.FAILED)


def from_summary(summary: Mapping[str, Any], network: str, repo_digests: Sequence[str]) -> Instance:
    """The instance, from an entry of the engine's list of containers."""
    return _instance(
        container_id=summary["Id"],
        name=name(summary),
        labels=summary["Labels"],
        word=summary["State"],
        networks=summary["NetworkSettings"]["Networks"],
        network=network,
        digest=_digest(summary["Image"], repo_digests),
        launched_at=datetime.fromtimestamp(summary["Created"], tz=UTC),
        message=summary["Status"],
    )


def from_inspection(
    seen: Mapping[str, Any], network: str, repo_digests: Sequence[str], host_keys: tuple[str, ...]
) -> Instance:
    """The instance, from the engine's answer about one container."""
    word = seen["State"]["Status"]
    message = seen["State"].get("Error") or f"{word} with status {seen['State']['ExitCode']}"
    return _instance(
        container_id=seen["Id"],
        name=seen["Name"].lstrip("/"),
        labels=seen["Config"]["Labels"],
        word=word,
        networks=seen["NetworkSettings"]["Networks"],
        network=network,
        digest=_digest(seen["Config"]["Image"], repo_digests),
        # To the second, as in the list: the same instance compares equal either way.
        launched_at=datetime.fromisoformat(seen["Created"][:19]).replace(tzinfo=UTC),
        message=f"{message}: out of memory" if seen["State"].get("OOMKilled") else message,
        host_keys=host_keys,
    )


def name(summary: Mapping[str, Any]) -> str:
    """The container's own name (it may have others, by links, which hold a slash)."""
    names = [found.lstrip("/") for found in summary["Names"]]
    return next((found for found in names if "/" not in found), "")


def _digest(requested: str, repo_digests: Sequence[str]) -> str:
    """The digest of the image that really runs: the requested one only if the engine says that it is."""
    digests = sorted(entry.partition("@")[2] for entry in repo_digests)
    wanted = requested.partition("@")[2]
    return wanted if wanted in digests else next(iter(digests), "")


def _instance(
    *,
    container_id: str,
    name: str,
    labels: Mapping[str, str],
    word: str,
    networks: Mapping[str, Mapping[str, Any]],
    network: str,
    digest: str,
    launched_at: datetime,
    message: str,
    host_keys: tuple[str, ...] = (),
) -> Instance:
    found = state(word)
    return Instance(
        id=container_id,
        name=name,
        fleet=labels[FLEET_MARK],
        slot=labels[_SLOT_MARK],
        version=labels.get(VERSION_MARK, ""),
        token=labels[TOKEN_MARK],
        state=found,
        address=networks.get(network, {}).get("IPAddress") or "",
        digest=digest,
        launched_at=launched_at,
        host_keys=host_keys,
        message=message if found is InstanceState.FAILED else "",
    )
