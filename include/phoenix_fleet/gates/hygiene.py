"""What must not be in a finished image: a read-only scan of every layer, trusting no clean-up step."""

from __future__ import annotations

import fnmatch
import json
import posixpath
import re
import tempfile
from base64 import b64encode
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pydantic import Field

from phoenix_fleet.config import Duration, Frozen
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import PhoenixError
from phoenix_fleet.domain.models import Artefact, Subject
from phoenix_fleet.domain.verdicts import Measurement
from phoenix_fleet.gates import _layers, _leftovers, _process, _proof
from phoenix_fleet.gates._layers import Entry, Unreadable
from phoenix_fleet.gates._leftovers import Finding, Seen
from phoenix_fleet.gates.base import Gate
from phoenix_fleet.redact import redact

_REFERENCE = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:]+\](?::\d+)?|[A-Za-z0-9.-]+(?::\d+)?)/(?P<name>[a-z0-9][a-z0-9._/-]*)@(?P<digest>sha256:[0-9a-f]{64})"
)
_MACHINE_ID = "/etc/machine-id"
_RELEASES = frozenset({"/etc/os-release", "/usr/lib/os-release"})
_UNINITIALIZED = b"uninitialized"
"""What systemd's machine-id(5) asks golden images to say: it is nobody's identity."""
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
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
        20 * 1024**3, ge=1, description="Unpacked bytes; a larger image is an error, never passed. Default 20 GiB."
    )
    max_entries: int = Field(3_000_000, ge=1, description="Entries; more are an error. Default 3000000.")
    allow: tuple[str, ...] = Field(
        (), description="Paths (with * and ?) whose findings are listed but not counted. Default: none."
    )


@dataclass
class _Scan:
    """What has been seen so far."""

    findings: list[Finding] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    is_a_system: bool = False
    final: dict[str, Finding] = field(default_factory=dict)
    """Findings that count only if nothing deletes them in the end, by path."""
    machine_id: str = "missing"
    """What is wrong with it; empty if nothing is."""
    machine_id_layer: int = 0


class Driver(Gate):
    """Passed if the artefact could be scanned whole and holds nothing that it must not."""

    Settings = Settings

    def measure(self, subject: Subject) -> Measurement:
        """Every finding with layer and path.

        An artefact that cannot be fetched or read whole, is larger than the limits, or has too few files to be a
        system, comes back as an error.
        """
        try:
            if not subject.artefact:
                raise Unreadable("there is no artefact to scan")
            with tempfile.TemporaryDirectory(prefix="phoenix-") as folder:
                layout = self._fetch(subject.artefact, Path(folder))
                scan = self._scan(layout)
        except (Unreadable, PhoenixError) as why:
            return Measurement(value=f"not measured: {why}", passed=None, error=str(why))
        return self._judged(subject, subject.artefact, layout, scan)

    def _fetch(self, artefact: Artefact, folder: Path) -> _layers.Layout:
        match = _REFERENCE.fullmatch(artefact.reference)
        if not match or match["digest"] != artefact.digest:
            raise Unreadable(f"'{artefact.reference}' does not name an image in a registry by its digest")
        image = folder / "image"
        policy, auth = folder / "policy.json", folder / "auth.json"
        # Whatever has the right digest is the right image, so no signature policy of this machine plays a part.
        policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}), encoding="utf-8")
        auth.touch(mode=0o600)
        auth.write_text(json.dumps(_credentials(match["host"], self.connections(self.settings.registry))))
        tls = "false" if _is_loopback(match["host"]) else "true"
        argv = ["skopeo", "--policy", str(policy), "copy", "--quiet", "--authfile", str(auth)]
        argv += [f"--src-tls-verify={tls}", f"docker://{artefact.reference}", f"dir:{image}"]
        try:
            ended = _process.run(
                argv,
                env=_process.environment(folder),
                cwd=folder,
                output=folder / "output",
                timeout=self.settings.timeout,
            )
        except FileNotFoundError:
            raise Unreadable("skopeo is not installed") from None
        if ended.code is None:
            raise Unreadable(f"fetching it took longer than {self.settings.timeout.total_seconds():g} s")
        if ended.code:
            raise Unreadable(f"it cannot be fetched: {redact(' '.join(ended.output.split()))[-500:]}")
        return _layers.open_layout(image, artefact.digest)

    def _scan(self, layout: _layers.Layout) -> _Scan:
        scan = _Scan()
        limits = _layers.Limits(self.settings.max_bytes, self.settings.max_entries)
        for entry, content in _layers.entries(layout, limits):
            _look(scan, entry, Seen.of(content))
        scan.findings += scan.final.values()
        if scan.machine_id:
            what = f"/etc/machine-id is {scan.machine_id}; it must be there and empty, so that each clone makes its own"
            scan.findings.append(Finding("machine-id", _MACHINE_ID, None, what))
        scan.findings += _leftovers.by_configuration(layout.config)
        if scan.files < self.settings.min_files or not scan.is_a_system:
            raise Unreadable(
                f"only {scan.files} files were seen" + ("" if scan.is_a_system else ", and no /etc/os-release")
            )
        return scan

    def _judged(self, subject: Subject, artefact: Artefact, layout: _layers.Layout, scan: _Scan) -> Measurement:
        allowed = [found for found in scan.findings if self._is_allowed(found)]
        counted = [found for found in scan.findings if not self._is_allowed(found)]
        details: dict[str, Any] = {
            "digest": artefact.digest,
            "files": scan.files,
            "bytes": scan.bytes,
            "layers": [digest for digest, _ in layout.layers],
            "findings": len(counted),
        }
        proof = _proof.write_json(
            subject.workdir, "hygiene", details | {"findings": _rows(counted), "allowed": _rows(allowed)}
        )
        details |= {"findings": _rows(counted[:_SHOWN]), "allowed": _rows(allowed[:_SHOWN])}
        value = f"{scan.files} files in {len(layout.layers)} layers, {len(counted)} findings"
        if counted:
            first = counted[0]
            value += f", first {_safe(first.path)}: {first.what}"
        return Measurement(value=value, passed=not counted, details=details, artefacts=(proof,))

    def _is_allowed(self, found: Finding) -> bool:
        return any(fnmatch.fnmatchcase(found.path, pattern) for pattern in self.settings.allow)


