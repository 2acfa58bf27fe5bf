"""Where the file systems of a disk lie: as GPT or a master boot record says, or on the whole disk."""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass

from phoenix_fleet.disks.bounds import Unreadable
from phoenix_fleet.disks.raw import Raw

_SECTOR = 512
_PROTECTIVE = 0xEE
_EXTENDED = frozenset({0x05, 0x0F, 0x85})
_BOOT_LOADERS = frozenset(
    {
        "21686148-6449-6e6f-744e-656564454649",  # BIOS boot partition
        "9e1a2d38-c612-4316-aa26-8b49521e5a8b",  # PReP
    }
)
_MOST_ENTRIES, _ENTRY_SIZES = 256, range(128, 4097, 8)


@dataclass(frozen=True)
class Partition:
    """One part of a disk."""

    number: int
    """As people count: from 1; 1 for a disk without a partition table."""
    raw: Raw
    is_loader: bool = False
    """Whether it holds a boot loader's code and no file system, as its type says."""


def partitions(disk: Raw) -> list[Partition]:
    """Every partition, by number.

    :raises Unreadable: the table is damaged, or of a kind that may hide something from this reader.
    """
    head = disk.read(0, 2 * _SECTOR)
    if _is_file_system(disk, head):
        return [Partition(1, disk)]
    if head[510:512] != b"\x55\xaa":
        raise Unreadable("the disk has neither a partition table nor a file system that can be read here")
    entries = [head[446 + 16 * number : 462 + 16 * number] for number in range(4)]
    kinds = [entry[4] for entry in entries]
    if _PROTECTIVE in kinds:
        return _gpt(disk, head[_SECTOR:])
    if _EXTENDED & set(kinds):
        raise Unreadable("the disk has an extended partition, which cannot be read here")
    found = []
    for number, entry in enumerate(entries, 1):
        start, count = struct.unpack("<II", entry[8:16])
        if entry[4]:
            found.append(Partition(number, disk.part(start * _SECTOR, count * _SECTOR)))
    if not found:
        raise Unreadable("the disk's partition table is empty")
    return found


def _is_file_system(disk: Raw, head: bytes) -> bool:
    """Whether the whole disk is one file system: a FAT has the mark of a boot record, too."""
    return disk.read(1024, 1024)[56:58] == b"\x53\xef" or head[54:57] == b"FAT" or head[82:87] == b"FAT32"


def _gpt(disk: Raw, header: bytes) -> list[Partition]:
    size = struct.unpack("<I", header[12:16])[0]
    if header[:8] != b"EFI PART" or not 92 <= size <= _SECTOR:
        raise Unreadable("the disk's GPT has no header where a disk with sectors of 512 bytes has it")
    summed = header[:16] + bytes(4) + header[20:size]
    at, count, length, checksum = struct.unpack("<QIII", header[72:92])
    if count > _MOST_ENTRIES or length not in _ENTRY_SIZES:
        raise Unreadable(f"the disk's GPT has {count} entries of {length} bytes")
    table = disk.read(at * _SECTOR, count * length)
    # A kernel takes the copy at the end instead if the sums are wrong: then what is read here would not be what runs.
    if zlib.crc32(summed) != struct.unpack("<I", header[16:20])[0] or zlib.crc32(table) != checksum:
        raise Unreadable("the disk's GPT is damaged: its checksums are wrong")
    found = []
    for number in range(count):
        entry = table[number * length : (number + 1) * length]
        if any(entry[:16]):
            first, last = struct.unpack("<QQ", entry[32:48])
            raw = disk.part(first * _SECTOR, (last - first + 1) * _SECTOR)
            found.append(Partition(number + 1, raw, str(uuid.UUID(bytes_le=entry[:16])) in _BOOT_LOADERS))
    if not found:
        raise Unreadable("the disk's GPT is empty")
    return found
