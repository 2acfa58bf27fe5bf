"""What moto leaves out of AMIs: filters by description and root device, and snapshots as encrypted as their volume."""

from __future__ import annotations

from typing import Any


def complete() -> None:
    """Let moto's AMIs be found by what EC2 finds them by, too; once for this process."""
    from moto.ec2.models.amis import Ami

    known = Ami.get_filter_value
    if getattr(known, "is_complete", False):
        return

    def more(self: Any, filter_name: str, method_name: str | None = None) -> Any:
        own = {"description": "description", "root-device-type": "root_device_type"}
        return getattr(self, own[filter_name]) if filter_name in own else known(self, filter_name, method_name)

    more.is_complete = True  # type: ignore[attr-defined]
    Ami.get_filter_value = more  # type: ignore[method-assign]


def encrypt(backend: Any, instance_id: str) -> None:
    """Make the snapshots behind that instance's AMIs as encrypted as its root volume is."""
    instance = backend.get_instance(instance_id)
    volumes = [backend.volumes[each.volume_id] for each in instance.block_device_mapping.values()]
    for image in backend.amis.values():
        if image.instance_id == instance_id:
            image.ebs_snapshot.encrypted = all(volume.encrypted for volume in volumes)
