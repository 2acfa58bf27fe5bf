"""Builds for libvirt (KVM, QEMU, Xen): a disk, made from scratch or published, that Packer provisions in a guest.

The guest runs where the build runs; only the finished disk goes to the host, into the storage pool. One disk serves
all: GRUB boots it under KVM and QEMU, and what GRUB boots from is what pvgrub and pygrub read on Xen.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from phoenix_fleet import downloads, seeds
from phoenix_fleet.builders import _libvirt_disk as disks
from phoenix_fleet.builders import _libvirt_qemu as qemu
from phoenix_fleet.builders import _tools as tools
from phoenix_fleet.builders.base import Builder, Inputs, Log, Run, is_over
from phoenix_fleet.configfields import Frozen
from phoenix_fleet.domain.errors import BuildFailed, Busy, InvalidConfig
from phoenix_fleet.platforms import _libvirt_host as hosts
from phoenix_fleet.platforms import _libvirt_images as images
from phoenix_fleet.platforms import _libvirt_settings as chosen
from phoenix_fleet.platforms import _libvirt_volumes as volumes

_CONVERTING = timedelta(minutes=15)
_OUTPUT, _CONSOLE = "made", "console.log"
_LAST_LINES = 15


class Settings(Frozen):
    """The guest in which the disk is provisioned."""

    disk_gib: int = Field(4, ge=1, le=2048, description="Size of the disk in GiB. Default: 4.")
    memory_mib: int = Field(2048, ge=256, description="Memory of the guest in MiB. Default: 2048.")
    cpus: int = Field(2, ge=1, le=64, description="Processors of the guest. Default: 2.")
    accelerator: Literal["auto", "kvm", "tcg"] = Field(
        "auto", description="auto: kvm if a guest really boots with it, else tcg (emulated). Default: auto."
    )


class Driver(Builder):
    """libvirt. Templates get the disk, what boots it, the key to log in with and how to run the guest."""

    Settings = Settings
    seeds = ("suite", "url")

    def check(self) -> None:
        """The programs are there, and the host has the pool."""
        from_scratch = self.seed().kind == "suite"
        tools.check_installed(disks.PROGRAMS + (disks.PROGRAMS_FROM_SCRATCH if from_scratch else ()))
        if from_scratch and os.geteuid():
            raise InvalidConfig(
                "Making a disk from scratch needs root, for the owners of its files.",
                remedy="Let a worker that runs as root do the builds for libvirt.",
            )
        with self._pool("look for the pool"):
            return

    def sweep(self, log: Log) -> None:
        """Guests on this machine, and images in the pool that were never whole."""
        now = time.time()
        qemu.end_guests(lambda build_id, until: is_over(build_id, until, now), log)
        with self._pool("sweep builds") as pool:
            volumes.refresh(pool)
            for image, build in images.parts(sorted(volume.name() for volume in pool.listAllVolumes(0))):
                build_id, _, until = build.rpartition(".")
                if is_over(build_id, until, now):
                    log(f"build: removing {image}, which a build was killed over")
                    _remove(pool, image, build)

    def prepare(self, run: Run, log: Log) -> Inputs:
        """The disk, and a key that ends with the run."""
        key, public = disks.key(run.scratch)
        disk = self._disk(run, public, log)
        accelerator = self.settings.accelerator
        if accelerator == "auto":
            accelerator = qemu.accelerator(disk.prints)
        log(f"build: the guest runs with {accelerator}")
        return Inputs(
            variables={
                "disk": str(disk.path),
                "boot": disk.boot,
                "layers": disk.layers,
                "key_file": str(key),
                "guest": qemu.guest_name(run),
                "output": str(run.scratch / _OUTPUT),
                "console": str(run.scratch / _CONSOLE),
                "accelerator": accelerator,
                "memory_mib": self.settings.memory_mib,
                "cpus": self.settings.cpus,
            }
        )

    def finish(self, run: Run, made: str, log: Log) -> str:
        """The disk in the pool, under the name that says what it is; whole before anybody is shown it."""
        disk = run.scratch / _OUTPUT / qemu.guest_name(run)
        if not disk.is_file():
            raise BuildFailed(f"Packer made {made!r}, and there is no disk {disk.name}.", remedy="See vm_name there.")
        self._check_clean(run, disk)
        digest = _digest(disk)
        name = images.volume_name(run.family, run.version, digest, "qcow2")
        with self._pool(f"upload {name}") as pool:
            self._upload(pool, name, disk, digest, qemu.guest_name(run).removeprefix("phoenix-build-"))
        log(f"build: {name} is in the pool '{self._place.pool}'")
        return images.reference(self._place.pool, name, digest)

    def clean_up(self, run: Run, log: Log) -> None:
        """The guest, whose last words are told, and the volume that was being filled."""
        for line in _last_lines(run.scratch / _CONSOLE):
            log(f"build: the guest's console: {line}")
        qemu.end_guests(lambda build_id, _: build_id == run.build_id, log)
        with self._pool(f"clean up {run.build_id}") as pool:
            volumes.refresh(pool)
            for image, build in images.parts(sorted(volume.name() for volume in pool.listAllVolumes(0))):
                if build == f"{run.build_id}.{run.until}":
                    _remove(pool, image, build)

    # Inside

    def _disk(self, run: Run, public_key: str, log: Log) -> disks.Disk:
        seed, gib = self.seed(), self.settings.disk_gib
        if seed.kind == "url":
            image = downloads.fetch(seed.url, seed.sha256, log)
            return disks.copy(image, public_key, run.scratch, gib=gib, log=log)
        tar = seeds.root_file_system(seed, log)
        return disks.make(tar, run.common, public_key, run.scratch, gib=gib, log=log)

    @property
    def _place(self) -> chosen.Settings:
        return chosen.Settings.model_validate(self.target.platform.settings)

    @contextmanager
    def _pool(self, what: str) -> Iterator[Any]:
        place = self._place
        with hosts.translated(what), hosts.opened(self.connections(place.connection)) as host:
            yield volumes.pool(host, place.pool)

    def _check_clean(self, run: Run, disk: Path) -> None:
        """The key that let Packer in is nowhere on the disk, not even in a block that is free by now."""
        raw = run.scratch / "finished.raw"
        argv = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(disk), str(raw)]
        tools.run(argv, timeout=_CONVERTING)
        public = (run.scratch / "id_ed25519.pub").read_text().split()[1]
        try:
            if found := tools.traces(raw, [public.encode()]):
                raise BuildFailed(
                    f"The key of the build is still on the finished disk, first at byte {found[0]}.",
                    remedy="Let the provisioning shred every authorized_keys.",
                )
        finally:
            raw.unlink(missing_ok=True)

    @staticmethod
    def _upload(pool: Any, name: str, disk: Path, digest: str, build: str) -> None:
        volumes.refresh(pool)
        names = [volume.name() for volume in pool.listAllVolumes(0)]
        if name in names:
            if any(image == name for image, _ in images.parts(names)):
                raise Busy(f"{name} is being filled by another build.", remedy="Wait for it, or for the sweep.")
            return
        volumes.make(pool, images.part_name(name, build), 0, "raw")
        volume = volumes.make(pool, name, _capacity(disk), "qcow2")
        volumes.upload(volume, disk)
        if volumes.digest(volume, disk.stat().st_size) != digest:
            raise BuildFailed(f"{name} came to the pool changed.", remedy="Look at the host's disk.")
        volumes.delete(pool, images.part_name(name, build))
        volumes.refresh(pool)


def _remove(pool: Any, image: str, build: str) -> None:
    volumes.delete(pool, image)
    volumes.delete(pool, images.part_name(image, build))


def _last_lines(console: Path) -> list[str]:
    """What a guest that did not come up printed last, without control characters."""
    if not console.is_file():
        return []
    lines = console.read_bytes()[-8192:].decode("utf-8", "replace").splitlines()
    return ["".join(char for char in line if char.isprintable())[:200] for line in lines[-_LAST_LINES:]]


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"


def _capacity(disk: Path) -> int:
    try:
        return disks.capacity(disk)
    except ValueError as error:
        raise BuildFailed(f"{disk.name} {error}.", remedy="The template's format must be qcow2.") from None
