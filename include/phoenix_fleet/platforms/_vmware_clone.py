"""What a clone is asked for: where, how its disks come about, its marks, and what its guest is told."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from phoenix_fleet.domain.errors import InvalidSpec
from phoenix_fleet.domain.models import LaunchIntent
from phoenix_fleet.platforms import _vmware_view as view
from phoenix_fleet.platforms._vmware_places import Places

# At every boot: what a guest tells is forgotten when it is powered off.
_TELL_HOST_KEYS = f"""\
#!/bin/sh
keys=$(cut -d' ' -f1,2 /etc/ssh/ssh_host_*_key.pub | tr '\\n' ',')
if command -v vmware-rpctool >/dev/null; then
  exec vmware-rpctool "info-set {view.HOST_KEYS} $keys"
fi
exec vmtoolsd --cmd "info-set {view.HOST_KEYS} $keys"
"""


def spec(intent: LaunchIntent, seen: Mapping[str, Any], places: Places, marks: dict[str, str], *, linked: bool) -> Any:
    """The ``CloneSpec``: powered on by vCenter itself when the disks are there, so that nobody has to wait for them.

    :raises InvalidSpec: the template cannot be cloned that way.
    """
    from pyVmomi import vim

    relocate = vim.vm.RelocateSpec(datastore=places.datastore, pool=places.pool, host=places.host)
    asked = vim.vm.CloneSpec(location=relocate, powerOn=True, template=False)
    if linked:
        snapshots = seen.get("snapshot")
        if snapshots is None or snapshots.currentSnapshot is None:
            raise InvalidSpec(
                f"The template {seen.get('name')} has no snapshot, so there is nothing to link a clone to.",
                remedy="Let its build make one, or set `linked: false` in the fleet file.",
            )
        asked.snapshot = snapshots.currentSnapshot
        relocate.diskMoveType = "createNewChildDiskBacking"
    told = {**marks, **guest(intent)}
    asked.config = vim.vm.ConfigSpec(
        instanceUuid=view.instance_id(intent.token),
        extraConfig=[vim.option.OptionValue(key=key, value=value) for key, value in told.items()],
    )
    if places.network is not None:
        asked.config.deviceChange = [_at_network(seen, places.network)]
    return asked


def guest(intent: LaunchIntent) -> dict[str, str]:
    """What cloud-init's VMware data source reads: host name, who may log in, and that it tells its host keys."""
    metadata = {"instance-id": intent.token, "local-hostname": intent.host_name}
    told: dict[str, Any] = {
        "preserve_hostname": False,
        "ssh_deletekeys": True,
        "write_files": [
            {
                "path": "/var/lib/cloud/scripts/per-boot/phoenix-host-keys",
                "permissions": "0755",
                "content": _TELL_HOST_KEYS,
            }
        ],
    }
    if intent.authorized_key:
        told |= {"disable_root": False, "users": [{"name": "root", "ssh_authorized_keys": [intent.authorized_key]}]}
    return {
        "guestinfo.metadata": _encoded(json.dumps(metadata)),
        "guestinfo.metadata.encoding": "base64",
        "guestinfo.userdata": _encoded(f"#cloud-config\n{json.dumps(told)}\n"),
        "guestinfo.userdata.encoding": "base64",
    }


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _at_network(seen: Mapping[str, Any], network: Any) -> Any:
    """The change that puts the template's first network card at that network."""
    from pyVmomi import vim

    cards = [
        device for device in seen["config.hardware.device"] if isinstance(device, vim.vm.device.VirtualEthernetCard)
    ]
    if not cards:
        raise InvalidSpec(
            f"The template {seen.get('name')} has no network card, so it joins no network.",
            remedy="Give it one, or leave `network` out of the fleet file.",
        )
    card = min(cards, key=lambda each: each.key)
    if isinstance(network, vim.dvs.DistributedVirtualPortgroup):
        port = vim.dvs.PortConnection(
            switchUuid=network.config.distributedVirtualSwitch.uuid, portgroupKey=network.config.key
        )
        card.backing = vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo(port=port)
    else:
        card.backing = vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(network=network, deviceName=network.name)
    card.connectable = vim.vm.device.VirtualDevice.ConnectInfo(
        startConnected=True, connected=True, allowGuestControl=True
    )
    return vim.vm.device.VirtualDeviceSpec(operation="edit", device=card)
