"""Images in a storage pool, copied here: through libvirt alone, so also from a remote host."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from phoenix_fleet.domain.errors import InvalidSpec, NotFound
from phoenix_fleet.domain.models import Artefact, Bounds, Disk
from phoenix_fleet.platforms import _libvirt_images as images
from phoenix_fleet.platforms import _libvirt_volumes as volumes
from phoenix_fleet.platforms._copying import Meter, write
from phoenix_fleet.platforms.base import DiskImages


class ImageDisks(DiskImages):
    """What the driver can do with the disks of images, over its own connection."""

    settings: Any

    @abstractmethod
    def _host(self, what: str) -> AbstractContextManager[Any]:
        """The driver's own."""

    def copy_disks(self, artefact: Artefact, folder: Path, bounds: Bounds) -> tuple[Disk, ...]:
        """The image's volume, whose bytes have the digest that its name says."""
        image = images.parse_ours(artefact, self.settings.pool)
        meter, target = Meter(artefact.reference, bounds), folder / f"disk.{image.form}"
        hashed, at = hashlib.sha256(), 0
        with self._host(f"copy {artefact.reference}") as host, target.open("xb") as file:
            volume = volumes.find(volumes.pool(host, self.settings.pool), image.name)
            if volume is None:
                raise NotFound(f"There is no volume {image.name} in the pool.", remedy="Build it again.")
            for chunk in volumes.content(volume):
                meter.take(len(chunk))
                hashed.update(chunk)
                write(file, at, chunk)
                at += len(chunk)
            file.truncate(at)
        if f"sha256:{hashed.hexdigest()}" != artefact.digest:
            raise InvalidSpec(
                f"The volume {image.name} does not have the digest that its name says.",
                remedy="Find out who changed it, and build the image again.",
            )
        return (Disk(str(target), image.form),)
