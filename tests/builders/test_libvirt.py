"""Builds for libvirt against a private libvirtd: what becomes of a disk, what is swept, and one build for real."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lab import temporary
from lab.libvirt_host import POOL, LibvirtHost
from phoenix_fleet import packer
from phoenix_fleet.builders import _libvirt_disk as disks
from phoenix_fleet.builders import _libvirt_qemu as qemu
from phoenix_fleet.builders import libvirt as builder
from phoenix_fleet.builders.base import Run
from phoenix_fleet.config import ImageFamily, Project, Target
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import BuildFailed, InvalidConfig, InvalidSpec, Unavailable
from phoenix_fleet.domain.models import Artefact, Bounds, Instance, LaunchIntent, Subject
from phoenix_fleet.domain.windows import Version
from phoenix_fleet.gates import hygiene
from phoenix_fleet.platforms import _libvirt_images as images
from phoenix_fleet.platforms import _libvirt_probe as probe
from phoenix_fleet.platforms import _libvirt_session as sessions
from phoenix_fleet.platforms import _libvirt_volumes as volumes
from phoenix_fleet.platforms import libvirt as driver
from tests.builders import families, publishing
from tests.contract.machinery import wait_for
from tests.sampling import WHOLE

pytestmark = pytest.mark.libvirt

MIB = 1024 * 1024


class Crash(BaseException):
    """The process died here."""


@pytest.fixture(scope="module")
def host() -> Iterator[LibvirtHost]:
    with temporary.folder(temporary.HOSTS) as folder:
        folder.chmod(0o755)
        found = LibvirtHost(folder)
        try:
            found.start()
            yield found
        finally:
            sessions.close_all()
            found.stop()


class Place:
    """A pool, builders for it and the driver that lists it."""

    def __init__(self, host: LibvirtHost, folder: Path) -> None:
        self.host, self.folder = host, folder
        self.connections = {"libvirt": Connection("libvirt", extra={"uri": host.uri})}
        self.platform = {"pool": POOL, "interface": "user", "domain": "qemu", "memory": "1g", "autostart": False}
        self.serial = 0

    def builder(self, pool: str = POOL, **settings: Any) -> builder.Driver:
        target = families.target(
            {"libvirt": {**self.platform, "pool": pool}}, "qemu.pkr.hcl", seed={"suite": "bookworm"}, settings=settings
        )
        return builder.Driver(target, self.connections.__getitem__, self.folder)

    def driver(self) -> driver.Driver:
        return driver.Driver(driver.Driver.Settings.model_validate(self.platform), self.connections.__getitem__)

    def run(self, until: int = 0) -> Run:
        """A run with its key, as ``prepare`` leaves it."""
        self.serial += 1
        scratch = self.folder / f"scratch-{self.serial}"
        scratch.mkdir()
        disks.key(scratch)
        build_id = f"mini-{families.VERSION}-{os.urandom(4).hex()}"
        return Run("mini", families.VERSION, build_id, until or int(time.time()) + 600, scratch, self.folder)

    def packed(self, run: Run, *content: bytes) -> Path:
        """A finished disk of Packer's, with that content here and there."""
        raw, made = run.scratch / "raw", run.scratch / "made" / qemu.guest_name(run)
        made.parent.mkdir()
        with raw.open("wb") as file:
            file.truncate(64 * MIB)
            file.write(os.urandom(MIB))
            for number, each in enumerate(content):
                file.seek((10 + number) * MIB - 20)  # across the border of two chunks
                file.write(each)
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(made)], check=True)
        raw.unlink()
        return made

    def volumes(self) -> list[str]:
        return sorted(each.name for each in self.host.pool_folder.iterdir())


@pytest.fixture
def place(host: LibvirtHost, tmp_path: Path) -> Iterator[Place]:
    yield Place(host, tmp_path)
    for each in host.pool_folder.iterdir():
        each.unlink()


def test_a_disk_becomes_a_candidate_with_the_digest_of_its_bytes(place: Place) -> None:
    run = place.run()
    disk = place.packed(run)
    reference = place.builder().finish(run, "VM", print)
    digest = f"sha256:{hashlib.sha256(disk.read_bytes()).hexdigest()}"
    ((artefact, marks),) = place.driver().list_images("mini")
    assert (artefact.reference, artefact.digest) == (reference, digest)
    assert marks == {"version": families.VERSION, "status": "candidate"}
    (name,) = place.volumes()
    assert (place.host.pool_folder / name).read_bytes() == disk.read_bytes()


def test_finishing_again_changes_nothing(place: Place) -> None:
    run = place.run()
    place.packed(run)
    first = place.builder().finish(run, "VM", print)
    assert place.builder().finish(run, "VM", print) == first
    assert len(place.volumes()) == 1


