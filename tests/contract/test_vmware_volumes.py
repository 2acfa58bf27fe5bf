"""What only vSphere can get wrong with data volumes: a removal that takes them along, half a copy, no tools."""

from __future__ import annotations

import base64
import dataclasses
import json
import uuid
from contextlib import nullcontext
from typing import Any

import pytest

from phoenix_fleet.domain.errors import InUse, PhoenixError, Unavailable
from phoenix_fleet.domain.models import Instance, InstanceState
from phoenix_fleet.domain.volumes import Volume, VolumeIntent, VolumeState
from tests.contract import machinery
from tests.contract.platforms_vmware import VmwareLab

pytestmark = pytest.mark.vmware

TAKEN = (b"<operation>remove</operation>", b"<operation>remove</operation>")
"""The questions that take a device away."""


@pytest.fixture
def lab(vmware_lab: VmwareLab) -> VmwareLab:
    return vmware_lab


@pytest.fixture
def wanted(lab: VmwareLab) -> VolumeIntent:
    return lab.volume_intent(f"t{uuid.uuid4().hex[:8]}")


@pytest.fixture
def machine(lab: VmwareLab, wanted: VolumeIntent) -> Instance:
    intent = dataclasses.replace(lab.intent(), fleet=wanted.fleet, slot=wanted.slot)
    born = lab.platform.launch(intent)

    def look() -> Instance | None:
        seen = lab.platform.get_instance(born.id)
        return seen if seen.state is InstanceState.RUNNING else None

    return machinery.wait_for(look, born.name, 60)


@pytest.fixture
def held(lab: VmwareLab, wanted: VolumeIntent, machine: Instance) -> Volume:
    made = lab.platform.create_volume(wanted)
    lab.platform.attach_volume(made.id, machine.id)
    (seen,) = lab.platform.list_volumes(wanted.fleet)
    assert (seen.state, seen.attached_to) == (VolumeState.ATTACHED, machine.id)
    return seen


@pytest.mark.parametrize("fault", ["GenericVmConfigFault", "TaskInProgress", "InvalidPowerState"])
def test_what_cannot_be_taken_away_keeps_its_machine(
    lab: VmwareLab, held: Volume, machine: Instance, fault: str
) -> None:
    """vCenter removes a machine with all its disks: as long as one holds data, it is not removed."""
    inside = '<task type="Task">task-1</task>' if fault == "TaskInProgress" else ""
    lab.proxy.make("ReconfigVM_Task", fault=fault, inside=inside, rewrite=TAKEN)
    lab.proxy.calls.clear()
    with pytest.raises(PhoenixError) if fault == "GenericVmConfigFault" else nullcontext():
        lab.platform.terminate(machine.id)
    assert "Destroy_Task" not in lab.proxy.calls
    assert lab.volume_exists(held.id)

    lab.platform.terminate(machine.id)
    machinery.wait_for(lambda: lab.machine(machine.id) is None, "the machine to be gone")
    assert lab.volume_exists(held.id)


def test_a_copy_that_nobody_finished_is_none(lab: VmwareLab, wanted: VolumeIntent) -> None:
    made, token = lab.platform.create_volume(wanted), uuid.uuid4().hex
    lab.proxy.make("CopyVirtualDisk_Task", lose_reply=True)
    with pytest.raises(Unavailable):
        lab.platform.snapshot_volume(made.id, token)
    assert lab.platform.list_snapshots(made.id) == []
    taken = lab.platform.snapshot_volume(made.id, token)
    assert lab.platform.list_snapshots(made.id) == [taken]
    assert lab.platform.snapshot_volume(made.id, token) == taken


def test_a_copy_is_never_taken_while_something_writes(lab: VmwareLab, held: Volume) -> None:
    with pytest.raises(InUse):
        lab.platform.snapshot_volume(held.id, uuid.uuid4().hex)


def test_a_guest_without_tools_says_so(lab: VmwareLab, machine: Instance) -> None:
    lab.proxy.make("ShutdownGuest", fault="ToolsUnavailable")
    with pytest.raises(Unavailable, match=r"VMware Tools do not run.*by hand"):
        lab.platform.stop(machine.id)
    assert lab.is_alive(machine.id)


def test_what_a_machine_of_others_has_is_not_free(lab: VmwareLab, held: Volume, machine: Instance) -> None:
    stranger = lab.foreign(f"of-others-{held.slot}", {})
    _give_by_hand(lab, stranger, held)
    lab.platform.stop(machine.id)
    lab.platform.detach_volume(held.id, machine.id)
    (seen,) = lab.platform.list_volumes(held.fleet)
    assert seen.attached_to == stranger
    with pytest.raises(InUse):
        lab.platform.attach_volume(held.id, machine.id)


def _give_by_hand(lab: VmwareLab, instance_id: str, held: Volume) -> None:
    from pyVmomi import vim

    found: Any = lab.machine(instance_id)
    (bus,) = [each for each in found.config.hardware.device if isinstance(each, vim.vm.device.VirtualSCSIController)]
    backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName=held.id, diskMode="persistent")
    disk = vim.vm.device.VirtualDisk(key=-1, controllerKey=bus.key, unitNumber=9, backing=backing, capacityInKB=1024)
    change = vim.vm.device.VirtualDeviceSpec(operation="add", device=disk)
    lab._done(found.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change])))


def test_the_guest_may_be_called_after_its_slot(lab: VmwareLab) -> None:
    intent = lab.intent(hostname="slot")
    born = lab.platform.launch(intent)
    machinery.wait_for(lambda: lab.machine(born.id), "the clone")
    told = json.loads(base64.b64decode(lab.marks(born.id)["guestinfo.metadata"]))
    assert told["local-hostname"] == intent.slot