def _look(scan: _Scan, entry: Entry, seen: Seen) -> None:
    """Take one entry into account."""
    folder, name = posixpath.split(entry.path)
    if name.startswith(_WHITEOUT):
        _delete(scan, entry, folder if name == _OPAQUE else posixpath.join(folder, name[len(_WHITEOUT) :]))
        return
    is_file = entry.kind == "file"
    scan.files += is_file
    scan.bytes += entry.size
    scan.is_a_system = scan.is_a_system or entry.path in _RELEASES
    if entry.path == _MACHINE_ID:
        harmless = is_file and seen.head.strip() in (b"", _UNINITIALIZED)
        state = "" if harmless else "filled" if is_file else f"a {entry.kind}"
        scan.machine_id, scan.machine_id_layer = state, entry.layer
    scan.final.pop(entry.path, None)
    empty = seen.blank if is_file else entry.kind != "hardlink"
    if not empty and (late := _leftovers.by_place_in_the_end(entry.path, entry.layer)):
        scan.final[entry.path] = late
    if entry.outside:
        scan.findings.append(Finding("hostile", entry.path, entry.layer, "its name climbs out of the image"))
    for found in (_leftovers.by_place(entry, empty=empty), _leftovers.by_file(entry.path, entry.layer, seen)):
        if found:
            scan.findings.append(found)


def _delete(scan: _Scan, whiteout: Entry, path: str) -> None:
    """Forget what lower layers have at the path and below, where only the end counts."""

    def covers(other: str, layer: int | None) -> bool:
        return (layer or 0) < whiteout.layer and (other == path or other.startswith(path.rstrip("/") + "/"))

    scan.final = {other: found for other, found in scan.final.items() if not covers(other, found.layer)}
    if covers(_MACHINE_ID, scan.machine_id_layer):
        scan.machine_id = "deleted"


def _rows(findings: list[Finding]) -> list[dict[str, Any]]:
    """The findings as JSON-able rows; names of hostile files become harmless text."""
    return [{**asdict(found), "path": _safe(found.path)} for found in findings]


def _safe(path: str) -> str:
    text = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)[:500]


def _credentials(host: str, connection: Connection) -> dict[str, Any]:
    """An auth file: the password goes neither into an argument nor the environment, nor to any other host."""
    known = connection.host.rpartition("://")[2].strip("/") + (f":{connection.port}" if connection.port else "")
    if not connection.login or host not in (known, connection.host):
        return {"auths": {}}
    pair = b64encode(f"{connection.login}:{connection.password}".encode()).decode()
    return {"auths": {host: {"auth": pair}}}


def _is_loopback(host: str) -> bool:
    name = host.split("]")[0][1:] if host.startswith("[") else host.split(":")[0]
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
