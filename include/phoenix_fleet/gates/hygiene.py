"""What must not be in a finished image: a read-only scan of every layer or disk, trusting no clean-up step."""

from __future__ import annotations

import fnmatch
import tempfile
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import Field

from phoenix_fleet.config import Duration, Frozen
from phoenix_fleet.disks.bounds import Limits, Unreadable
from phoenix_fleet.domain.errors import PhoenixError
from phoenix_fleet.domain.models import Artefact, Bounds, Subject
from phoenix_fleet.domain.verdicts import Measurement
from phoenix_fleet.gates import _disk_image, _proof, _registry_image
from phoenix_fleet.gates._leftovers import Finding
from phoenix_fleet.gates._scan import Scan
from phoenix_fleet.gates.base import Gate

_SHOWN = 500


class Settings(Frozen):
    """How far the scan goes."""

    registry: str = Field(
        "registry", description="Airflow connection id of the registry, for its login and password. Default: registry."
    )
    timeout: Duration = Field(timedelta(minutes=10), description="Fetching the image may take so long. Default 10m.")
    min_files: int = Field(
        200, ge=1, description="An image with fewer files was not really seen: an error. Default 200."
    )
    max_bytes: int = Field(
        20 * 1024**3,
        ge=1,
        description="Unpacked bytes, of disks stored ones; a larger image is an error, never passed. Default 20 GiB.",
    )
    max_entries: int = Field(3_000_000, ge=1, description="Entries; more are an error. Default 3000000.")
    allow: tuple[str, ...] = Field(
        (), description="Paths (with * and ?) whose findings are listed but not counted. Default: none."
    )


class Driver(Gate):
    """Passed if the artefact could be scanned whole and holds nothing that it must not."""

    Settings = Settings

    @property
    def fetches(self) -> Bounds | None:
        """Disks are copied here by the platform, images in registries by the gate itself."""
        return Bounds(self.settings.max_bytes, self.settings.timeout)

    def measure(self, subject: Subject) -> Measurement:
        """Every finding with layer (or partition) and path.

        An artefact that cannot be fetched or read whole, is larger than the limits, or has too few files to be a
        system, comes back as an error.
        """
        try:
            if not subject.artefact:
                raise Unreadable("there is no artefact to scan")
            with tempfile.TemporaryDirectory(prefix="phoenix-") as folder:
                scan = self._scan(subject, subject.artefact, Path(folder))
        except (Unreadable, PhoenixError) as why:
            return Measurement(value=f"not measured: {why}", passed=None, error=str(why))
        return self._judged(subject, subject.artefact, scan)

    def _scan(self, subject: Subject, artefact: Artefact, folder: Path) -> Scan:
        limits = Limits(self.settings.max_bytes, self.settings.max_entries)
        if subject.disks:
            return _disk_image.scan(subject.disks, folder, limits, self.settings.min_files)
        registry = self.connections(self.settings.registry)
        layout = _registry_image.fetch(artefact, registry, folder, self.settings.timeout)
        return _registry_image.scan(layout, limits, self.settings.min_files)

    def _judged(self, subject: Subject, artefact: Artefact, scan: Scan) -> Measurement:
        allowed = [found for found in scan.findings if self._is_allowed(found)]
        counted = [found for found in scan.findings if not self._is_allowed(found)]
        details: dict[str, Any] = {
            "digest": artefact.digest,
            "files": scan.files,
            "bytes": scan.bytes,
            "disks" if subject.disks else "layers": scan.parts,
            "findings": len(counted),
        }
        proof = _proof.write_json(
            subject.workdir, "hygiene", details | {"findings": _rows(counted), "allowed": _rows(allowed)}
        )
        details |= {"findings": _rows(counted[:_SHOWN]), "allowed": _rows(allowed[:_SHOWN])}
        what = "partitions" if subject.disks else "layers"
        value = f"{scan.files} files in {len(scan.parts)} {what}, {len(counted)} findings"
        if counted:
            first = counted[0]
            value += f", first {_safe(first.path)}: {first.what}"
        return Measurement(value=value, passed=not counted, details=details, artefacts=(proof,))

    def _is_allowed(self, found: Finding) -> bool:
        return any(fnmatch.fnmatchcase(found.path, pattern) for pattern in self.settings.allow)


def _rows(findings: list[Finding]) -> list[dict[str, Any]]:
    """The findings as JSON-able rows; names of hostile files become harmless text."""
    return [{**asdict(found), "path": _safe(found.path)} for found in findings]


def _safe(path: str) -> str:
    text = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)[:500]
