"""Ends what labs of libvirt have left whose process was killed: emulators, bridge, leases, folders; nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from lab import qemu_host, temporary
from lab.libvirt_host import LibvirtHost
from lab.places import Places
from lab.xen_host import XenHost
from phoenix_fleet.domain.errors import PhoenixError


def sweep(log: Callable[[str], None]) -> None:
    """Look at every such folder; what cannot be ended is said, and left for the next time."""
    for prefix, end in ((temporary.LABS, _end_lab), (temporary.HOSTS, _end_host)):
        with temporary.abandoned(prefix) as folders:
            for folder in folders:
                log(f"Ending what a lab that was killed has left in {folder}")
                try:
                    end(folder)
                except PhoenixError as error:
                    log(f"It is still there: {error}")
                else:
                    shutil.rmtree(folder)


def _end_lab(folder: Path) -> None:
    places = Places(folder, folder / "run", Places.find().cache)
    qemu_host.of(places, print).stop()
    host = XenHost(places, print)
    if host.home.exists():
        host.down()


def _end_host(folder: Path) -> None:
    LibvirtHost(folder).stop()
