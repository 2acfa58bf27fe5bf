"""Data volumes on libvirt: volumes in the pool whose names say whose they are, at one domain at a time."""

from __future__ import annotations

import hashlib
import re
import secrets
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from phoenix_fleet.domain.errors import IntentMismatch, InUse, InvalidSpec, NotFound
from phoenix_fleet.domain.volumes import Snapshot, Volume, VolumeIntent, VolumeState
from phoenix_fleet.platforms import _libvirt_view as view
from phoenix_fleet.platforms import _libvirt_volumes as volumes
from phoenix_fleet.platforms import _libvirt_xml as xml
from phoenix_fleet.platforms._libvirt_host import is_code, library, unless
from phoenix_fleet.platforms.base import Volumes

_WORD = "[a-z0-9][a-z0-9-]{0,62}"
_ID = re.compile(rf"phoenix-fleet-data_(?P<fleet>{_WORD})_(?P<slot>{_WORD})_(?P<name>{_WORD})\.qcow2")
_COPY = re.compile(r"(?P<volume>phoenix-fleet-data_.+\.qcow2)\.(?P<token>[0-9a-f]{32})\.[0-9a-f]{8}\.copy")
_WHOLE = "whole"
"""An empty volume beside a copy, ``<copy>.whole``, says that it was finished: what a crash leaves has none."""
_LETTERS = "cdefghijklmnop"
"""Of the devices of data volumes; a and b are the disk and the seed."""
_GIB = 1024**3


