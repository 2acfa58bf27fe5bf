"""Virtual disks of our own on a datastore: their names say whose they are, and which machine has one is looked up."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from phoenix_fleet.domain.errors import InvalidSpec, Unavailable
from phoenix_fleet.platforms._vmware_collect import ended, listed, looked_at
from phoenix_fleet.platforms._vmware_errors import is_a, of_fault, passing

FOLDER = "phoenix-fleet-data"
_WORD = "[a-z0-9][a-z0-9-]{0,62}"
_FILE = re.compile(rf"(?P<fleet>{_WORD})_(?P<slot>{_WORD})_(?P<name>{_WORD})_(?P<size>[1-9]\d*)g\.vmdk")
_PATH = re.compile(rf"\[(?P<datastore>[^\]]+)\] {FOLDER}/(?P<file>[^/]+)")
_DONE_WITHIN = 60
"""Seconds in which vCenter changes a machine's devices or finds files, as a rule at once."""
_UNITS = tuple(unit for unit in range(1, 16) if unit != 7)
"""Of a SCSI controller: 0 is the template's disk, 7 the controller's own."""


@dataclass(frozen=True)
class Disk:
    """A data volume, as its path tells."""

    path: str
    fleet: str
    slot: str
    name: str
    size_gib: int

    @property
    def file(self) -> str:
        """Its file's name without ``.vmdk``."""
        return self.path.rpartition("/")[2].removesuffix(".vmdk")


@dataclass(frozen=True)
class Holder:
    """A machine, ours or not, that has a disk."""

    ref: Any
    instance_id: str
    powered_on: bool
    device: Any


def parse(path: str) -> Disk | None:
    """What the path of a data volume tells, or None if it is none of ours."""
    place = _PATH.fullmatch(path)
    match = _FILE.fullmatch(place["file"]) if place else None
    if match is None:
        return None
    return Disk(path, match["fleet"], match["slot"], match["name"], int(match["size"]))


def path_of(datastore: str, fleet: str, slot: str, name: str, size_gib: int) -> str:
    """Where a data volume lies."""
    return f"[{datastore}] {FOLDER}/{fleet}_{slot}_{name}_{size_gib}g.vmdk"


def files(content: Any, datastore: Any, name: str, below: str = FOLDER) -> list[str]:
    """The paths of all virtual disks in that folder of the datastore; none if nobody ever made the folder."""
    from pyVmomi import vim

    disks = vim.host.DatastoreBrowser.VmDiskQuery()
    spec = vim.host.DatastoreBrowser.SearchSpec(query=[disks], matchPattern=["*.vmdk"])
    task = datastore.browser.SearchDatastore_Task(f"[{name}] {below}", spec)
    info = ended(content, task, _DONE_WITHIN)
    if info.state == "error":
        if is_a(info.error, "FileNotFound"):
            return []
        raise of_fault(f"list [{name}] {below}", info.error)
    if info.state != "success":
        raise Unavailable(f"vCenter does not list [{name}] {below} in time.", remedy="Look again.")
    return sorted(f"[{name}] {below}/{each.path}" for each in info.result.file or ())


def holders(content: Any, center: Any) -> dict[str, Holder]:
    """Who has which data volume, by its path: every machine of the datacenter, ours or not, templates too.

    One that vCenter cannot read now is left out: while it runs, vSphere's own lock keeps its disks from others.
    """
    from pyVmomi import vim

    paths = ("config.instanceUuid", "config.hardware.device", "runtime.powerState")
    found: dict[str, Holder] = {}
    for ref, seen in listed(content, center, {vim.VirtualMachine: paths}):
        on = seen.get("runtime.powerState") != "poweredOff"
        for path, device in data_disks(seen):
            found[path] = Holder(ref, str(seen.get("config.instanceUuid") or ref._moId), on, device)
    return found


def data_disks(seen: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each data volume among a machine's devices, also below a snapshot that somebody made of the machine."""
    for device in seen.get("config.hardware.device") or ():
        backing = getattr(device, "backing", None) if hasattr(device, "capacityInKB") else None
        while backing is not None:
            path = str(getattr(backing, "fileName", "") or "")
            if parse(path):
                yield path, device
            backing = getattr(backing, "parent", None)


def attach(content: Any, machine: Any, disk: Disk, what: str) -> None:
    """Give it to that machine, independent of snapshots that somebody makes of the machine."""
    from pyVmomi import vim

    devices = _devices(content, machine)
    buses = [each for each in devices if isinstance(each, vim.vm.device.VirtualSCSIController)]
    if not buses:
        raise InvalidSpec(f"{what}: the machine has no SCSI controller.", remedy="Give the template one.")
    bus = min(buses, key=lambda each: each.key)
    taken = {each.unitNumber for each in devices if each.controllerKey == bus.key}
    free = [unit for unit in _UNITS if unit not in taken]
    if not free:
        raise InvalidSpec(f"{what}: the machine has no place left for a disk.", remedy="Declare fewer volumes.")
    backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName=disk.path, diskMode="independent_persistent")
    device = vim.vm.device.VirtualDisk(
        key=-1,
        controllerKey=bus.key,
        unitNumber=free[0],
        backing=backing,
        capacityInKB=disk.size_gib * 1024 * 1024,
    )
    # Without a file operation: the file is there, and stays as it is.
    _change(content, machine, [vim.vm.device.VirtualDeviceSpec(operation="add", device=device)], what)


def detach(content: Any, machine: Any, device: Any, what: str) -> None:
    """Take a device from a machine that is off. Without a file operation vCenter keeps the files."""
    from pyVmomi import vim

    _change(content, machine, [vim.vm.device.VirtualDeviceSpec(operation="remove", device=device)], what)


def let_go(content: Any, machine: Any, what: str) -> None:
    """Take every data volume from a machine that is about to be removed with all its disks.

    :raises Unavailable: one could not be taken, so the machine must not be removed.
    """
    for path, device in data_disks({"config.hardware.device": _devices(content, machine)}):
        detach(content, machine, device, f"{what}: {path}")


def _devices(content: Any, machine: Any) -> list[Any]:
    paths = ("config.hardware.device",)
    ((_, seen),) = looked_at(content, machine, {type(machine): paths})
    if paths[0] not in seen:
        raise Unavailable("vCenter does not tell the machine's devices now.", remedy="Look again.")
    return list(seen[paths[0]])


def _change(content: Any, machine: Any, changes: list[Any], what: str) -> None:
    from pyVmomi import vim

    info = ended(content, machine.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=changes)), _DONE_WITHIN)
    if info.state == "error":
        raise of_fault(what, info.error)
    if info.state != "success":
        raise Unavailable(f"{what}: vCenter takes its time.", remedy="Look again.")


def make_folder(content: Any, center: Any, datastore: str, below: str) -> None:
    """Let the folder be there."""
    with passing("FileAlreadyExists"):
        content.fileManager.MakeDirectory(f"[{datastore}] {below}", center, True)
