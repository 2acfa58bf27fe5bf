"""Reads ext2, ext3 and ext4 from bytes alone; whatever it does not know for certain ends in an error.

The layout: https://docs.kernel.org/filesystems/ext4/index.html.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from phoenix_fleet.disks.bounds import Budget, Unreadable
from phoenix_fleet.disks.files import HOLE, File, name_of
from phoenix_fleet.disks.raw import Range, Raw

_MAGIC = 0xEF53
_NEEDS_RECOVERY, _IS_64BIT = 0x4, 0x80
_KNOWN = 0x2 | 0x40 | _IS_64BIT | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x20000
"""Features that a reader has to understand, and this one does: file types, extents, 64 bit, MMP, flexible groups, large
attributes, the seed of checksums, large folders, folded case."""
_HAS_EXTENTS, _IS_INLINE, _IS_ENCRYPTED = 0x80000, 0x10000000, 0x800
_EXTENT_MAGIC, _MOST_DEPTH, _UNWRITTEN = 0xF30A, 5, 32768
_ROOT = 2
_KINDS = {0x8: "file", 0x4: "folder", 0xA: "symlink"}
_LONGEST_LINK = 4096
_CHUNK = 1024 * 1024


def is_ext(raw: Raw) -> bool:
    """Whether there is such a file system."""
    return raw.size >= 2048 and raw.read(1024, 1024)[56:58] == _MAGIC.to_bytes(2, "little")


@dataclass(frozen=True)
class _Inode:
    number: int
    mode: int
    size: int
    flags: int
    block: bytes

    @property
    def kind(self) -> str:
        return _KINDS.get(self.mode >> 12, "other")


@dataclass(frozen=True)
class _Extent:
    """Blocks that follow one another in a file and on the disk."""

    logical: int
    count: int
    physical: int


class Ext:
    """The file system in a partition."""

    def __init__(self, raw: Raw, budget: Budget) -> None:
        """:raises Unreadable: it was cut off while it was written, or uses what this reader does not know."""
        self._raw, self._budget = raw, budget
        self.read: list[Range] = []
        sb = raw.read(1024, 1024)
        log_block, inode_size, first_data = _u32(sb, 24), _u16(sb, 88) if _u32(sb, 76) else 128, _u32(sb, 20)
        incompat = _u32(sb, 96)
        self._per_group, self._inodes = _u32(sb, 40), _u32(sb, 0)
        if log_block > 6 or inode_size not in (128, 256, 512, 1024) or not self._per_group or not self._inodes:
            raise Unreadable("its ext4 has a damaged superblock")
        if incompat & _NEEDS_RECOVERY:
            raise Unreadable("its ext4 was cut off while it was written: its journal still holds changes")
        if unknown := incompat & ~_KNOWN:
            raise Unreadable(f"its ext4 uses features that cannot be read here ({unknown:#x})")
        self._block, self._inode_size = 1024 << log_block, inode_size
        self._blocks = _u32(sb, 4) | (_u32(sb, 336) << 32 if incompat & _IS_64BIT else 0)
        self._has_kinds = bool(incompat & 0x2)
        self._descriptor = max(32, _u16(sb, 254)) if incompat & _IS_64BIT else 32
        self._table = (first_data + 1) * self._block
        self.uuid = str(uuid.UUID(bytes=sb[104:120]))
        self.label = sb[120:136].rstrip(b"\0").decode(errors="replace")

    def walk(self) -> Iterator[tuple[File, Iterator[bytes]]]:
        """Every entry with its content."""
        seen = {_ROOT}
        left = [("/", self._inode(_ROOT))]
        while left:
            above, folder = left.pop()
            for name, number in self._listed(folder):
                self._budget.entry()
                text, is_hostile = name_of(name)
                path, inode = above + text, self._inode(number)
                if inode.kind == "folder":
                    if number in seen:
                        raise Unreadable(f"the folder {path[:200]!r} is in two places")
                    seen.add(number)
                    left.append((path + "/", inode))
                target = self._target(inode) if inode.kind == "symlink" else ""
                size = inode.size if inode.kind == "file" else 0
                content = self._content(inode) if inode.kind == "file" else iter(())
                yield File(path, inode.kind, size, target, is_hostile), content

    def find(self, path: str, most: int) -> bytes | None:
        """The first bytes of the file at that path."""
        inode = self._inode(_ROOT)
        for part in filter(None, path.split("/")):
            if inode.kind != "folder":
                return None
            wanted = part.encode()
            number = next((number for name, number in self._listed(inode) if name == wanted), 0)
            if not number:
                return None
            inode = self._inode(number)
        if inode.kind != "file":
            return None
        found = b""
        for chunk in self._content(inode):
            found += chunk
            if len(found) >= most:
                break
        return found[:most]

    # Inside

    def _inode(self, number: int) -> _Inode:
        if not 0 < number <= self._inodes:
            raise Unreadable(f"its ext4 names an inode {number}, and has {self._inodes}")
        group, place = divmod(number - 1, self._per_group)
        entry = self._raw.read(self._table + group * self._descriptor, self._descriptor)
        table = _u32(entry, 8) | (_u32(entry, 40) << 32 if self._descriptor >= 64 else 0)
        data = self._raw.read(table * self._block + place * self._inode_size, 128)
        mode, flags = _u16(data, 0), _u32(data, 32)
        size = _u32(data, 4) | _u32(data, 108) << 32
        if flags & (_IS_INLINE | _IS_ENCRYPTED):
            raise Unreadable(f"its ext4 has an inode {number} that is encrypted or holds its content itself")
        return _Inode(number, mode, size, flags, data[40:100])

    def _listed(self, folder: _Inode) -> Iterator[tuple[bytes, int]]:
        """Names and inodes of a folder, in its order; indexed folders have the same entries in their leaves."""
        for extent in self._extents(folder):
            for at in range(extent.physical, extent.physical + extent.count):
                self._budget.take(self._block)
                yield from self._entries(self._raw.read(at * self._block, self._block))

    def _entries(self, block: bytes) -> Iterator[tuple[bytes, int]]:
        at = 0
        while at + 8 <= len(block):
            number, length, name_length, _ = struct.unpack_from("<IHBB", block, at)
            if not self._has_kinds:
                name_length = _u16(block, at + 6)
            length = 65536 if length in (0, 65535) and len(block) == 65536 else length
            if length < 8 or length % 4 or at + length > len(block) or 8 + name_length > length:
                raise Unreadable("its ext4 has a damaged folder")
            name = block[at + 8 : at + 8 + name_length]
            if number and name not in (b".", b".."):
                yield name, number
            at += length

    def _content(self, inode: _Inode) -> Iterator[bytes]:
        """A file's bytes, with holes shortened."""
        at, size = 0, inode.size
        for extent in self._extents(inode):
            start = extent.logical * self._block
            if start >= size:
                break
            yield from _hole(start - at)
            place = extent.physical * self._block
            length = min(extent.count * self._block, size - start)
            for offset in range(0, length, _CHUNK):
                piece = min(_CHUNK, length - offset)
                self._budget.take(piece)
                yield self._raw.read(place + offset, piece)
            self.read.append((place, place + length))
            at = start + length
        yield from _hole(size - at)

    def _target(self, inode: _Inode) -> str:
        if inode.size > _LONGEST_LINK:
            raise Unreadable(f"its ext4 has a link of {inode.size} bytes")
        if inode.size < 60 and not inode.flags & _HAS_EXTENTS:
            return inode.block[: inode.size].decode("utf-8", "surrogateescape")
        return b"".join(self._content(inode)).decode("utf-8", "surrogateescape")

    def _extents(self, inode: _Inode) -> Iterator[_Extent]:
        """Where the blocks of an inode lie, in the file's order; what was never written is left out."""
        last = -1
        found = self._tree(inode.block, _MOST_DEPTH) if inode.flags & _HAS_EXTENTS else self._map(inode.block)
        for extent in found:
            if extent.logical <= last or not 0 < extent.physical <= self._blocks - extent.count:
                raise Unreadable(f"its ext4 has blocks of inode {inode.number} in the wrong place")
            last = extent.logical + extent.count - 1
            yield extent

    def _tree(self, node: bytes, depth: int) -> Iterator[_Extent]:
        magic, count, most, height = struct.unpack_from("<HHHH", node)
        if magic != _EXTENT_MAGIC or height > depth or count > most or 12 + 12 * count > len(node):
            raise Unreadable("its ext4 has a damaged extent")
        for number in range(count):
            entry = node[12 + 12 * number : 24 + 12 * number]
            if height:
                below = _u32(entry, 4) | _u16(entry, 8) << 32
                self._budget.take(self._block)
                # Lower by one at each step, or a node that points to itself would never end.
                yield from self._tree(self._raw.read(below * self._block, self._block), height - 1)
            else:
                length = _u16(entry, 4)
                if length <= _UNWRITTEN:
                    yield _Extent(_u32(entry, 0), length, _u32(entry, 8) | _u16(entry, 6) << 32)

    def _map(self, block: bytes) -> Iterator[_Extent]:
        """The blocks of an inode without extents, as ext2 and ext3 have them."""
        numbers = struct.unpack("<15I", block)
        logical = 0
        for number in numbers[:12]:
            if number:
                yield _Extent(logical, 1, number)
            logical += 1
        for depth, number in enumerate(numbers[12:], 1):
            yield from self._indirect(number, depth, logical)
            logical += (self._block // 4) ** depth

    def _indirect(self, number: int, depth: int, logical: int) -> Iterator[_Extent]:
        if not number:
            return
        if not depth:
            yield _Extent(logical, 1, number)
            return
        self._budget.take(self._block)
        per_block = self._block // 4
        for place, below in enumerate(
            struct.unpack(f"<{per_block}I", self._raw.read(number * self._block, self._block))
        ):
            yield from self._indirect(below, depth - 1, logical + place * per_block ** (depth - 1))


def _hole(size: int) -> Iterator[bytes]:
    if size > 0:
        yield bytes(min(size, HOLE))


def _u16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "little")


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")
