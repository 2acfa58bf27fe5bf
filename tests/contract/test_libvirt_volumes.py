"""What only libvirt can get wrong with data volumes: half a copy, half an attachment, domains of others."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import libvirt
import pytest

from phoenix_fleet.domain.errors import InUse
from phoenix_fleet.domain.models import Instance, LaunchIntent
from phoenix_fleet.domain.volumes import VolumeIntent, VolumeState
from tests.contract.libvirt_troubles import once, running
from tests.contract.platforms_libvirt import Crash, LibvirtLab

pytestmark = pytest.mark.libvirt


@pytest.fixture
def wanted(libvirt_lab: LibvirtLab) -> VolumeIntent:
    return libvirt_lab.volume_intent(f"t{uuid.uuid4().hex[:8]}")


@pytest.fixture
def machine(libvirt_lab: LibvirtLab, wanted: VolumeIntent) -> Instance:
    frozen: dict[str, Any] = {"artefact": libvirt_lab.standard, "settings": libvirt_lab.settings}
    intent = LaunchIntent(wanted.fleet, wanted.slot, "rollout-1", 1, "lab", "2026.11-1", **frozen)
    return running(libvirt_lab, libvirt_lab.platform.launch(intent))


def dies_after(call: Callable[[], Any]) -> None:
    call()
    raise Crash


def test_a_copy_that_nobody_finished_is_none(libvirt_lab: LibvirtLab, wanted: VolumeIntent) -> None:
    made, token = libvirt_lab.platform.create_volume(wanted), uuid.uuid4().hex
    with pytest.raises(Crash):
        libvirt_lab.again(once("createXMLFrom", dies_after)).snapshot_volume(made.id, token)
    assert libvirt_lab.platform.list_snapshots(made.id) == []

    taken = libvirt_lab.platform.snapshot_volume(made.id, token)
    assert libvirt_lab.platform.list_snapshots(made.id) == [taken]
    assert libvirt_lab.platform.snapshot_volume(made.id, token) == taken
    assert (libvirt_lab.host.pool_folder / taken.id).is_file()


@pytest.mark.parametrize("flags", [libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG])
def test_half_an_attachment_is_made_whole(
    libvirt_lab: LibvirtLab, wanted: VolumeIntent, machine: Instance, flags: int
) -> None:
    """As a libvirtd that dies between what runs and the definition would leave it."""
    platform, made = libvirt_lab.platform, libvirt_lab.platform.create_volume(wanted)
    path = libvirt_lab.pool.storageVolLookupByName(made.id).path()
    disk = (
        f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{path}'/>"
        "<target dev='vdc' bus='virtio'/></disk>"
    )
    libvirt_lab.api.lookupByUUIDString(machine.id).attachDeviceFlags(disk, flags)
    (half,) = platform.list_volumes(wanted.fleet)
    assert (half.state, half.attached_to) == (VolumeState.ATTACHING, machine.id)

    platform.attach_volume(made.id, machine.id)
    (whole,) = platform.list_volumes(wanted.fleet)
    assert (whole.state, whole.attached_to) == (VolumeState.ATTACHED, machine.id)
    domain = libvirt_lab.api.lookupByUUIDString(machine.id)
    for told in (0, libvirt.VIR_DOMAIN_XML_INACTIVE):
        assert domain.XMLDesc(told).count(path) == 1


def test_what_a_domain_of_others_has_is_not_free(
    libvirt_lab: LibvirtLab, wanted: VolumeIntent, machine: Instance
) -> None:
    platform, made = libvirt_lab.platform, libvirt_lab.platform.create_volume(wanted)
    path = libvirt_lab.pool.storageVolLookupByName(made.id).path()
    other = libvirt_lab.api.defineXML(
        f"<domain type='qemu'><name>of-others-{wanted.slot}</name><memory unit='MiB'>16</memory>"
        "<os><type>hvm</type></os>"
        f"<devices><disk type='file' device='disk'><source file='{path}'/><target dev='vda'/></disk></devices></domain>"
    )
    (seen,) = platform.list_volumes(wanted.fleet)
    assert seen.attached_to == other.UUIDString()
    with pytest.raises(InUse):
        platform.attach_volume(made.id, machine.id)
    platform.detach_volume(made.id, machine.id)
    assert path in other.XMLDesc(0)


def test_a_copy_is_never_taken_while_something_writes(
    libvirt_lab: LibvirtLab, wanted: VolumeIntent, machine: Instance
) -> None:
    made = libvirt_lab.platform.create_volume(wanted)
    libvirt_lab.platform.attach_volume(made.id, machine.id)
    with pytest.raises(InUse):
        libvirt_lab.platform.snapshot_volume(made.id, uuid.uuid4().hex)


def test_the_guest_may_be_called_after_its_slot(libvirt_lab: LibvirtLab, wanted: VolumeIntent) -> None:
    settings = {**libvirt_lab.settings, "hostname": "slot"}
    intent = LaunchIntent(
        wanted.fleet, wanted.slot, "rollout-1", 1, "lab", "2026.11-1", libvirt_lab.standard, settings=settings
    )
    assert libvirt_lab.user_data(libvirt_lab.platform.launch(intent).id)["hostname"] == wanted.slot
