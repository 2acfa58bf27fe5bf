"""Real disks for tests: file systems by e2fsprogs and QEMU, partition tables by hand."""

from __future__ import annotations

import struct
import subprocess
import uuid
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

MIB = 1024 * 1024
SECTOR = 512
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"


def tree(folder: Path, files: Mapping[str, bytes]) -> Path:
    """The folder with those files in it."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def ext(target: Path, root: Path, mib: int = 24, *options: str, kind: str = "ext4") -> Path:
    """A file system with that tree on it."""
    argv = ["mke2fs", "-q", "-t", kind, "-E", "no_copy_xattrs", *options, "-d", str(root), str(target), f"{mib}M"]
    subprocess.run(argv, check=True, capture_output=True)
    return target


def debugfs(image: Path, *requests: str) -> str:
    """Change or read a file system by hand."""
    commands = image.with_suffix(".commands")
    commands.write_text("\n".join(requests) + "\n")
    done = subprocess.run(["debugfs", "-w", "-f", str(commands), str(image)], check=True, capture_output=True)
    return done.stdout.decode()


def fat(target: Path, root: Path, bits: int = 16, mib: int = 40) -> Path:
    """A FAT file system with that tree on it."""
    with target.open("wb") as file:
        file.truncate(mib * MIB)
    per_cluster = ["-s", "1"] if bits == 32 else []
    argv = ["mkfs.vfat", "-F", str(bits), "-n", "UEFI", "-i", "7B7795E7", *per_cluster, str(target)]
    subprocess.run(argv, check=True, capture_output=True)
    there = sorted(str(each) for each in root.iterdir())
    subprocess.run(["mcopy", "-s", "-i", str(target), *there, "::"], check=True, capture_output=True)
    return target


def convert(source: Path, target: Path, form: str, *options: str) -> Path:
    """A raw disk in another format, by QEMU."""
    argv = ["qemu-img", "convert", "-f", "raw", "-O", form, *options, str(source), str(target)]
    subprocess.run(argv, check=True, capture_output=True)
    return target


def gpt(target: Path, parts: Sequence[tuple[str, bytes | Path]], between: Mapping[int, bytes] | None = None) -> Path:
    """A disk with a GUID partition table, and what is to be in each partition by its type; all at whole MiB."""
    entries, at, placed = b"", 1, []
    for kind, content in parts:
        data = content.read_bytes() if isinstance(content, Path) else content
        size = -(-len(data) // MIB)
        first, last = at * MIB // SECTOR, (at + size) * MIB // SECTOR - 1
        ids = uuid.UUID(kind).bytes_le + uuid.uuid4().bytes_le
        entries += ids + struct.pack("<QQQ", first, last, 0) + bytes(72)
        placed.append((at * MIB, data))
        at += size
    table = entries.ljust(128 * 128, b"\0")
    end = (at + 1) * MIB // SECTOR
    head = struct.pack(
        "<8sIIIIQQQQ16sQIII",
        *(b"EFI PART", 0x10000, 92, 0, 0, 1, end - 1, 34, end - 34),
        *(uuid.uuid4().bytes_le, 2, 128, 128, zlib.crc32(table)),
    )
    head = head[:16] + struct.pack("<I", zlib.crc32(head)) + head[20:]
    with target.open("wb") as file:
        file.truncate((at + 1) * MIB)
        file.write(bytes(446) + struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff" * 3, 1, end - 1))
        file.seek(510)
        file.write(b"\x55\xaa" + head)
        file.seek(2 * SECTOR)
        file.write(table)
        for place, data in [*placed, *(between or {}).items()]:
            _sparsely(file, place, data)
    return target


def mbr(target: Path, file_system: Path) -> Path:
    """A disk with a master boot record and one Linux partition."""
    size = file_system.stat().st_size
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", MIB // SECTOR, size // SECTOR)
    with target.open("wb") as file:
        file.truncate(size + MIB)
        file.write(bytes(446) + entry + bytes(48) + b"\x55\xaa")
        _sparsely(file, MIB, file_system.read_bytes())
    return target


def _sparsely(file: IO[bytes], place: int, data: bytes) -> None:
    for at in range(0, len(data), 65536):
        if (piece := data[at : at + 65536]).strip(b"\0"):
            file.seek(place + at)
            file.write(piece)
