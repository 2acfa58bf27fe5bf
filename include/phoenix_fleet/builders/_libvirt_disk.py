"""A disk that Packer can boot once, and a key to log in: made from scratch, or a cloud image that somebody publishes.

One from scratch has its kernel beside it, and one partition behind a gap that GRUB fits into, so that what is
provisioned there boots by itself everywhere. A cloud image boots by itself from the first time on, and its cloud-init
lets the key in.
"""

from __future__ import annotations

import os
import shutil
import struct
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from phoenix_fleet.builders import _tools as tools
from phoenix_fleet.builders.base import Log
from phoenix_fleet.domain.errors import BuildFailed, InvalidConfig
from phoenix_fleet.platforms import _libvirt_probe as probe
from phoenix_fleet.platforms import _libvirt_seed as nocloud

LABEL = "phoenix-root"
PROGRAMS = ("qemu-img", "qemu-system-x86_64", "ssh-keygen")
PROGRAMS_FROM_SCRATCH = ("mmdebstrap", "mke2fs", "tar")
_MIB = 1024 * 1024
_GAP = 1
"""MiB before the partition."""
_SECTOR = 512
_MAKING = timedelta(minutes=10)
_QCOW2 = b"QFI\xfb"
_EXTERNAL_DATA = 1 << 2


@dataclass(frozen=True)
class Disk:
    """A raw disk and what boots it the first time."""

    path: Path
    boot: tuple[tuple[str, str], ...]
    """Arguments for QEMU."""
    prints: tuple[str, ...]
    """Arguments for QEMU by which its kernel prints on the serial console, and nothing is written."""
    layers: str
    """What is to be provisioned there (``PHOENIX_LAYERS``)."""


def key(folder: Path) -> tuple[Path, str]:
    """A new key that lives as long as the folder: its private half's file, and the line that lets it in."""
    path = folder / "id_ed25519"
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "phoenix-build", "-f", str(path)]
    tools.run(argv, timeout=timedelta(minutes=1))
    return path, path.with_suffix(".pub").read_text().strip()


def make(tar: Path, common: Path, public_key: str, folder: Path, *, gib: int, log: Log) -> Disk:
    """The disk, in that folder.

    :raises BuildFailed: the root file system has no kernel, does not fit, or a program failed.
    """
    root, disk = folder / "root", folder / "disk.raw"
    root.mkdir()
    log(f"build: making a disk of {gib} GiB")
    tools.run(["tar", "--numeric-owner", "-xpf", str(tar), "-C", str(root)], timeout=_MAKING)
    try:
        kernel, initrd = _boot_files(root, folder)
        _prepare(root, common, public_key)
        with disk.open("wb") as file:
            file.truncate(gib * 1024 * _MIB)
            file.write(_partition_table(gib * 1024 * _MIB))
        size = f"{gib * 1024 - _GAP}M"
        offset = f"offset={_GAP * _MIB}"
        argv = ["mke2fs", "-q", "-t", "ext4", "-L", LABEL, "-E", offset, "-d", str(root), str(disk), size]
        tools.run(argv, timeout=_MAKING)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    boot = (
        ("-kernel", str(kernel)),
        ("-initrd", str(initrd)),
        ("-append", f"root=LABEL={LABEL} rw console=ttyS0 cloud-init=disabled"),
    )
    prints = ("-kernel", str(kernel), "-append", probe.CMDLINE)
    return Disk(disk, boot, prints, "common machine scratch")


def copy(image: Path, public_key: str, folder: Path, *, gib: int, log: Log) -> Disk:
    """A copy of the cloud image, in that folder, with room for that many GiB.

    :raises InvalidConfig: it is no qcow2 disk, is not whole by itself, or is larger than that.
    """
    size = _check(image, gib)
    disk, seed = folder / "disk.raw", folder / "seed.iso"
    log(f"build: copying a disk of {size / 1024 / _MIB:.1f} GiB to one of {gib} GiB")
    tools.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(image), str(disk)], timeout=_MAKING)
    os.truncate(disk, gib * 1024 * _MIB)
    seed.write_bytes(nocloud.iso({"instance-id": "phoenix-build"}, _let_in(public_key)))
    prints = ("-drive", f"file={disk},format=raw,if=virtio,snapshot=on")
    return Disk(disk, (("-cdrom", str(seed)),), prints, "common machine")


