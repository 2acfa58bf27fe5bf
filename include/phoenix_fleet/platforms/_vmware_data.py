"""Data volumes on vSphere: VMDKs in a folder of their own, at one machine at a time."""

from __future__ import annotations

import re
import secrets
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from phoenix_fleet.domain.errors import IntentMismatch, InUse, InvalidSpec, NotFound, TimedOut, Unavailable
from phoenix_fleet.domain.volumes import Snapshot, Volume, VolumeIntent, VolumeState
from phoenix_fleet.platforms import _vmware_disks as disks
from phoenix_fleet.platforms import _vmware_machines as machines
from phoenix_fleet.platforms._vmware_collect import ended, listed
from phoenix_fleet.platforms._vmware_errors import is_a, of_fault, passing
from phoenix_fleet.platforms._vmware_places import datacenter
from phoenix_fleet.platforms.base import Volumes

Given = TypeVar("Given")

_COPIES = f"{disks.FOLDER}/copies"
_COPY = re.compile(r"(?P<file>.+)\.(?P<token>[0-9a-f]{32})\.vmdk")
_MADE_WITHIN = 300
_COPIED_WITHIN = 1800
"""Seconds that copying a disk is waited for, as configuring a machine is."""
_TYPES = {"thin": "thin", "thick": "preallocated", "eager": "eagerZeroedThick"}


class VolumeSettings(BaseModel):
    """What a fleet file may say of a VMDK; it lies on the fleet's datastore."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provisioning: Literal["thin", "thick", "eager"] = Field(
        "thin", description="thin, thick, or eager (thick and zeroed at once). Default: thin."
    )


_Options: TypeAlias = VolumeSettings
"""The same under a name that the driver's own ``VolumeSettings`` does not hide."""


