"""A raw disk in a file: bytes at a place, and where there are any."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from phoenix_fleet.disks.bounds import Unreadable

_CHUNK = 1024 * 1024

Range = tuple[int, int]
"""First byte, and the first one that does not belong to it any more."""


class Raw:
    """A disk, or a part of one, that is read alone."""

    def __init__(self, file: IO[bytes], within: Range) -> None:
        self._file = file
        self.start, self.end = within
        self.size = self.end - self.start

    def part(self, start: int, size: int) -> Raw:
        """A part of it. :raises Unreadable: it would end behind the disk's own end."""
        if start < 0 or size <= 0 or start + size > self.size:
            raise Unreadable(f"a part of {size} bytes at {start} does not lie on a disk of {self.size} bytes")
        return Raw(self._file, (self.start + start, self.start + start + size))

    def read(self, at: int, size: int) -> bytes:
        """Exactly so many bytes. :raises Unreadable: the disk ends before."""
        if at < 0 or size < 0 or at + size > self.size:
            raise Unreadable(f"{size} bytes at {at} do not lie on a disk of {self.size} bytes")
        # Not by the file's own position: looking for holes moves that behind its buffer's back.
        found = os.pread(self._file.fileno(), size, self.start + at)
        if len(found) != size:
            raise Unreadable(f"the disk's file ends before byte {self.start + at + size}")
        return found

    def holds(self, place: int) -> bool:
        """Whether that byte of the file is one of it."""
        return self.start <= place < self.end

    def pieces(self, within: Range) -> Iterator[tuple[int, bytes]]:
        """What lies between, with its place, in pieces of memory's size; holes are left out."""
        for start, end in data(self._file.fileno(), (self.start + within[0], self.start + within[1])):
            for at in range(start - self.start, end - self.start, _CHUNK):
                yield at, self.read(at, min(_CHUNK, end - self.start - at))

    def is_blank(self) -> bool:
        """Whether nothing but zeros is there."""
        return not any(chunk.strip(b"\0") for _, chunk in self.pieces((0, self.size)))


@contextmanager
def opened(path: Path) -> Iterator[Raw]:
    """The raw disk in that file. :raises Unreadable: there is no such file."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise Unreadable(f"the copy of the disk cannot be opened: {error}") from None
    with file:
        yield Raw(file, (0, os.fstat(file.fileno()).st_size))


def data(descriptor: int, within: Range | None = None) -> Iterator[Range]:
    """Where a file has bytes, in absolute places; holes are left out."""
    at, last = within or (0, os.fstat(descriptor).st_size)
    while at < last:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:  # nothing but a hole from here on
            return
        if start >= last:
            return
        at = min(last, os.lseek(descriptor, start, os.SEEK_HOLE))
        yield start, at


def gaps(size: int, taken: Iterable[Range]) -> Iterator[Range]:
    """What of ``size`` bytes no range has taken; ranges may overlap."""
    at = 0
    for start, end in sorted(taken):
        if start > at:
            yield at, min(start, size)
        at = max(at, end)
    if at < size:
        yield at, size