def capacity(disk: Path) -> int:
    """The size of a qcow2 disk as a guest sees it, in bytes: https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/qcow2.rst.

    :raises ValueError: it is no qcow2 disk, or needs another file.
    """
    with disk.open("rb") as file:
        head = file.read(104)
    if head[:4] != _QCOW2 or len(head) < 104:
        raise ValueError("is no qcow2 disk")
    version, backing = struct.unpack(">IQ", head[4:16])
    (features,) = struct.unpack(">Q", head[72:80])
    if backing or (version >= 3 and features & _EXTERNAL_DATA):
        raise ValueError("refers to another file")
    return int.from_bytes(head[24:32], "big")


def _check(image: Path, gib: int) -> int:
    try:
        size = capacity(image)
    except ValueError as error:
        raise InvalidConfig(
            f"image.yaml: build.seed.url: the file {error}.", remedy="Name a cloud image in the format qcow2."
        ) from None
    if size > gib * 1024 * _MIB:
        raise InvalidConfig(
            f"image.yaml: build.settings.disk_gib: {gib} is less than the {size / 1024 / _MIB:.1f} of the cloud image.",
            remedy="Raise disk_gib.",
        )
    return size


def _let_in(public_key: str) -> dict[str, Any]:
    """What cloud-init is told: https://docs.cloud-init.io/en/latest/reference/modules.html#users-and-groups."""
    users = [{"name": "root", "ssh_authorized_keys": [public_key]}]
    return {"users": users, "disable_root": False, "ssh_pwauth": False}


def _boot_files(root: Path, folder: Path) -> tuple[Path, Path]:
    """Kernel and initial RAM disk, taken out of the root file system."""
    kernels = sorted(root.glob("boot/vmlinuz-*"))
    if not kernels:
        raise BuildFailed(
            "The seed has no kernel, so its disk cannot boot.", remedy="Add linux-image-amd64 to seed.include."
        )
    initrd = kernels[-1].with_name(kernels[-1].name.replace("vmlinuz", "initrd.img"))
    if not initrd.is_file():
        raise BuildFailed(
            f"The seed has {kernels[-1].name} and no initial RAM disk for it.",
            remedy="Add initramfs-tools to seed.include.",
        )
    return Path(shutil.copy(kernels[-1], folder / "vmlinuz")), Path(shutil.copy(initrd, folder / "initrd.img"))


def _prepare(root: Path, common: Path, public_key: str) -> None:
    """What the first boot needs: a network, and whoever holds the key let in. Provisioning lays down the rest."""
    shutil.copytree(common / "files" / "scratch", root, dirs_exist_ok=True)
    ssh = root / "root" / ".ssh"
    ssh.mkdir(mode=0o700, exist_ok=True)
    (ssh / "authorized_keys").touch(mode=0o600)
    (ssh / "authorized_keys").write_text(public_key + "\n")
    wanted = root / "etc/systemd/system/multi-user.target.wants"
    wanted.mkdir(parents=True, exist_ok=True)
    for unit in ("systemd-networkd.service", "systemd-resolved.service"):
        if not os.path.lexists(wanted / unit):
            (wanted / unit).symlink_to(f"/lib/systemd/system/{unit}")
    resolv = root / "etc/resolv.conf"
    resolv.unlink(missing_ok=True)
    resolv.symlink_to("../run/systemd/resolve/stub-resolv.conf")


def _partition_table(size: int) -> bytes:
    """A master boot record with one active Linux partition from the gap to the end."""
    start = _GAP * _MIB // _SECTOR
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", start, size // _SECTOR - start)
    return bytes(440) + os.urandom(4) + bytes(2) + entry + bytes(48) + b"\x55\xaa"
