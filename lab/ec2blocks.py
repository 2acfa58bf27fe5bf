"""EBS direct APIs as Amazon documents them: blocks of snapshots with tokens, checksums and pages, of disks in files.

moto's take any token, give no checksums and no pages, and know blocks of 512 bytes alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lab.ec2words import error

BLOCK = 512 * 1024
_PATH = re.compile(r"/snapshots/(?P<snapshot>snap-[0-9a-f]+)/blocks(?:/(?P<block>\d+))?")
Reply = tuple[str, Any, bytes]


def action(path: str) -> str:
    """What that path asks for, by its name in the API; empty for nothing that is known."""
    match = _PATH.fullmatch(path)
    return ("GetSnapshotBlock" if match["block"] else "ListSnapshotBlocks") if match else ""


class Blocks:
    """What is on snapshots; one that was never filled has no blocks."""

    def __init__(self, snapshots: Callable[[], Mapping[str, Any]]) -> None:
        self._snapshots = snapshots
        self._disks: dict[str, Path] = {}
        self.page = 10_000
        """The most blocks in an answer."""
        self.changed: set[int] = set()
        """Blocks that come with other bytes than their checksum says, once."""

    def fill(self, snapshot: str, disk: Path) -> None:
        """Let that raw disk be on the snapshot."""
        self._disks[snapshot] = disk

    def answer(self, path: str, params: Mapping[str, str]) -> Reply:
        """One request."""
        match = _PATH.fullmatch(path)
        if match is None or match["snapshot"] not in self._snapshots():
            return error("ebs", "ResourceNotFoundException", "The specified snapshot does not exist.", 404)
        if match["block"]:
            return self._get(match["snapshot"], int(match["block"]), params.get("blockToken", ""))
        return self._list(match["snapshot"], params)

    def _list(self, snapshot: str, params: Mapping[str, str]) -> Reply:
        most = int(params.get("maxResults", 100))
        if not 100 <= most <= 10_000:
            return error("ebs", "ValidationException", "maxResults must be between 100 and 10000.")
        written = self._written(snapshot)
        start = int(params.get("pageToken") or 0)
        part = written[start : start + min(most, self.page)]
        told: dict[str, Any] = {
            "Blocks": [{"BlockIndex": each, "BlockToken": _token(snapshot, each)} for each in part],
            "VolumeSize": self._snapshots()[snapshot].volume.size,
            "BlockSize": BLOCK,
            "ExpiryTime": 4_000_000_000,
        }
        if start + len(part) < len(written):
            told["NextToken"] = str(start + len(part))
        return "200 OK", [("Content-Type", "application/json")], json.dumps(told).encode()

    def _get(self, snapshot: str, index: int, token: str) -> Reply:
        if token != _token(snapshot, index) or index not in self._written(snapshot):
            return error("ebs", "ValidationException", "The block token is not valid.")
        with self._disks[snapshot].open("rb") as file:
            file.seek(index * BLOCK)
            data = file.read(BLOCK).ljust(BLOCK, b"\0")
        summed = base64.b64encode(hashlib.sha256(data).digest()).decode()
        if index in self.changed:
            self.changed.remove(index)
            data = data[:-1] + b"?"
        headers = [
            ("Content-Type", "application/octet-stream"),
            ("x-amz-Data-Length", str(len(data))),
            ("x-amz-Checksum", summed),
            ("x-amz-Checksum-Algorithm", "SHA256"),
        ]
        return "200 OK", headers, data

    def _written(self, snapshot: str) -> list[int]:
        disk = self._disks.get(snapshot)
        if disk is None:
            return []
        found = []
        with disk.open("rb") as file:
            for index in range(-(-disk.stat().st_size // BLOCK)):
                if file.read(BLOCK).strip(b"\0"):
                    found.append(index)
        return found


def _token(snapshot: str, index: int) -> str:
    return base64.b64encode(hashlib.sha256(f"{snapshot} {index}".encode()).digest()).decode()
