"""The NoCloud seed: a small disk from which cloud-init takes an instance's name and key."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

from phoenix_fleet.domain.models import LaunchIntent
from phoenix_fleet.platforms._libvirt_identity import HostKey


def seed(intent: LaunchIntent, host_key: HostKey | None) -> bytes:
    """The disk (ISO 9660 named ``cidata``): https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html."""
    meta = {"instance-id": intent.token, "local-hostname": intent.host_name}
    user: dict[str, Any] = {
        "hostname": intent.host_name,
        "preserve_hostname": False,
        "ssh_pwauth": False,
        "disable_root": False,
        "ssh_deletekeys": True,
        # What the driver reads the machine's identity from (decision 0071).
        "ssh": {"emit_keys_to_console": True},
    }
    if intent.authorized_key:
        user["users"] = [{"name": "root", "ssh_authorized_keys": [intent.authorized_key]}]
    if host_key:
        # https://docs.cloud-init.io/en/latest/reference/modules.html#ssh: with these it makes no others.
        user["ssh_keys"] = {"ed25519_private": host_key.private, "ed25519_public": host_key.public}
    return iso(meta, user)


def iso(meta: Mapping[str, Any], user: Mapping[str, Any]) -> bytes:
    """The disk that tells cloud-init this meta-data and this cloud-config."""
    import pycdlib

    # JSON is YAML, and quotes what people wrote.
    texts = {"meta-data": json.dumps(meta), "user-data": f"#cloud-config\n{json.dumps(user)}\n"}
    disk = pycdlib.PyCdlib()
    disk.new(interchange_level=3, vol_ident="cidata", rock_ridge="1.09", joliet=3)
    try:
        for index, (name, text) in enumerate(texts.items()):
            content = text.encode()
            disk.add_fp(io.BytesIO(content), len(content), f"/FILE{index}.;1", rr_name=name, joliet_path=f"/{name}")
        out = io.BytesIO()
        disk.write_fp(out)
        return out.getvalue()
    finally:
        disk.close()
