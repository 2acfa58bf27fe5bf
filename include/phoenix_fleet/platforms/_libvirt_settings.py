"""What a fleet or image file may say about the ``libvirt`` platform."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
_PATH = r"^(/[A-Za-z0-9_.+-]+)*$"


class Settings(BaseModel):
    """Where and how domains run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pool: str = Field(description="Storage pool of images and disks, a folder (type dir); it must run.", pattern=_NAME)
    network: str = Field(
        "", description="Network, or bridge, that instances join; it must exist.", pattern=rf"^$|{_NAME}"
    )
    interface: Literal["network", "bridge", "user"] = Field(
        "network",
        description="What 'network' names: a libvirt network or a bridge of the host; user: nothing, and nobody "
        "reaches the instance. Default: network.",
    )
    connection: str = Field("libvirt", description="Airflow connection of the host. Default: libvirt.")
    domain: Literal["auto", "kvm", "qemu", "xen"] = Field(
        "auto",
        description="Kind of domain. auto: xen on a Xen host, else kvm if a guest really boots with it, else qemu "
        "(emulated). Default: auto.",
    )
    xen: Literal["pv", "pvh"] = Field("pvh", description="Kind of guest on Xen. Default: pvh.")
    memory: str = Field(
        "1g", description="Memory of an instance, such as 512m or 2g. Default: 1g.", pattern=r"^[1-9]\d{0,5}[mg]$"
    )
    vcpus: int = Field(1, ge=1, le=512, description="Virtual processors of an instance. Default: 1.")
    machine: str = Field(
        "", description="QEMU's machine type, such as q35. Default: libvirt's own.", pattern=r"^[a-z0-9.-]{0,40}$"
    )
    firmware: Literal["bios", "efi"] = Field("bios", description="Firmware of a QEMU guest. Default: bios.")
    kernel: str = Field(
        "", description="Kernel on the host to boot directly, a path. Default: as the disk says.", pattern=_PATH
    )
    initrd: str = Field("", description="Initial RAM disk for that kernel, a path on the host.", pattern=_PATH)
    cmdline: str = Field("", description="Command line of that kernel.", pattern=r"^[\x20-\x7e]{0,1024}$")
    seed: Literal["nocloud", "none"] = Field(
        "nocloud",
        description="How an instance learns its name and key: nocloud, a disk for cloud-init; none, not at all. "
        "Default: nocloud.",
    )
    hostname: Literal["instance", "slot"] = Field(
        "instance",
        description="What the guest calls itself: its own name, new each time, or its slot's, which stays, and "
        "which two would have at once unless max_surge is 0. Default: instance.",
    )
    autostart: bool = Field(True, description="Whether an instance comes back with its host. Default: true.")

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.interface != "user" and not self.network:
            raise ValueError("network: name the network or bridge that instances join")
        if not self.kernel and (self.initrd or self.cmdline):
            raise ValueError("kernel: initrd and cmdline need a kernel")
        if self.domain == "xen" and not self.kernel:
            raise ValueError("kernel: a Xen guest needs one on the host (a kernel, or grub-xen's loader)")
        return self

    @property
    def memory_mib(self) -> int:
        """Memory in MiB."""
        return int(self.memory[:-1]) * (1024 if self.memory.endswith("g") else 1)
