"""Reads FAT12, FAT16 and FAT32 from bytes alone, as EFI system partitions are; what is damaged ends in an error.

The layout: Microsoft's "FAT File System Specification" 1.03, which the UEFI specification refers to.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from phoenix_fleet.disks.bounds import Budget, Unreadable
from phoenix_fleet.disks.files import File, name_of
from phoenix_fleet.disks.raw import Range, Raw

_ENTRY = 32
_LONG_NAME, _VOLUME, _FOLDER = 0x0F, 0x08, 0x10
_END, _DELETED = 0x00, 0xE5


def is_fat(raw: Raw) -> bool:
    """Whether there is such a file system."""
    if raw.size < 512:
        return False
    head = raw.read(0, 512)
    return head[510:512] == b"\x55\xaa" and (head[54:57] == b"FAT" or head[82:87] == b"FAT32")


class Fat:
    """The file system in a partition."""

    def __init__(self, raw: Raw, budget: Budget) -> None:
        """:raises Unreadable: its first sector makes no sense."""
        self._raw, self._budget = raw, budget
        self.read: list[Range] = []
        head = raw.read(0, 512)
        sector, per_cluster, reserved, copies, self._roots = struct.unpack("<HBHBH", head[11:19])
        sectors = int.from_bytes(head[19:21], "little") or int.from_bytes(head[32:36], "little")
        per_table = int.from_bytes(head[22:24], "little") or int.from_bytes(head[36:40], "little")
        if sector not in (512, 1024, 2048, 4096) or not per_cluster or not reserved or not copies or not per_table:
            raise Unreadable("its FAT has a damaged first sector")
        self._root = (reserved + copies * per_table) * sector
        self._data = self._root + -(-self._roots * _ENTRY // sector) * sector
        self._cluster = per_cluster * sector
        self._count = (sectors * sector - self._data) // self._cluster
        # As Linux decides it: the specification would go by the count alone, and few who write FAT32 keep to that.
        self._bits = 32 if head[22:24] == b"\0\0" else 12 if self._count < 4085 else 16
        self._table = raw.read(reserved * sector, per_table * sector)
        self._first = int.from_bytes(head[44:48], "little") if self._bits == 32 else 0
        known = 67 if self._bits == 32 else 39
        serial = head[known : known + 4][::-1].hex().upper()
        self.uuid = f"{serial[:4]}-{serial[4:]}"
        self.label = head[known + 4 : known + 15].decode("ascii", "replace").strip()

    def walk(self) -> Iterator[tuple[File, Iterator[bytes]]]:
        """Every entry with its content."""
        seen: set[int] = set()
        left = [("/", self._first)]
        while left:
            above, first = left.pop()
            for written, entry in self._listed(first, is_root=above == "/"):
                self._budget.entry()
                text, is_hostile = name_of(written)
                start, size = _start(entry), int.from_bytes(entry[28:32], "little")
                if entry[11] & _FOLDER:
                    if start in seen:
                        raise Unreadable(f"the folder {above + text[:200]!r} is in two places")
                    seen.add(start)
                    left.append((above + text + "/", start))
                    yield File(above + text, "folder", 0, is_hostile=is_hostile), iter(())
                else:
                    yield File(above + text, "file", size, is_hostile=is_hostile), self._content(start, size)

    def find(self, path: str, most: int) -> bytes | None:
        """The first bytes of the file at that path, in whichever case it is written."""
        for file, content in self.walk():
            if file.kind == "file" and file.path.lower() == path.lower():
                return b"".join(content)[:most]
        return None

    # Inside

    def _listed(self, first: int, *, is_root: bool) -> Iterator[tuple[bytes, bytes]]:
        """Long names with their entries."""
        long = b""
        for block in self._folder(first, is_root=is_root):
            for at in range(0, len(block), _ENTRY):
                entry = block[at : at + _ENTRY]
                if entry[0] == _END:
                    return
                if entry[0] == _DELETED:
                    long = b""
                elif entry[11] & 0x3F == _LONG_NAME:
                    long = entry[1:11] + entry[14:26] + entry[28:32] + long
                else:
                    name, long = _long(long) or _short(entry), b""
                    if not entry[11] & _VOLUME and name not in (b".", b".."):
                        yield name, entry

    def _folder(self, first: int, *, is_root: bool) -> Iterator[bytes]:
        if is_root and not first:
            self._budget.take(self._roots * _ENTRY)
            yield self._raw.read(self._root, self._roots * _ENTRY)
            return
        for place in self._chain(first):
            self._budget.take(self._cluster)
            yield self._raw.read(place, self._cluster)

    def _content(self, first: int, size: int) -> Iterator[bytes]:
        left = size
        for place in self._chain(first) if size else ():
            piece = min(left, self._cluster)
            self._budget.take(piece)
            yield self._raw.read(place, piece)
            self.read.append((place, place + piece))
            left -= piece
            if not left:
                return
        if left:
            raise Unreadable("its FAT has a file that ends before its size")

    def _chain(self, first: int) -> Iterator[int]:
        """Where the clusters of a file or folder begin."""
        number, steps = first, 0
        while 2 <= number < self._count + 2:
            steps += 1
            if steps > self._count:
                raise Unreadable("its FAT has a file that never ends")
            yield self._data + (number - 2) * self._cluster
            number = self._next(number)
        if number < self._last:
            raise Unreadable(f"its FAT has a file that goes on in cluster {number}")

    @property
    def _last(self) -> int:
        """From here on a number ends a chain."""
        return (0x0FFFFFF8 if self._bits == 32 else (1 << self._bits) - 8) if self._count else 0

    def _next(self, number: int) -> int:
        if self._bits == 12:
            pair = int.from_bytes(self._table[number * 3 // 2 : number * 3 // 2 + 2], "little")
            return pair >> 4 if number % 2 else pair & 0xFFF
        width = self._bits // 8
        return int.from_bytes(self._table[number * width : (number + 1) * width], "little") & 0x0FFFFFFF


def _start(entry: bytes) -> int:
    return int.from_bytes(entry[26:28], "little") | int.from_bytes(entry[20:22], "little") << 16


def _long(written: bytes) -> bytes:
    text = written.decode("utf-16-le", "surrogatepass").partition("\0")[0]
    return text.encode("utf-8", "surrogatepass")


def _short(entry: bytes) -> bytes:
    base, kind = entry[:8].rstrip(b" "), entry[8:11].rstrip(b" ")
    return (base + b"." + kind if kind else base).lower()
