"""What readers of file systems give: entries with their content, and which bytes of the disk that content was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from phoenix_fleet.disks.raw import Range

HOLE = 1024 * 1024
"""A longer hole of a sparse file comes as so many zeros."""


@dataclass(frozen=True)
class File:
    """Something that has a name in a file system."""

    path: str
    """Absolute, with ``surrogateescape`` for bytes that are no UTF-8."""
    kind: str
    """``file``, ``folder``, ``symlink`` or ``other``."""
    size: int
    target: str = ""
    """Of a symbolic link."""
    is_hostile: bool = False
    """Whether its name is one that no honest system writes."""


class FileSystem(Protocol):
    """A file system that is read once, from its beginning to its end."""

    label: str
    uuid: str
    """As ``fstab`` writes it; empty for none."""
    read: list[Range]
    """Where the bytes lay that were given as content: not the slack behind a file's end, which may be another's."""

    def walk(self) -> Iterator[tuple[File, Iterator[bytes]]]:
        """Every entry with its content in chunks, which must be read before the next entry is asked for.

        :raises Unreadable: it is damaged, or larger than the budget allows.
        """
        ...

    def find(self, path: str, most: int) -> bytes | None:
        """The first bytes of the file at that absolute path, links not followed; None if there is none."""
        ...


def name_of(written: bytes) -> tuple[str, bool]:
    """A name as one part of a path, and whether it is one that no honest system writes."""
    odd = b"/" in written or b"\0" in written or written in (b"", b".", b"..")
    safe = written.replace(b"/", b"%2f").replace(b"\0", b"%00")
    if safe in (b"", b".", b".."):
        safe = b"%2e" * len(safe) or b"%"
    return safe.decode("utf-8", "surrogateescape"), odd
