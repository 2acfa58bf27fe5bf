"""Copies of the disks behind artefacts: on every platform whose artefacts are disks, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import ssl
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab import vmware as lab_vmware
from phoenix_fleet.disks import formats
from phoenix_fleet.disks.bounds import Limits
from phoenix_fleet.domain.errors import (
    AuthenticationFailed,
    InvalidSpec,
    NotFound,
    NotOurs,
    PhoenixError,
    TimedOut,
)
from phoenix_fleet.domain.models import OWNER, Artefact, Bounds, Disk, Subject
from phoenix_fleet.domain.verdicts import Verdict, judge
from phoenix_fleet.platforms import _vmware_session as sessions
from phoenix_fleet.platforms.base import DiskImages
from tests.contract.gates_world import build
from tests.contract.platforms_ec2 import Ec2Lab
from tests.contract.platforms_vmware import VmwareLab
from tests.contract.test_hygiene_disks import disk, system
from tests.unit.disks import making

if TYPE_CHECKING:
    from tests.contract.platforms_libvirt import LibvirtLab

BOUNDS = Bounds(512 * making.MIB, timedelta(seconds=60))
NO_TIME = replace(BOUNDS, time=timedelta(seconds=-1))
KEY = ("root/.ssh/authorized_keys", b"ssh-rsa AAAA packer\n")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A disk with a system on it, and the key that Packer leaves."""
    return disk(tmp_path, system(tmp_path / "root", KEY), {})


def same(copies: tuple[Disk, ...], original: Path, folder: Path) -> bool:
    """Whether the one copy is that disk, maybe with nothing behind its end."""
    (copy,) = copies
    path = Path(copy.path)
    if copy.form != "raw":
        path = folder / "again.raw"
        formats.to_raw(Path(copy.path), copy.form, path, Limits(BOUNDS.bytes, 0))
    wanted = original.read_bytes()
    with path.open("rb") as file:
        return file.read(len(wanted)) == wanted and not file.read(making.MIB).strip(b"\0")


def judged(copies: tuple[Disk, ...], artefact: Artefact, folder: Path) -> tuple[Verdict, list[str]]:
    """What the hygiene gate says of them."""
    found = build("hygiene", {}, None, folder).measure(
        Subject("finished", str(folder), artefact=artefact, disks=copies)
    )
    return judge(found), [row["path"] for row in found.details["findings"]]


class TestEc2:
    def filled(self, lab: Ec2Lab, raw: Path) -> Artefact:
        artefact = lab.artefact("copies", "2026.11-1")
        (snapshot,) = lab.snapshots(artefact)
        lab.cloud.blocks.fill(snapshot, raw)
        return artefact

    def test_a_copy_is_whole_and_launches_nothing(self, ec2_lab: Ec2Lab, tmp_path: Path, raw: Path) -> None:
        artefact, begin = self.filled(ec2_lab, raw), len(ec2_lab.cloud.calls)
        ec2_lab.cloud.blocks.page = 7
        copies = ec2_lab.platform.copy_disks(artefact, tmp_path, BOUNDS)

        assert isinstance(ec2_lab.platform, DiskImages)
        assert same(copies, raw, tmp_path)
        assert os.stat(copies[0].path).st_blocks * 512 < 64 * making.MIB, "blocks that are not there are holes"
        called = [call.action for call in ec2_lab.cloud.calls[begin:]]
        assert set(called) == {"DescribeImages", "ListSnapshotBlocks", "GetSnapshotBlock"}
        assert called.count("ListSnapshotBlocks") > 1
        assert judged(copies, artefact, tmp_path) == (Verdict.FAILED, [f"/{KEY[0]}"])

    def test_throttling_lost_replies_and_changed_blocks_are_asked_for_again(
        self, ec2_lab: Ec2Lab, tmp_path: Path, raw: Path
    ) -> None:
        artefact = self.filled(ec2_lab, raw)
        ec2_lab.cloud.refuse("ListSnapshotBlocks", "ThrottlingException", times=2)
        ec2_lab.cloud.lose_reply("GetSnapshotBlock", times=3)
        ec2_lab.cloud.blocks.changed = {0}

        assert same(ec2_lab.platform.copy_disks(artefact, tmp_path, BOUNDS), raw, tmp_path)
        assert not ec2_lab.cloud.blocks.changed

    @pytest.mark.parametrize(
        ("code", "bounds", "expected"),
        [
            ("AccessDeniedException", BOUNDS, AuthenticationFailed),
            ("ThrottlingException", replace(BOUNDS, time=timedelta(seconds=1)), TimedOut),
            ("", replace(BOUNDS, bytes=making.MIB), InvalidSpec),
        ],
    )
    def test_what_is_not_copied_whole_is_an_error(
        self, ec2_lab: Ec2Lab, tmp_path: Path, raw: Path, code: str, bounds: Bounds, expected: type[PhoenixError]
    ) -> None:
        artefact = self.filled(ec2_lab, raw)
        if code:
            ec2_lab.cloud.refuse("GetSnapshotBlock", code, times=10_000)
        with pytest.raises(expected):
            ec2_lab.platform.copy_disks(artefact, tmp_path, bounds)

    def test_others_images_and_none_are_refused(self, ec2_lab: Ec2Lab, tmp_path: Path) -> None:
        with pytest.raises(NotOurs):
            ec2_lab.platform.copy_disks(ec2_lab.artefact("copies", "2026.11-1", ours=False), tmp_path, BOUNDS)
        real = ec2_lab.artefact("copies", "2026.11-1")
        for wrong in (replace(real, reference="ami-0123456789abcdef0"), replace(real, digest="sha256:" + "0" * 64)):
            with pytest.raises(NotFound):
                ec2_lab.platform.copy_disks(wrong, tmp_path, BOUNDS)


