"""Virtual disks made raw: qcow2 and VMware's stream-optimized VMDK, read from bytes alone.

Neither may lead to another file: a disk that names one would make whoever opens it read any file of this machine
(CVE-2024-32498). So no program that follows such names is asked, and a disk that has some is refused.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from phoenix_fleet.disks.bounds import Limits, Unreadable

_SECTOR = 512
_CHUNK = 1024 * 1024
Piece = tuple[int, bytes]
"""Where on the disk, and what."""


def to_raw(source: Path, form: str, target: Path, limits: Limits) -> None:
    """Write the disk (``raw``, ``qcow2`` or ``vmdk``) as a raw one; what it does not store becomes holes.

    :raises Unreadable: it is damaged, of another kind, or stores more than the limits allow.
    """
    readers: dict[str, Callable[[IO[bytes]], tuple[int, Iterator[Piece]]]] = {"qcow2": _qcow2, "vmdk": _vmdk}
    if form not in readers:
        raise Unreadable(f"a disk of the format '{form[:40]}' cannot be read here")
    written = 0
    try:
        with source.open("rb") as file, target.open("xb") as raw:
            size, pieces = readers[form](file)
            if size > limits.total * 64:
                raise Unreadable(f"it says that it has {size} bytes")
            raw.truncate(size)
            for at, data in pieces:
                if at + len(data) > size:
                    data = data[: max(0, size - at)]
                if not data.strip(b"\0"):
                    continue
                written += len(data)
                if written > limits.total:
                    raise Unreadable(f"it is larger than {limits.total} bytes")
                raw.seek(at)
                raw.write(data)
    except (OSError, struct.error, zlib.error, OverflowError, MemoryError) as error:
        raise Unreadable(f"the disk cannot be read as {form}: {type(error).__name__}: {error}") from None


def _at(file: IO[bytes], place: int, size: int) -> bytes:
    file.seek(place)
    data = file.read(size)
    if len(data) != size:
        raise Unreadable(f"the disk's file ends before byte {place + size}")
    return data


# --- qcow2: https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/qcow2.rst -----------------------------

_COMPRESSED, _ZERO = 1 << 62, 1
_OFFSET = 0x00FFFFFFFFFFFE00
_DIRTY = 0b1
"""The one incompatible feature that changes nothing for a reader: counts of references may be wrong."""


def _qcow2(file: IO[bytes]) -> tuple[int, Iterator[Piece]]:
    head = _at(file, 0, 112)
    magic, version, backing, _, bits, size, encryption, entries, table = struct.unpack(">4sIQIIQIIQ", head[:48])
    incompatible = struct.unpack(">Q", head[72:80])[0] if version >= 3 else 0
    if magic != b"QFI\xfb" or version not in (2, 3) or not 9 <= bits <= 21:
        raise Unreadable("it is no qcow2 disk that can be read here")
    if backing or incompatible & ~_DIRTY or encryption:
        raise Unreadable("its qcow2 leads to another file, is encrypted, or has features that cannot be read here")
    per_table = (1 << bits) // 8
    if entries > -(-size // (per_table << bits)) + 1:
        raise Unreadable("its qcow2 has a first table that is too long")
    return size, _clusters(file, bits, struct.unpack(f">{entries}Q", _at(file, table, entries * 8)))


def _clusters(file: IO[bytes], bits: int, first: tuple[int, ...]) -> Iterator[Piece]:
    length = 1 << bits
    per_table = length // 8
    for number, entry in enumerate(first):
        if not (place := entry & _OFFSET):
            continue
        for inner, below in enumerate(struct.unpack(f">{per_table}Q", _at(file, place, length))):
            at = (number * per_table + inner) * length
            if below & _COMPRESSED:
                yield at, _unpacked(file, bits, below)
            elif below & _OFFSET and not below & _ZERO:
                file.seek(below & _OFFSET)
                yield at, file.read(length)  # the last one may be cut off at the file's end


def _unpacked(file: IO[bytes], bits: int, entry: int) -> bytes:
    # The offset's width leaves the rest of 62 bits to the number of further sectors.
    width = 62 - (bits - 8)
    place = entry & ((1 << width) - 1)
    sectors = (entry >> width) & ((1 << (bits - 8)) - 1)
    file.seek(place)
    packed = file.read((sectors + 1) * _SECTOR - place % _SECTOR)
    return zlib.decompressobj(-12).decompress(packed, 1 << bits)


# --- VMDK: "Virtual Disk Format 5.0", VMware technical note ---------------------------------------------------------

_STREAM = b'createType="streamOptimized"'
_END_OF_STREAM, _FOOTER = 0, 3
_LARGEST_GRAIN = 1024 * 1024


def _vmdk(file: IO[bytes]) -> tuple[int, Iterator[Piece]]:
    head = _at(file, 0, _SECTOR)
    magic, version, flags, capacity, grain, described, length = struct.unpack("<4sIIQQQQ", head[:44])
    compression = struct.unpack("<H", head[77:79])[0]
    if magic != b"KDMV" or version not in (1, 2, 3) or not flags & 1 << 17 or compression != 1:
        raise Unreadable("it is no stream-optimized VMDK")
    if not capacity or not 0 < grain * _SECTOR <= _LARGEST_GRAIN or not 0 < length <= 256:
        raise Unreadable("its VMDK has a damaged header")
    text = _at(file, described * _SECTOR, length * _SECTOR)
    if _STREAM not in text or b"parentFileNameHint" in text:
        raise Unreadable("its VMDK is of another kind, or leads to another file")
    overhead = struct.unpack("<Q", head[64:72])[0]
    return capacity * _SECTOR, _grains(file, overhead * _SECTOR, grain * _SECTOR)


def _grains(file: IO[bytes], at: int, largest: int) -> Iterator[Piece]:
    """What is in the stream, in its order: grains, and between them tables that only say where grains are."""
    while True:
        marker = _at(file, at, 16)
        sector, size, kind = struct.unpack("<QII", marker)
        if size:  # a grain, whose content begins right behind the size
            packed = _at(file, at + 12, size)
            inflating = zlib.decompressobj()
            data = inflating.decompress(packed, largest)
            if not inflating.eof:
                raise Unreadable("its VMDK has a grain that is too long or cut off")
            yield sector * _SECTOR, data
            at += -(-(12 + size) // _SECTOR) * _SECTOR
        elif kind == _END_OF_STREAM:
            return
        else:
            at += _SECTOR * (1 + sector)