class DataVolumes(Volumes):
    """What the driver can do with data volumes, over its own session."""

    VolumeSettings = VolumeSettings
    settings: Any

    @abstractmethod
    def _ask(self, what: str, do: Callable[[Any], Given], settings: Any = None) -> Given:
        """The driver's own."""

    def list_volumes(self, fleet: str) -> Sequence[Volume]:
        """Every VMDK in our folder of the fleet's datastore that is named as a data volume of that fleet."""

        def do(vcenter: Any) -> list[Volume]:
            found = [disk for disk in self._disks(vcenter) if disk.fleet == fleet]
            held = self._holders(vcenter) if found else {}
            return sorted((_volume(disk, held.get(disk.path)) for disk in found), key=lambda each: each.label)

        return self._ask(f"list volumes of {fleet}", do)

    def create_volume(self, intent: VolumeIntent) -> Volume:
        """One virtual disk; vCenter makes a file of one name once."""
        where = self.settings.datastore
        disk = disks.parse(disks.path_of(where, intent.fleet, intent.slot, intent.name, intent.size_gib))
        if disk is None:
            raise InvalidSpec(f"{intent.label!r} cannot be in a file's name.", remedy="Use letters, digits, dashes.")
        options = VolumeSettings.model_validate(dict(intent.options))

        def do(vcenter: Any) -> Volume:
            there = [each for each in self._disks(vcenter) if (each.slot, each.name) == (disk.slot, disk.name)]
            if any(each.fleet == disk.fleet and each.path != disk.path for each in there):
                raise IntentMismatch(f"{intent.label} was made with another size.", remedy="Set the size that it has.")
            if disk not in there:
                self._create(vcenter, disk, options)
            return _volume(disk, self._holders(vcenter).get(disk.path))

        return self._ask(f"make {intent.label}", do)

    def snapshot_volume(self, volume_id: str, token: str) -> Snapshot:
        """A full copy in a folder beside, named once it is whole; the call lasts as long as copying does."""

        def do(vcenter: Any) -> Snapshot:
            disk = self._find(vcenter, volume_id)
            known = [each for each in self._copies(vcenter, disk) if each.token == token]
            if known:
                return known[0]
            holder = self._holders(vcenter).get(disk.path)
            if holder is not None and holder.powered_on:
                raise InUse(f"{volume_id} is in use by {holder.instance_id}, which is on.", remedy="Stop it first.")
            return self._copy(vcenter, disk, token)

        return self._ask(f"copy {volume_id}", do)

    def list_snapshots(self, volume_id: str) -> Sequence[Snapshot]:
        """The copies that are whole."""
        return self._ask(
            f"list copies of {volume_id}", lambda vcenter: self._copies(vcenter, self._find(vcenter, volume_id))
        )

    def delete_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        """The copy's descriptor and its extents."""

        def do(vcenter: Any) -> None:
            if snapshot_id not in [each.id for each in self._copies(vcenter, self._find(vcenter, volume_id))]:
                return
            center = datacenter(vcenter, self.settings.datacenter).ref
            task = vcenter.virtualDiskManager.DeleteVirtualDisk_Task(snapshot_id, center)
            _finished(vcenter, task, _MADE_WITHIN, f"delete {snapshot_id}", unless="FileNotFound")

        self._ask(f"delete the copy {snapshot_id}", do)

    def detach_volume(self, volume_id: str, instance_id: str) -> None:
        """From a machine that is powered off; vCenter keeps the files."""

        def do(vcenter: Any) -> None:
            disk = self._find(vcenter, volume_id)
            holder = self._holders(vcenter).get(disk.path)
            if holder is None or holder.instance_id != instance_id:
                return
            machine, seen = machines.ours(vcenter, instance_id)
            if seen.get("runtime.powerState") != "poweredOff":
                raise InUse(f"{instance_id} is on and may write to {volume_id}.", remedy="Stop it first.")
            disks.detach(vcenter, machine, holder.device, f"detach {volume_id}")

        self._ask(f"detach {volume_id}", do)

    def attach_volume(self, volume_id: str, instance_id: str) -> None:
        """At the first free place of the machine's SCSI controller."""

        def do(vcenter: Any) -> None:
            disk = self._find(vcenter, volume_id)
            machine, _ = machines.ours(vcenter, instance_id)
            holder = self._holders(vcenter).get(disk.path)
            if holder is not None and holder.instance_id != instance_id:
                raise InUse(f"{volume_id} is at {holder.instance_id}.", remedy="See whose that is.")
            if holder is None:
                disks.attach(vcenter, machine, disk, f"attach {volume_id}")

        self._ask(f"attach {volume_id}", do)

    def stop(self, instance_id: str) -> None:
        """``ShutdownGuest``, which VMware Tools in the guest carry out.

        :raises Unavailable: they do not run there.
        """

        def do(vcenter: Any) -> None:
            from pyVmomi import vim

            machine, _ = machines.ours(vcenter, instance_id)
            try:
                with passing("InvalidPowerState"):
                    machine.ShutdownGuest()
            except vim.fault.ToolsUnavailable as fault:
                raise Unavailable(
                    f"{instance_id} cannot be told to shut down: VMware Tools do not run in it.",
                    remedy="Shut it down by hand; the move goes on by itself.",
                ) from fault

        self._ask(f"stop {instance_id}", do)

    # Inside

    def _datastore(self, vcenter: Any) -> Any:
        from pyVmomi import vim

        center = datacenter(vcenter, self.settings.datacenter).ref
        found = listed(vcenter, center, {vim.Datastore: ("name",)})
        ref = next((ref for ref, seen in found if seen.get("name") == self.settings.datastore), None)
        if ref is None:
            raise InvalidSpec(f"datastore: vCenter has no '{self.settings.datastore}'.", remedy="Correct `datastore`.")
        return ref

    def _disks(self, vcenter: Any) -> list[disks.Disk]:
        found = disks.files(vcenter, self._datastore(vcenter), self.settings.datastore)
        return [disk for path in found if (disk := disks.parse(path))]

    def _holders(self, vcenter: Any) -> dict[str, disks.Holder]:
        return disks.holders(vcenter, datacenter(vcenter, self.settings.datacenter).ref)

    def _find(self, vcenter: Any, volume_id: str) -> disks.Disk:
        found = next((each for each in self._disks(vcenter) if each.path == volume_id), None)
        if found is None:
            raise NotFound(f"There is no data volume {volume_id[:200]!r} to be seen.", remedy="Look again.")
        return found

    def _create(self, vcenter: Any, disk: disks.Disk, options: _Options) -> None:
        from pyVmomi import vim

        center = datacenter(vcenter, self.settings.datacenter).ref
        disks.make_folder(vcenter, center, self.settings.datastore, disks.FOLDER)
        spec = vim.VirtualDiskManager.FileBackedVirtualDiskSpec(
            diskType=_TYPES[options.provisioning], adapterType="lsiLogic", capacityKb=disk.size_gib * 1024 * 1024
        )
        task = vcenter.virtualDiskManager.CreateVirtualDisk_Task(disk.path, center, spec)
        _finished(vcenter, task, _MADE_WITHIN, f"make {disk.path}", unless="FileAlreadyExists")

    def _copies(self, vcenter: Any, disk: disks.Disk) -> list[Snapshot]:
        paths = disks.files(vcenter, self._datastore(vcenter), self.settings.datastore, _COPIES)
        named = [(path, _COPY.fullmatch(path.rpartition("/")[2])) for path in paths]
        return [
            Snapshot(path, disk.path, match["token"], True)
            for path, match in named
            if match and match["file"] == disk.file
        ]

    def _copy(self, vcenter: Any, disk: disks.Disk, token: str) -> Snapshot:
        center = datacenter(vcenter, self.settings.datacenter).ref
        where = self.settings.datastore
        disks.make_folder(vcenter, center, where, _COPIES)
        # A name of its own for each try, until it is whole: nobody takes half a copy for one.
        part = f"[{where}] {_COPIES}/{disk.file}.{secrets.token_hex(4)}.part.vmdk"
        whole = f"[{where}] {_COPIES}/{disk.file}.{token}.vmdk"
        manager = vcenter.virtualDiskManager
        task = manager.CopyVirtualDisk_Task(disk.path, center, part, center)
        _finished(vcenter, task, _COPIED_WITHIN, f"copy {disk.path}")
        task = manager.MoveVirtualDisk_Task(part, center, whole, center, False)
        _finished(vcenter, task, _MADE_WITHIN, f"name the copy of {disk.path}", unless="FileAlreadyExists")
        return Snapshot(whole, disk.path, token, True)


def _finished(vcenter: Any, task: Any, seconds: float, what: str, *, unless: str = "") -> None:
    info = ended(vcenter, task, seconds)
    if info.state == "error" and not (unless and is_a(info.error, unless)):
        raise of_fault(what, info.error)
    if info.state not in ("success", "error"):
        raise TimedOut(f"{what}: vCenter is still at it after {seconds:g} s.", remedy="See its tasks.")


def _volume(disk: disks.Disk, holder: disks.Holder | None) -> Volume:
    return Volume(
        id=disk.path,
        fleet=disk.fleet,
        slot=disk.slot,
        name=disk.name,
        state=VolumeState.FREE if holder is None else VolumeState.ATTACHED,
        attached_to=holder.instance_id if holder else "",
        device=_device(holder.device) if holder else "",
    )


def _device(device: Any) -> str:
    """Where udev shows it: by its own number where vCenter tells it (``disk.EnableUUID``), else by its place."""
    number = str(getattr(device.backing, "uuid", None) or "").replace("-", "").lower()
    if re.fullmatch("[0-9a-f]{32}", number):
        return f"/dev/disk/by-id/wwn-0x{number}"
    return f"/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:{device.unitNumber}:0"
