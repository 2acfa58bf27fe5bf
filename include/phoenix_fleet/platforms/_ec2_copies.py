"""Snapshots behind an AMI, copied here block by block: EBS direct APIs, so nothing is launched or made for it.

https://docs.aws.amazon.com/ebs/latest/userguide/ebs-accessing-snapshot.html
"""

from __future__ import annotations

import base64
import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from phoenix_fleet import aws
from phoenix_fleet.domain.errors import InvalidSpec, NotFound, TransientError, Unavailable
from phoenix_fleet.domain.models import Artefact, Bounds, Disk
from phoenix_fleet.platforms import _ec2_images as images
from phoenix_fleet.platforms import _ec2_view as view
from phoenix_fleet.platforms._copying import Meter, write

Given = TypeVar("Given")

_AT_ONCE = 8
"""Blocks that are asked for at the same time; botocore keeps ten connections."""
_PAGE = 10_000
_GIB = 1024**3
_LONGEST_PAUSE = 5.0


def snapshots(ec2: Any, artefact: Artefact) -> list[str]:
    """The ids of all snapshots behind the AMI.

    :raises NotFound: there is no such AMI.
    :raises NotOurs: it lacks our tags.
    """
    image = images.find(ec2, artefact)
    if image is None or view.digest(artefact.reference) != artefact.digest:
        raise NotFound(f"There is no AMI {artefact.reference} in this account.", remedy="Build it again.")
    mappings = [each.get("Ebs") or {} for each in image.get("BlockDeviceMappings") or []]
    found = [str(each["SnapshotId"]) for each in mappings if each.get("SnapshotId")]
    if not found:
        raise InvalidSpec(f"{artefact.reference} has no snapshot behind it.", remedy="Build it again.")
    return found


def copy(ebs: Any, artefact: Artefact, found: Sequence[str], folder: Path, bounds: Bounds) -> tuple[Disk, ...]:
    """Those snapshots as raw disks; blocks that they do not have are holes."""
    meter = Meter(artefact.reference, bounds)
    return tuple(_copied(ebs, snapshot, folder / f"{snapshot}.raw", meter) for snapshot in found)


def _copied(ebs: Any, snapshot: str, target: Path, meter: Meter) -> Disk:
    asked = _Snapshot(ebs, snapshot, meter)
    first = asked.page("")
    lock = threading.Lock()
    with target.open("xb") as file:
        file.truncate(int(first["VolumeSize"]) * _GIB)

        def fetch(block: tuple[int, str]) -> None:
            data = asked.block(*block)
            with lock:
                write(file, block[0] * asked.block_size, data)

        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            try:
                for page in asked.pages(first):
                    list(pool.map(fetch, page))
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    return Disk(str(target), "raw")


class _Snapshot:
    """One snapshot, asked again when Amazon says "not now", until the time is over."""

    def __init__(self, ebs: Any, snapshot: str, meter: Meter) -> None:
        self._ebs, self._id, self._meter = ebs, snapshot, meter
        self.block_size = 0

    def page(self, token: str) -> dict[str, Any]:
        """Some blocks with the tokens that they are got with."""
        more = {"NextToken": token} if token else {}
        page: dict[str, Any] = self._patiently(
            lambda: self._ebs.list_snapshot_blocks(SnapshotId=self._id, MaxResults=_PAGE, **more)
        )
        if self.block_size not in (0, page["BlockSize"]) or page["BlockSize"] <= 0:
            raise Unavailable(f"{self._id}: Amazon changed its block size while it was listed.", remedy="Try again.")
        self.block_size = int(page["BlockSize"])
        return page

    def pages(self, first: dict[str, Any]) -> Iterator[list[tuple[int, str]]]:
        """Every block, page by page: tokens expire, so the next page is asked for when one is done with."""
        page = first
        while True:
            yield [(int(each["BlockIndex"]), str(each["BlockToken"])) for each in page.get("Blocks") or []]
            if not page.get("NextToken"):
                return
            page = self.page(str(page["NextToken"]))

    def block(self, index: int, token: str) -> bytes:
        """The bytes of a block. :raises Unavailable: they do not have the checksum that Amazon says."""

        def get() -> bytes:
            answer = self._ebs.get_snapshot_block(SnapshotId=self._id, BlockIndex=index, BlockToken=token)
            data: bytes = answer["BlockData"].read()
            summed = base64.b64encode(hashlib.sha256(data).digest()).decode()
            if answer.get("ChecksumAlgorithm") != "SHA256" or answer.get("Checksum") != summed:
                raise Unavailable(f"block {index} of {self._id} came changed", remedy="Try again.")
            return data

        data = self._patiently(get)
        self._meter.take(len(data))
        return data

    def _patiently(self, call: Callable[[], Given]) -> Given:
        pause = 0.1
        while True:
            try:
                with aws.translated(f"copy {self._id}"):
                    return call()
            except TransientError:
                self._meter.check_time()
                time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 (only so that not all ask at once)
                pause = min(_LONGEST_PAUSE, 2 * pause)