def test_a_planted_key_of_the_build_is_found_wherever_it_lies(place: Place) -> None:
    run = place.run()
    public = (run.scratch / "id_ed25519.pub").read_bytes()
    place.packed(run, public)
    with pytest.raises(BuildFailed, match="key of the build is still on the finished disk") as failed:
        place.builder().finish(run, "VM", print)
    assert "shred" in failed.value.remedy
    assert place.volumes() == []


def test_another_key_is_none_of_its_business(place: Place) -> None:
    other, run = place.run(), place.run()
    place.packed(run, (other.scratch / "id_ed25519.pub").read_bytes())
    place.builder().finish(run, "VM", print)


def test_an_image_that_is_not_whole_is_not_listed_and_swept_in_time(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    until = int(time.time()) + 600
    run, whole = place.run(until), place.run()
    place.packed(whole)
    kept = place.builder().finish(whole, "VM", print)
    place.packed(run, b"other")

    def die(*_: Any) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(volumes, "digest", die)
        with pytest.raises(Crash):
            place.builder().finish(run, "VM", print)
    assert len(place.volumes()) == 3
    assert [artefact.reference for artefact, _ in place.driver().list_images("mini")] == [kept]
    foreign = ["phoenix-fleet_x.part.mini-2026.11-1-0123abcd.1700000000", "web.qcow2", f"{'0' * 8}.qcow2.part.x"]
    for name in foreign:
        (place.host.pool_folder / name).touch()

    place.builder().sweep(print)
    assert len(place.volumes()) == 3 + len(foreign), "its build might still run"

    monkeypatch.setattr(builder.time, "time", lambda: until + 1)
    place.builder().sweep(print)
    assert set(place.volumes()) == {*foreign, kept.partition("/")[2].partition("@")[0]}


def test_a_failed_upload_is_cleaned_up_after(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    run = place.run()
    place.packed(run)
    monkeypatch.setattr(volumes, "digest", lambda *_: "sha256:else")
    with pytest.raises(BuildFailed, match="came to the pool changed"):
        place.builder().finish(run, "VM", print)
    place.builder().clean_up(run, print)
    assert place.volumes() == []


def test_only_guests_of_builds_are_ended_and_only_when_due(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, running = place.run(1700000000), place.run()
    argv = ["qemu-system-x86_64", "-machine", "none", "-display", "none", "-nodefaults", "-S"]
    names = [qemu.guest_name(mine), qemu.guest_name(running), "phoenix-build-web", f"my-{qemu.guest_name(mine)}"]
    started = [subprocess.Popen([*argv, "-name", name]) for name in names]
    try:
        wait_for(lambda: [each.poll() for each in started] == [None] * 4, "the guests")
        time.sleep(0.5)
        place.builder().sweep(print)
        assert started[0].wait(10) == -9
        assert [each.poll() for each in started[1:]] == [None] * 3
        place.builder().clean_up(running, print)
        assert started[1].wait(10) == -9
        assert [each.poll() for each in started[2:]] == [None] * 2
    finally:
        for each in started:
            each.kill()
            each.wait()


def test_what_cannot_work_is_said_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.builder().check()
    with pytest.raises(InvalidSpec, match="no storage pool 'nowhere'"):
        place.builder(pool="nowhere").check()
    monkeypatch.setattr(disks, "PROGRAMS", ("mke2fs", "phoenix-no-such-program"))
    with pytest.raises(InvalidConfig, match="phoenix-no-such-program"):
        place.builder().check()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not WHOLE, reason="an emulated machine installs for eight minutes; scripts/test --whole")
def test_a_disk_from_scratch_is_provisioned_and_boots_by_itself(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family: ImageFamily = Project.find().family("debian-base")
    declared = family.target("libvirt")
    target = declared.model_copy(
        update={"platform": declared.platform.model_copy(update={"settings": dict(place.platform)})}
    )
    workdir = tmp_path / "work"
    workdir.mkdir()
    lines: list[str] = []

    def note(line: str) -> None:
        lines.append(line)
        print(f"{time.strftime('%X')} {line}", flush=True)

    made = packer.build(
        family, target, Version.parse(families.VERSION), place.connections.__getitem__, workdir=workdir, log=note
    )

    assert f"provision: done: debian-base {families.VERSION}" in "\n".join(lines)
    assert [path.name for path in workdir.iterdir()] == ["packer.log"]
    ((artefact, _),) = place.driver().list_images("debian-base")
    assert artefact.reference == made
    check_kernel_is_heard(place, artefact, monkeypatch)
    copies = place.driver().copy_disks(artefact, tmp_path, Bounds(4 * 1024**3, timedelta(minutes=10)))
    gate = hygiene.Driver(hygiene.Settings(), place.connections.__getitem__, tmp_path)
    found = gate.measure(Subject("the finished disk", str(tmp_path), artefact=artefact, disks=copies))
    assert (found.passed, found.error, found.details.get("findings")) == (True, "", [])
    _boots_by_itself(place, "debian-base", artefact)


def published(place: Place, url: str, sha256: str) -> Target:
    """The target of the family ``ubuntu-base`` with that cloud image for Canonical's, in the tests' own pool."""
    found = Project.find().family("ubuntu-base").target("libvirt")
    return Target.model_validate(
        {
            "platform": {"libvirt": place.platform},
            "build": {
                "template": found.build.template,
                "seed": {"url": url, "sha256": sha256},
                "settings": {**found.build.settings, "disk_gib": 4, "memory_mib": 1024},
                "timeout": "60m",
            },
        }
    )


def test_only_a_disk_from_scratch_needs_root(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    target = published(place, "https://images.example/noble.img", "ab" * 32)
    monkeypatch.setattr(builder.os, "geteuid", lambda: 1000)
    builder.Driver(target, place.connections.__getitem__, place.folder).check()
    with pytest.raises(InvalidConfig, match="needs root"):
        place.builder().check()


@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [("digest", BuildFailed, "image.yaml pins"), ("name", Unavailable, "404"), ("content", InvalidConfig, "no qcow2")],
)
def test_what_is_not_what_was_pinned_is_refused_before_anything_is_made(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, kind: type[Exception], told: str
) -> None:
    monkeypatch.setenv("PHOENIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packer, "_packer", lambda *_: pytest.fail("Packer was started"))
    web, workdir = tmp_path / "web", tmp_path / "work"
    web.mkdir()
    workdir.mkdir()
    image = web / "noble.img"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "64M"], check=True)
    if change == "content":
        image.write_bytes(b"<html>not found</html>")
    with publishing.served(web) as server:
        name = "nobel.img" if change == "name" else "noble.img"
        digest = "0" * 64 if change == "digest" else publishing.sha256(image)
        with pytest.raises(kind, match=told):
            packer.build(
                Project.find().family("ubuntu-base"),
                published(place, f"{server}/{name}", digest),
                Version.parse(families.VERSION),
                place.connections.__getitem__,
                workdir=workdir,
                log=print,
            )
    assert place.volumes() == []
    assert list(workdir.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not WHOLE, reason="an emulated machine boots twice; scripts/test --whole")
def test_a_cloud_image_is_provisioned_and_boots_by_itself(place: Place, tmp_path: Path) -> None:
    """All of the provisioning but what it installs: an emulated machine takes long over packages."""
    web, workdir = tmp_path / "web", tmp_path / "work"
    web.mkdir()
    workdir.mkdir()
    image = publishing.cloud_image(web)
    script = Project.find().include / "images" / "common" / "provision.sh"
    whole = script.read_text()
    family = families.make(tmp_path, "ubuntu-base", whole.replace('say "packages"\ninstall_packages\n', ""))
    assert (family.home.parent / "common" / "provision.sh").read_text() != whole
    lines: list[str] = []
    with publishing.served(web) as server:
        made = packer.build(
            family,
            published(place, f"{server}/{image.name}", publishing.sha256(image)),
            Version.parse(families.VERSION),
            place.connections.__getitem__,
            workdir=workdir,
            log=lines.append,
        )
    said = "\n".join(lines)
    assert "download: published.img has the digest that is pinned" in said
    assert "provision: files: common machine\n" in said
    assert f"provision: done: ubuntu-base {families.VERSION}" in said
    ((artefact, _),) = place.driver().list_images("ubuntu-base")
    assert artefact.reference == made
    _boots_by_itself(place, "ubuntu-base", artefact)


def _boots_by_itself(place: Place, family: str, artefact: Artefact) -> None:
    """An instance comes up from it, and its cloud-init prints the host keys that it has made."""
    key = "ssh-ed25519 AAAA x"
    born = place.driver().launch(
        LaunchIntent("t", "t-01", "test", 1, family, families.VERSION, artefact, key, place.platform)
    )
    try:
        keys = wait_for(lambda: _running(place, born).host_keys, "the host keys on the console", 600)
        assert all(key.startswith("ssh-ed25519 ") for key in keys)
    finally:
        place.driver().terminate(born.id)


def check_kernel_is_heard(place: Place, artefact: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through GRUB, from a disk that the guest cannot change."""
    monkeypatch.setattr(probe, "PATIENCE", timedelta(minutes=3))  # emulated
    disk = str(place.host.pool_folder / images.parse(artefact, POOL).name)
    with sessions.opened(place.connections["libvirt"]) as api:
        assert probe.boots(api, "qemu", place.driver().settings, disk, "qcow2")
        assert [each.name() for each in api.listAllDomains(0)] == []


def _running(place: Place, born: Instance) -> Instance:
    time.sleep(1)
    return place.driver().get_instance(born.id)


def test_the_name_of_a_part_leads_back_to_its_image() -> None:
    name = images.volume_name("mini", "2026.11-1", f"sha256:{'0' * 64}", "qcow2")
    assert images.parts([name, images.part_name(name, "b.1"), "x.part.b.1"]) == [(name, "b.1")]
