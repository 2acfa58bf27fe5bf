"""What has been seen of an artefact so far, and what of it must not be there."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, field

from phoenix_fleet.disks.bounds import Unreadable
from phoenix_fleet.gates import _leftovers
from phoenix_fleet.gates._layers import Entry
from phoenix_fleet.gates._leftovers import Finding, Seen

_MACHINE_ID = "/etc/machine-id"
RELEASES = ("/etc/os-release", "/usr/lib/os-release")
"""What only a system has."""
_UNINITIALIZED = b"uninitialized"
"""What systemd's machine-id(5) asks golden images to say: it is nobody's identity."""


@dataclass
class Scan:
    """Entries go in one by one; ``ended`` has what only the end tells."""

    findings: list[Finding] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    """What it is made of, for people: layers by digest, partitions by what they hold."""
    files: int = 0
    bytes: int = 0
    _is_a_system: bool = False
    _final: dict[str, Finding] = field(default_factory=dict)
    """Findings that count only if nothing deletes them in the end, by path."""
    _machine_id: str = "missing"
    """What is wrong with it; empty if nothing is."""
    _machine_id_layer: int = 0

    def take(self, entry: Entry, seen: Seen) -> None:
        """Take one entry into account."""
        is_file = entry.kind == "file"
        self.files += is_file
        self.bytes += entry.size
        self._is_a_system = self._is_a_system or entry.path in RELEASES
        if entry.path == _MACHINE_ID:
            harmless = is_file and seen.head.strip() in (b"", _UNINITIALIZED)
            self._machine_id = "" if harmless else "filled" if is_file else f"a {entry.kind}"
            self._machine_id_layer = entry.layer
        self._final.pop(entry.path, None)
        empty = seen.blank if is_file else entry.kind != "hardlink"
        if not empty and (late := _leftovers.by_place_in_the_end(entry.path, entry.layer)):
            self._final[entry.path] = late
        if entry.outside:
            self.findings.append(Finding("hostile", entry.path, entry.layer, "its name climbs out of the image"))
        for found in (_leftovers.by_place(entry, empty=empty), _leftovers.by_file(entry.path, entry.layer, seen)):
            if found:
                self.findings.append(found)

    def delete(self, layer: int, path: str) -> None:
        """Forget what lower layers have at the path and below, where only the end counts."""

        def covers(other: str, at: int | None) -> bool:
            return (at or 0) < layer and (other == path or other.startswith(path.rstrip("/") + "/"))

        self._final = {other: found for other, found in self._final.items() if not covers(other, found.layer)}
        if covers(_MACHINE_ID, self._machine_id_layer):
            self._machine_id = "deleted"

    def ended(self, min_files: int, more: Iterable[Finding] = ()) -> Scan:
        """The same, with what counts in the end.

        :raises Unreadable: too little was seen to be a system.
        """
        if self.files < min_files or not self._is_a_system:
            raise Unreadable(
                f"only {self.files} files were seen" + ("" if self._is_a_system else ", and no /etc/os-release")
            )
        self.findings += self._final.values()
        if self._machine_id:
            what = (
                f"/etc/machine-id is {self._machine_id}; it must be there and empty, so that each clone makes its own"
            )
            self.findings.append(Finding("machine-id", _MACHINE_ID, None, what))
        self.findings += more
        return self


def whiteout(path: str) -> str:
    """What an entry of a layer deletes below it, if it is there for that."""
    folder, name = posixpath.split(path)
    if not name.startswith(".wh."):
        return ""
    return folder if name == ".wh..wh..opq" else posixpath.join(folder, name[len(".wh.") :])
