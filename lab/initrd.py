"""A first file system for kernels that boot in seconds under emulation: busybox, a few modules, one short script.

It loads the modules, mounts the first disk, puts what it was given below ``/run/lab`` and images into libvirt's folder,
and goes over to ``/lab/init``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

_DIRECTORY, _FILE = 0o040755, 0o100644
INIT = b"""\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for module in /modules/*; do $b insmod "$module"; done
tries=0
until [ -b /dev/vda ] || [ -b /dev/xvda ] || [ $tries -ge 300 ]; do
    $b usleep 100000
    tries=$((tries + 1))
done
disk=/dev/xvda
[ -b /dev/vda ] && disk=/dev/vda
$b mount -t ext4 -o rw,noatime $disk /root
$b mount -t tmpfs -o mode=755 run /root/run
[ -d /given ] && $b cp -r /given /root/run/lab
[ -d /images ] && $b cp /images/* /root/var/lib/libvirt/images/
$b umount /proc /sys
$b mount --move /dev /root/dev
exec $b switch_root /root /lab/init
"""


def build(
    busybox: bytes,
    modules: Sequence[bytes],
    given: Mapping[str, bytes] | None = None,
    images: Mapping[str, bytes] | None = None,
) -> bytes:
    """The archive. Modules are loaded in their order; what is ``given``, and images, are for root alone."""
    entries: list[tuple[str, int, bytes]] = [
        *((name, _DIRECTORY, b"") for name in ("bin", "dev", "modules", "proc", "root", "sys")),
        ("bin/busybox", _FILE | 0o111, busybox),
        ("init", _FILE | 0o111, INIT),
        *((f"modules/{number:03}.ko", _FILE, content) for number, content in enumerate(modules)),
    ]
    for folder, files in (("given", given), ("images", images)):
        if files:
            entries.append((folder, _DIRECTORY, b""))
            entries += [(f"{folder}/{name}", _FILE & ~0o077, content) for name, content in files.items()]
    return archive(entries)


def archive(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Names, modes and contents as an archive that the kernel unpacks.

    Its form: https://docs.kernel.org/driver-api/early-userspace/buffer-format.html
    """
    parts = [_entry(number, *entry) for number, entry in enumerate(entries, 1)]
    return b"".join([*parts, _entry(0, "TRAILER!!!", 0, b"")])


def _entry(number: int, name: str, mode: int, content: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    # Inode, mode, owner, group, links, time, size, two devices, length of the name, no check sum.
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % each for each in fields) + encoded
    return _padded(head) + _padded(content)


def _padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % 4)