@pytest.mark.vmware
class TestVmware:
    def filled(self, lab: VmwareLab, raw: Path, folder: Path) -> tuple[Artefact, bytes]:
        made = making.convert(raw, folder / "export.vmdk", "vmdk", "-o", "subformat=streamOptimized")
        artefact = lab.artefact("copies", "2026.11-1")
        lab.fill(artefact, made.read_bytes())
        return artefact, made.read_bytes()

    def test_a_copy_is_what_vcenter_exports_and_nothing_is_started(
        self, vmware_lab: VmwareLab, tmp_path: Path, raw: Path
    ) -> None:
        artefact, content = self.filled(vmware_lab, raw, tmp_path)
        vmware_lab.proxy.calls.clear()
        copies = vmware_lab.platform.copy_disks(artefact, tmp_path, BOUNDS)

        assert [(copy.form, Path(copy.path).read_bytes() == content) for copy in copies] == [("vmdk", True)]
        assert same(copies, raw, tmp_path)
        assert judged(copies, artefact, tmp_path) == (Verdict.FAILED, [f"/{KEY[0]}"])
        assert {"ExportVm", "HttpNfcLeaseComplete"} < set(vmware_lab.proxy.calls)
        assert not {"CloneVM_Task", "PowerOnVM_Task", "HttpNfcLeaseAbort"} & set(vmware_lab.proxy.calls)

    def test_the_lease_ends_when_the_copy_fails(self, vmware_lab: VmwareLab, tmp_path: Path, raw: Path) -> None:
        artefact, _ = self.filled(vmware_lab, raw, tmp_path)
        for bounds, expected in ((replace(BOUNDS, bytes=1000), InvalidSpec), (NO_TIME, TimedOut)):
            vmware_lab.proxy.calls.clear()
            with pytest.raises(expected):
                vmware_lab.platform.copy_disks(artefact, tmp_path, bounds)
            assert "HttpNfcLeaseAbort" in vmware_lab.proxy.calls

    def test_who_sends_a_disk_must_be_who_vcenter_says_it_is(
        self, vmware_lab: VmwareLab, tmp_path: Path, raw: Path
    ) -> None:
        artefact, _ = self.filled(vmware_lab, raw, tmp_path)
        vmware_lab.proxy.make("ExportVm", before=[lambda: vmware_lab.proxy.show(other)])
        other = tmp_path / "other"
        other.mkdir()
        lab_vmware.certify(other)
        try:
            with pytest.raises(AuthenticationFailed):
                vmware_lab.platform.copy_disks(artefact, tmp_path, BOUNDS)
        finally:
            vmware_lab.proxy.show(vmware_lab.folder)

    def test_another_host_is_known_by_its_thumbprint(self, vmware_lab: VmwareLab) -> None:
        shown = ssl.PEM_cert_to_DER_cert((vmware_lab.folder / "ca.pem").read_text())
        right = hashlib.sha1(shown, usedforsecurity=False).hexdigest().upper()
        told = ":".join(right[at : at + 2] for at in range(0, 40, 2))
        port = vmware_lab.proxy.port
        client = sessions.https(vmware_lab.connection, "127.0.0.1", port, thumbprint=told)
        client.connect()
        client.close()
        with pytest.raises(ssl.SSLCertVerificationError, match="SHA-1"):
            sessions.https(vmware_lab.connection, "127.0.0.1", port, thumbprint="0" * 40).connect()

    def test_others_templates_and_none_are_refused(self, vmware_lab: VmwareLab, tmp_path: Path) -> None:
        with pytest.raises(NotOurs):
            vmware_lab.platform.copy_disks(vmware_lab.artefact("copies", "2026.11-1", ours=False), tmp_path, BOUNDS)
        with pytest.raises(NotFound):
            vmware_lab.platform.copy_disks(Artefact("vmware", f"none@sha256:{'0' * 64}", ""), tmp_path, BOUNDS)