class VolumeSettings(BaseModel):
    """What a fleet file may say of a volume: nothing more, they lie in the fleet's pool."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class _Holder:
    """A domain, ours or not, that has a volume."""

    uuid: str
    active: bool
    live: bool
    """Whether what runs of it has the volume."""
    defined: bool
    """Whether its definition has it."""

    @property
    def whole(self) -> bool:
        """Whether it has the volume for good: now, and after its next start."""
        return self.defined and (self.live or not self.active)


class DataVolumes(Volumes):
    """What the driver can do with data volumes, over its own connection and its own check of whose a domain is."""

    VolumeSettings = VolumeSettings
    settings: Any

    @abstractmethod
    def _host(self, what: str) -> AbstractContextManager[Any]:
        """The driver's own."""

    @abstractmethod
    def _ours(self, host: Any, instance_id: str) -> tuple[Any, view.Seen]:
        """The driver's own."""

    def list_volumes(self, fleet: str) -> Sequence[Volume]:
        """Every volume in the pool that is named as a data volume of that fleet."""
        with self._host(f"list volumes of {fleet}") as host:
            pool = volumes.pool(host, self.settings.pool)
            volumes.refresh(pool)
            named = [(each.name(), each.path()) for each in pool.listAllVolumes(0) if _of(each.name(), fleet)]
            holders = _holders(host) if named else {}
            return sorted((_volume(name, holders.get(path)) for name, path in named), key=lambda each: each.label)

    def create_volume(self, intent: VolumeIntent) -> Volume:
        """One call, which the pool takes once for each name."""
        name = f"phoenix-fleet-data_{intent.fleet}_{intent.slot}_{intent.name}.qcow2"
        if not _ID.fullmatch(name):
            raise InvalidSpec(f"{intent.label!r} cannot be in a volume's name.", remedy="Use letters, digits, dashes.")
        with self._host(f"make {intent.label}") as host:
            made = volumes.make(volumes.pool(host, self.settings.pool), name, intent.size_gib * _GIB, "qcow2")
            if volumes.capacity(made) != intent.size_gib * _GIB:
                raise IntentMismatch(
                    f"{intent.label} is there and has {volumes.capacity(made) // _GIB} GiB, not {intent.size_gib}.",
                    remedy="Grow it by hand, or set the size that it has.",
                )
            return _volume(name, _holders(host).get(made.path()))

    def snapshot_volume(self, volume_id: str, token: str) -> Snapshot:
        """A full copy in the pool; libvirt answers when it is there, which takes as long as copying does."""
        with self._host(f"copy {volume_id}") as host:
            pool, source = self._data(host, volume_id)
            if (known := _whole(pool, volume_id, token)) is not None:
                return known
            holder = _holders(host).get(source.path())
            if holder is not None and holder.active:
                raise InUse(f"{volume_id} is in use by {holder.uuid}, which runs.", remedy="Stop it first.")
            # A name of its own for each try: nobody takes half a copy of another for a whole one.
            name = f"{volume_id}.{token}.{secrets.token_hex(4)}.copy"
            pool.createXMLFrom(xml.volume(name, volumes.capacity(source), "qcow2"), source, 0)
            volumes.make(pool, f"{name}.{_WHOLE}", 0, "raw")
            return Snapshot(name, volume_id, token, taken=True)

    def list_snapshots(self, volume_id: str) -> Sequence[Snapshot]:
        """The copies that were finished; of one that a crash cut short there is nothing to hope for."""
        with self._host(f"list copies of {volume_id}") as host:
            pool, _ = self._data(host, volume_id)
            return _copies(pool, volume_id)

    def delete_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        """The copy first: without it what says that it is whole says nothing."""
        with self._host(f"delete the copy {snapshot_id}") as host:
            pool, _ = self._data(host, volume_id)
            if snapshot_id in [each.id for each in _copies(pool, volume_id)]:
                volumes.delete(pool, snapshot_id)
                volumes.delete(pool, f"{snapshot_id}.{_WHOLE}")

    def detach_volume(self, volume_id: str, instance_id: str) -> None:
        """From the definition of a domain that does not run."""
        with self._host(f"detach {volume_id}") as host:
            _, source = self._data(host, volume_id)
            holder = _holders(host).get(source.path())
            if holder is None or holder.uuid != instance_id:
                return
            domain, _ = self._ours(host, instance_id)
            if domain.isActive():
                raise InUse(f"{instance_id} runs and may write to {volume_id}.", remedy="Stop it first.")
            disk = _disk_at(domain, source.path(), library().VIR_DOMAIN_XML_INACTIVE)
            if disk is not None:
                domain.detachDeviceFlags(xml.text_of(disk), library().VIR_DOMAIN_AFFECT_CONFIG)

    def attach_volume(self, volume_id: str, instance_id: str) -> None:
        """To what runs of the domain and to its definition, in one call."""
        lib = library()
        with self._host(f"attach {volume_id}") as host:
            _, source = self._data(host, volume_id)
            domain, _ = self._ours(host, instance_id)
            holder = _holders(host).get(source.path())
            if holder is not None and holder.uuid != instance_id:
                raise InUse(f"{volume_id} is at the domain {holder.uuid}.", remedy="See whose that is.")
            if holder is not None and holder.whole:
                return
            try:
                _attach(domain, volume_id, source.path(), holder)
            except lib.libvirtError as error:
                if is_code(error, "OPERATION_INVALID") and not domain.isActive():
                    raise NotFound(f"{instance_id} does not run any more.", remedy="Look again.") from error
                raise

    def stop(self, instance_id: str) -> None:
        """Let the guest shut down, by its agent or its power button, as libvirt finds."""
        with self._host(f"stop {instance_id}") as host:
            domain, _ = self._ours(host, instance_id)
            with unless("OPERATION_INVALID"):  # it does not run
                domain.shutdown()

    def _data(self, host: Any, volume_id: str) -> tuple[Any, Any]:
        """The pool and exactly that data volume in it."""
        pool = volumes.pool(host, self.settings.pool)
        found = volumes.find(pool, volume_id) if _ID.fullmatch(volume_id) else None
        if found is None:
            raise NotFound(f"There is no data volume {volume_id[:200]!r} to be seen.", remedy="Look again.")
        return pool, found


def _of(name: str, fleet: str) -> bool:
    match = _ID.fullmatch(name)
    return match is not None and match["fleet"] == fleet


def _volume(name: str, holder: _Holder | None) -> Volume:
    match = _ID.fullmatch(name)
    assert match is not None  # noqa: S101 (asked before)
    state = VolumeState.FREE
    if holder is not None:
        state = VolumeState.ATTACHED if holder.whole else VolumeState.ATTACHING
    return Volume(
        id=name,
        fleet=match["fleet"],
        slot=match["slot"],
        name=match["name"],
        state=state,
        attached_to=holder.uuid if holder else "",
        device=f"/dev/disk/by-id/virtio-{_serial(name)}" if state is VolumeState.ATTACHED else "",
    )


