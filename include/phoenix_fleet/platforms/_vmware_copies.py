"""Disks of templates, exported by vCenter under a lease: nothing is cloned or started for it."""

from __future__ import annotations

import http.client
import time
from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from phoenix_fleet.connections import Connection, Connections
from phoenix_fleet.domain.errors import InvalidSpec, Unavailable
from phoenix_fleet.domain.models import Artefact, Bounds, Disk
from phoenix_fleet.platforms import _vmware_templates as templates
from phoenix_fleet.platforms._copying import Meter
from phoenix_fleet.platforms._vmware_collect import waited
from phoenix_fleet.platforms._vmware_errors import of_fault
from phoenix_fleet.platforms._vmware_places import datacenter
from phoenix_fleet.platforms._vmware_session import https
from phoenix_fleet.platforms.base import DiskImages

Given = TypeVar("Given")

_CHUNK = 1024 * 1024
_READY_WITHIN = 60
_TELL_EVERY = 30
"""Seconds after which vCenter is told that somebody is still at it: it takes a silent lease back after 300."""


class ImageDisks(DiskImages):
    """What the driver can do with the disks of images, over its own session."""

    settings: Any
    connections: Connections

    @abstractmethod
    def _ask(self, what: str, do: Callable[[Any], Given], settings: Any = None) -> Given:
        """The driver's own."""

    def copy_disks(self, artefact: Artefact, folder: Path, bounds: Bounds) -> tuple[Disk, ...]:
        """The template's disks as vCenter exports them, stream-optimized."""
        meter = Meter(artefact.reference, bounds)
        connection = self.connections(self.settings.connection)

        def do(vcenter: Any) -> tuple[Disk, ...]:
            center = datacenter(vcenter, self.settings.datacenter).ref
            lease = templates.get(vcenter, center, artefact).ref.ExportVm()
            try:
                found = _Export(vcenter, connection, lease, meter).disks(folder)
            except BaseException:
                with suppress(Exception):  # what was wrong before is what counts
                    lease.HttpNfcLeaseAbort()
                raise
            lease.HttpNfcLeaseComplete()
            return found

        return self._ask(f"copy {artefact.reference}", do)


class _Export:
    """One lease, kept alive while disks are read."""

    def __init__(self, vcenter: Any, connection: Connection, lease: Any, meter: Meter) -> None:
        self._vcenter, self._connection, self._lease, self._meter = vcenter, connection, lease, meter
        self._told = 0.0

    def disks(self, folder: Path) -> tuple[Disk, ...]:
        """Every disk that the lease names."""
        ready = waited(
            self._vcenter,
            self._lease,
            ("state", "error", "info"),
            lambda seen: seen.get("state") in ("ready", "error"),
            _READY_WITHIN,
        )
        if ready.get("error") is not None:
            raise of_fault("export a template", ready["error"])
        if ready.get("state") != "ready":
            raise Unavailable("vCenter does not begin to export a template.", remedy="See its tasks, and try again.")
        urls = [each for each in ready["info"].deviceUrl or () if each.disk]
        if not urls:
            raise InvalidSpec("vCenter exports a template without disks.", remedy="Build the image again.")
        return tuple(self._disk(each, folder / f"disk-{number}.vmdk") for number, each in enumerate(urls, 1))

    def _disk(self, told: Any, target: Path) -> Disk:
        url = urlsplit(str(told.url))
        if url.scheme != "https":
            raise InvalidSpec(f"vCenter would send a disk over {url.scheme}.", remedy="Let it export over https.")
        # "*" is the host that was asked (HttpNfcLeaseDeviceUrl.url); another, an ESXi host, is who vCenter says it is.
        other = "" if url.hostname == "*" else str(url.hostname or "")
        client = https(self._connection, other, url.port, thumbprint=str(told.sslThumbprint or "") if other else "")
        try:
            client.request("GET", url.path + (f"?{url.query}" if url.query else ""))
            answer = client.getresponse()
            if answer.status != http.client.OK:
                raise Unavailable(
                    f"A disk cannot be read: {url.hostname} answers {answer.status}.", remedy="Try again."
                )
            with target.open("wb") as file:  # anew, if the session had expired in between
                while chunk := answer.read(_CHUNK):
                    self._meter.take(len(chunk))
                    file.write(chunk)
                    self._keep()
            if answer.length:
                raise Unavailable("A disk was cut off while it was read.", remedy="Try again.")
        finally:
            client.close()
        return Disk(str(target), "vmdk")

    def _keep(self) -> None:
        if time.monotonic() - self._told > _TELL_EVERY:
            self._lease.HttpNfcLeaseProgress(50)
            self._told = time.monotonic()