@pytest.mark.libvirt
class TestLibvirt:
    def filled(self, lab: LibvirtLab, content: bytes, named: bytes, form: str) -> Artefact:
        digest = f"sha256:{hashlib.sha256(named).hexdigest()}"
        name = f"{OWNER}_copies_2026.11-1_{digest.removeprefix('sha256:')}.{form}"
        lab.volume(name, content)
        pool = lab.settings["pool"]
        return Artefact("libvirt", f"{pool}/{name}@{digest}", digest)

    @pytest.mark.parametrize("form", ["raw", "qcow2"])
    def test_a_copy_is_whole(self, libvirt_lab: LibvirtLab, tmp_path: Path, raw: Path, form: str) -> None:
        made = raw if form == "raw" else making.convert(raw, tmp_path / "made", form, "-c")
        artefact = self.filled(libvirt_lab, made.read_bytes(), made.read_bytes(), form)
        (tmp_path / "copies").mkdir()
        copies = libvirt_lab.platform.copy_disks(artefact, tmp_path / "copies", BOUNDS)

        assert [copy.form for copy in copies] == [form]
        assert same(copies, raw, tmp_path)
        assert judged(copies, artefact, tmp_path) == (Verdict.FAILED, [f"/{KEY[0]}"])

    def test_a_changed_volume_is_refused(self, libvirt_lab: LibvirtLab, tmp_path: Path) -> None:
        artefact = self.filled(libvirt_lab, b"changed" * 1000, b"as built", "raw")
        with pytest.raises(InvalidSpec, match="does not have the digest"):
            libvirt_lab.platform.copy_disks(artefact, tmp_path, BOUNDS)

    def test_what_is_not_copied_whole_is_an_error(self, libvirt_lab: LibvirtLab, tmp_path: Path) -> None:
        content = os.urandom(100_000)
        artefact = self.filled(libvirt_lab, content, content, "raw")
        for number, (bounds, expected) in enumerate(((replace(BOUNDS, bytes=1000), InvalidSpec), (NO_TIME, TimedOut))):
            (tmp_path / str(number)).mkdir()
            with pytest.raises(expected):
                libvirt_lab.platform.copy_disks(artefact, tmp_path / str(number), bounds)

    def test_others_images_and_none_are_refused(self, libvirt_lab: LibvirtLab, tmp_path: Path) -> None:
        digest = f"sha256:{'1' * 64}"
        foreign = Artefact("libvirt", f"{libvirt_lab.settings['pool']}/theirs.qcow2@{digest}", digest)
        with pytest.raises(NotOurs):
            libvirt_lab.platform.copy_disks(foreign, tmp_path, BOUNDS)
        gone = f"{libvirt_lab.settings['pool']}/{OWNER}_copies_2026.11-1_{'1' * 64}.raw@{digest}"
        with pytest.raises(NotFound):
            libvirt_lab.platform.copy_disks(Artefact("libvirt", gone, digest), tmp_path, BOUNDS)