def _serial(volume_id: str) -> str:
    """What the guest sees of a virtio disk: 20 characters at most (virtio 1.2, 5.2.6.1)."""
    return hashlib.sha256(volume_id.encode()).hexdigest()[:20]


def _copies(pool: Any, volume_id: str) -> list[Snapshot]:
    volumes.refresh(pool)
    names = {each.name() for each in pool.listAllVolumes(0)}
    found = ((name, _COPY.fullmatch(name)) for name in sorted(names) if f"{name}.{_WHOLE}" in names)
    return [Snapshot(name, volume_id, match["token"], True) for name, match in found if match and match[1] == volume_id]


def _whole(pool: Any, volume_id: str, token: str) -> Snapshot | None:
    return next((each for each in _copies(pool, volume_id) if each.token == token), None)


def _holders(host: Any) -> dict[str, _Holder]:
    """Who has which file, by its path: every domain of the host, ours or not, defined or only running."""
    lib = library()
    found: dict[str, _Holder] = {}
    for domain in host.listAllDomains(0):
        with unless("NO_DOMAIN"):  # gone since it was listed
            active = bool(domain.isActive())
            live = _files(domain.XMLDesc(0)) if active else set()
            defined = _files(domain.XMLDesc(lib.VIR_DOMAIN_XML_INACTIVE)) if domain.isPersistent() else set()
            uuid = domain.UUIDString()
            for path in live | defined:
                found[path] = _Holder(uuid, active, path in live, path in defined)
    return found


def _files(document: str) -> set[str]:
    sources = xml.parse(document).iterfind("devices/disk/source")
    return {each.get("file", "") for each in sources} - {""}


def _attach(domain: Any, volume_id: str, path: str, holder: _Holder | None) -> None:
    """To what runs and to the definition; only to what lacks it, if a libvirtd died between the two."""
    lib = library()
    live = lib.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0
    if holder is None:
        domain.attachDeviceFlags(_disk(domain, volume_id, path), lib.VIR_DOMAIN_AFFECT_CONFIG | live)
        return
    there = _disk_at(domain, path, 0 if holder.live else lib.VIR_DOMAIN_XML_INACTIVE)
    missing = lib.VIR_DOMAIN_AFFECT_CONFIG if holder.live else live
    if there is not None and missing:
        domain.attachDeviceFlags(xml.text_of(there), missing)


def _disk_at(domain: Any, path: str, flags: int) -> xml.Element | None:
    root = xml.parse(domain.XMLDesc(flags))
    for disk in root.iterfind("devices/disk"):
        source = disk.find("source")
        if source is not None and source.get("file") == path:
            return disk
    return None


def _disk(domain: Any, volume_id: str, path: str) -> str:
    """The device's document, at the first free letter of what runs and of what is defined."""
    lib = library()
    roots = [xml.parse(domain.XMLDesc(flags)) for flags in (0, lib.VIR_DOMAIN_XML_INACTIVE)]
    taken = {each.get("dev", "")[-1:] for root in roots for each in root.iterfind("devices/disk/target")}
    letter = next((each for each in _LETTERS if each not in taken), "")
    if not letter:
        raise InvalidSpec(f"There is no device left for {volume_id}.", remedy="Declare fewer volumes.")
    on_xen = roots[0].get("type") == "xen"
    disk = xml.Element("disk", {"type": "file", "device": "disk"})
    # What a guest has asked to be on the disk is there: a power cut costs it nothing that it was promised.
    xml.add(disk, "driver", name="qemu", type="qcow2", cache="" if on_xen else "none")
    xml.add(disk, "source", file=path)
    xml.add(disk, "target", dev=f"{'xvd' if on_xen else 'vd'}{letter}", bus="xen" if on_xen else "virtio")
    if not on_xen:
        xml.add(disk, "serial", _serial(volume_id))
    return xml.text_of(disk)
