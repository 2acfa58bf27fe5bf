"""An artefact's disks under the hygiene gate: every file of every file system, and every byte that is in none of them.

What was deleted is still on a disk: so free blocks, journals, the slack behind files and the gaps between partitions
are looked through for secrets that are known by their content alone.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path

from phoenix_fleet.disks import ext, fat, formats, partitions, raw
from phoenix_fleet.disks.bounds import Budget, Limits, Unreadable
from phoenix_fleet.disks.files import FileSystem
from phoenix_fleet.domain.models import Disk
from phoenix_fleet.gates import _leftovers
from phoenix_fleet.gates._layers import Entry
from phoenix_fleet.gates._leftovers import Finding, Seen
from phoenix_fleet.gates._scan import RELEASES, Scan

_LARGEST_FSTAB = 64 * 1024
_MOST_DELETED = 10_000
_SWAP = (b"SWAPSPACE2", b"SWAP-SPACE")


def scan(disks: Sequence[Disk], folder: Path, limits: Limits, min_files: int) -> Scan:
    """Everything on them; ``folder`` is a private one with room for them as raw disks.

    :raises Unreadable: they could not be seen whole.
    """
    found, budget = Scan(), Budget(limits)
    for number, disk in enumerate(disks, 1):
        path = Path(disk.path)
        if disk.form != "raw":
            path = folder / f"disk-{number}.raw"
            formats.to_raw(Path(disk.path), disk.form, path, limits)
        with raw.opened(path) as whole:
            _disk(found, whole, budget, f"disk {number}, " if len(disks) > 1 else "")
    return found.ended(min_files)


def _disk(found: Scan, whole: raw.Raw, budget: Budget, which: str) -> None:
    parts = partitions.partitions(whole)
    systems = {part.number: system for part in parts if (system := _system(found, part, budget, which)) is not None}
    places = _places(systems)
    taken: list[raw.Range] = []
    for part in parts:
        if (system := systems.get(part.number)) is None:
            continue
        for file, content in system.walk():
            path = posixpath.normpath(places[part.number] + file.path).replace("//", "/")
            entry = Entry(part.number, path, file.kind, file.size, file.target, file.is_hostile)
            found.take(entry, Seen.of(content))
        offset = part.raw.start - whole.start
        taken += [(offset + start, offset + end) for start, end in system.read]
    found.findings += _between(whole, taken, parts, budget)


def _system(found: Scan, part: partitions.Partition, budget: Budget, which: str) -> FileSystem | None:
    """The file system in a partition, or None if there is none to be read.

    :raises Unreadable: there is something that cannot be read here.
    """
    try:
        system: FileSystem | None = None
        kind = "a boot loader" if part.is_loader else ""
        if ext.is_ext(part.raw):
            system, kind = ext.Ext(part.raw, budget), "ext2, ext3 or ext4"
        elif fat.is_fat(part.raw):
            system, kind = fat.Fat(part.raw, budget), "FAT"
        elif part.raw.size >= 4096 and part.raw.read(4086, 10) in _SWAP:
            kind = "swap space"
            found.findings.append(Finding("swap", "(partition)", part.number, "memory of the builder"))
        elif not kind and part.raw.is_blank():
            kind = "nothing"
    except Unreadable as why:
        raise Unreadable(f"{which}partition {part.number}: {why}") from None
    if not kind:
        raise Unreadable(f"{which}partition {part.number} has no file system that can be read here (ext2 to 4, FAT)")
    found.parts.append(f"{which}partition {part.number}: {kind}")
    return system


def _places(systems: dict[int, FileSystem]) -> dict[int, str]:
    """Where each file system is mounted, as the ``fstab`` of the one with the system on it says.

    One whose place nobody tells is looked at as if it were the root: so every rule of a place applies to it.
    """
    tables = []
    for number, system in systems.items():
        if any(system.find(release, 1) is not None for release in RELEASES) or system.find("/etc/fstab", 1):
            tables.append((number, (system.find("/etc/fstab", _LARGEST_FSTAB) or b"").decode(errors="replace")))
    places = dict.fromkeys(systems, "")
    for root, table in tables:
        for line in table.splitlines():
            fields = line.split("#")[0].split()
            if len(fields) < 2 or not fields[1].startswith("/"):
                continue
            for number, system in systems.items():
                if number != root and fields[0] in (f"LABEL={system.label}", f"UUID={system.uuid}"):
                    places[number] = "" if fields[1] == "/" else posixpath.normpath(fields[1])
    return places


def _between(
    whole: raw.Raw, taken: Sequence[raw.Range], parts: Sequence[partitions.Partition], budget: Budget
) -> Iterator[Finding]:
    """Secrets in what is no file's content, the first of them if there are many."""
    places: dict[int, str] = {}
    for gap in raw.gaps(whole.size, taken):
        last, end = b"", 0
        for at, chunk in whole.pieces(gap):
            budget.take(len(chunk))
            last = last if at == end else b""
            begin, end = at - len(last), at + len(chunk)
            places |= {begin + offset: what for offset, what in _leftovers.by_deleted(last + chunk)}
            last = chunk[-_leftovers.OVERLAP :]
            if len(places) >= _MOST_DELETED:
                break
    for place, what in sorted(places.items()):
        number = next((part.number for part in parts if part.raw.holds(whole.start + place)), None)
        yield Finding("deleted", f"(outside of files, byte {place})", number, f"{what}, which deleting has left there")
