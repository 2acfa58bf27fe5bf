"""What a domain's document, marks and states mean: pure functions over what libvirt answers."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from phoenix_fleet.domain.models import OWNER, Instance, InstanceState, LaunchIntent
from phoenix_fleet.platforms._libvirt_xml import Element, add, parse, text_of

BIRTH = "urn:phoenix-fleet:instance:1"
"""Namespace of the marks that a domain is born with."""
LIFE = "urn:phoenix-fleet:life:1"
"""Namespace of what became of it since: one word."""
STARTED = "started"
TERMINATING = "terminating"

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, BIRTH)
_LAUNCHED = ("fleet", "slot", "token", "fingerprint")
_AGENT = "org.qemu.guest_agent.0"

# virDomainState, https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainState
_NOSTATE, _RUNNING, _BLOCKED, _PAUSED, _SHUTDOWN, _SHUTOFF, _CRASHED, _SUSPENDED = range(8)
_STARTING_UP = 11  # VIR_DOMAIN_PAUSED_STARTING_UP
_WORDS = {
    _PAUSED: "paused",
    _CRASHED: "crashed",
    _SUSPENDED: "suspended by the guest",
    _SHUTOFF: "shut off",
    _NOSTATE: "without a state",
}
# virDomainShutoffReason: those that only a domain has which once ran.
_ENDINGS = {1: "it shut itself down", 2: "it was destroyed", 3: "it crashed", 4: "migrated away", 5: "saved"}
_HOST_KEY = re.compile(r"(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)) [A-Za-z0-9+/]{32,1024}={0,2}(?=\s|$)")
_KEY_BLOCK = re.compile(r"-----BEGIN SSH HOST KEY KEYS-----(.*?)-----END SSH HOST KEY KEYS-----", re.DOTALL)
_MOST_KEYS = 8


def uuid_of(token: str, fingerprint: str) -> str:
    """The UUID of the domain of that very intent: its token under other parameters has another one (decision 0070)."""
    return str(uuid.uuid5(_NAMESPACE, f"{token} {fingerprint}"))


def mac_of(token: str, number: int = 0) -> str:
    """The hardware address that belongs to a token, or another one by number, in the range of QEMU and libvirt."""
    tail = hashlib.sha256(f"mac {token} {number}".encode()).hexdigest()
    return f"52:54:00:{tail[:2]}:{tail[2:4]}:{tail[4:6]}"


@dataclass(frozen=True)
class Seen:
    """A domain, as its document shows it."""

    uuid: str
    name: str
    marks: Mapping[str, str]
    life: str
    mac: str
    answers: bool
    """Whether a guest agent is connected."""
    disk: str = ""
    """Name of the file that its first disk is in."""
    below: str = ""
    """Name of the file that QEMU found that disk to be laid over; empty if it does not run, or on Xen."""

    @property
    def is_ours(self) -> bool:
        """Whether it came from a launch of ours.

        A copy that somebody made by hand has our marks too, but never the UUID that belongs to them.
        """
        launched = all(self.marks.get(mark) for mark in _LAUNCHED) and self.marks.get("owner") == OWNER
        return launched and self.uuid == uuid_of(self.marks["token"], self.marks["fingerprint"])


def birth(
    intent: LaunchIntent, pool: str, volumes: Iterable[str], image: str, now: datetime, host_key: str = ""
) -> Element:
    """The marks that a domain of ours is born with; ``host_key`` is the public one that was put into it, if any."""
    marks = {
        "owner": OWNER,
        "fleet": intent.fleet,
        "slot": intent.slot,
        "family": intent.family,
        "version": intent.version,
        "purpose": intent.purpose,
        "token": intent.token,
        "fingerprint": intent.fingerprint,
        "pool": pool,
        "image": image,
        "launched_at": now.isoformat(timespec="seconds"),
        "host_key": host_key,
    }
    root = Element(f"{{{BIRTH}}}instance", marks)
    for name in volumes:
        add(root, f"{{{BIRTH}}}volume", name)
    return root


def life(word: str) -> str:
    """The document of what became of a domain."""
    return text_of(Element("life", {"word": word}))


def seen(text: str) -> Seen:
    """What a domain's document says of it, whoever's it is."""
    root = parse(text)
    born = root.find(f"metadata/{{{BIRTH}}}instance")
    since = root.find(f"metadata/{{{LIFE}}}life")
    mac = root.find("devices/interface/mac")
    channels = root.iterfind("devices/channel/target")
    disk = root.find("devices/disk")
    return Seen(
        uuid=root.findtext("uuid", ""),
        name=root.findtext("name", ""),
        marks={} if born is None else {**born.attrib, "volumes": " ".join(_volumes(born))},
        life="" if since is None else since.get("word", ""),
        mac="" if mac is None else mac.get("address", "").lower(),
        answers=any(each.get("name") == _AGENT and each.get("state") == "connected" for each in channels),
        disk=_file(disk, "source"),
        below=_file(disk, "backingStore/source"),
    )


def _file(disk: Element | None, path: str) -> str:
    source = None if disk is None else disk.find(path)
    return "" if source is None else source.get("file", "").rpartition("/")[2]


def _volumes(born: Element) -> list[str]:
    return [each.text or "" for each in born.iterfind(f"{{{BIRTH}}}volume")]


def state(word: int, reason: int, since: str) -> tuple[InstanceState, str]:
    """Our word for libvirt's, and why it failed if it did; ``since`` is the domain's life."""
    if word in (_RUNNING, _BLOCKED):
        return InstanceState.RUNNING, ""
    if word == _SHUTDOWN or (word == _SHUTOFF and since == TERMINATING):
        return InstanceState.STOPPING, ""
    if word == _PAUSED and reason == _STARTING_UP:
        return InstanceState.STARTING, ""
    if word == _SHUTOFF and since != STARTED and reason not in _ENDINGS:
        return InstanceState.STARTING, ""
    why = _ENDINGS.get(reason, "") if word == _SHUTOFF else f"reason {reason}"
    return InstanceState.FAILED, ": ".join(part for part in (_WORDS.get(word, f"in state {word}"), why) if part)


def address(answer: Mapping[str, Any] | None, mac: str) -> str:
    """The address of that card in an answer about interfaces, IPv4 first; empty if it has none that others reach."""
    found: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    for card in (answer or {}).values():
        if str(card.get("hwaddr") or "").lower() == mac and mac:
            found += [each for entry in card.get("addrs") or () if (each := _reachable(entry.get("addr")))]
    return str(min(found, key=lambda each: each.version)) if found else ""


def _reachable(text: object) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(str(text))
    except ValueError:
        return None
    useless = found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified
    return None if useless else found


def host_keys(console: str) -> tuple[str, ...]:
    """The public host keys in the last whole block that was printed on a console; none before it is whole."""
    blocks = _KEY_BLOCK.findall(console)
    lines = blocks[-1].split("\n") if blocks else []
    found = [match[0] for line in lines if (match := _HOST_KEY.match(line.strip()))]
    return tuple(dict.fromkeys(found))[:_MOST_KEYS]


def instance(
    domain: Seen, status: tuple[InstanceState, str], address: str, digest: str, host_keys: tuple[str, ...] = ()
) -> Instance:
    """The instance that a domain of ours is."""
    return Instance(
        id=domain.uuid,
        name=domain.name,
        fleet=domain.marks["fleet"],
        slot=domain.marks["slot"],
        version=domain.marks.get("version", ""),
        token=domain.marks["token"],
        state=status[0],
        address=address,
        digest=digest,
        launched_at=_time(domain.marks.get("launched_at", "")),
        host_keys=host_keys,
        message=status[1],
    )


def _time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
