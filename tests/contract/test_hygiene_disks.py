"""The hygiene gate on disks as machines have them: left-overs in files and in what was deleted, and hostile disks."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet.config import Project
from phoenix_fleet.domain.models import Artefact, Disk, Subject
from phoenix_fleet.domain.verdicts import Measurement, Verdict, judge
from tests.contract.gates_fixtures import a_system, docker
from tests.contract.gates_world import World, build
from tests.contract.test_hygiene import CANARIES, FINAL, PEM, clean_up
from tests.unit.disks import making

ARTEFACT = Artefact("libvirt", "phoenix/disk", "sha256:" + "1" * 64)
ESP_CANARIES = {"loader/random-seed": b"1234", "authorized_keys": b"ssh-ed25519 AAAA packer\n"}
FSTAB = b"# <what> <where>\nLABEL=phoenix-root / ext4 defaults 0 1\nUUID=7B77-95E7 /boot/efi vfat umask=0077 0 1\n"
DELETED = {
    "a private key": PEM,
    "a private key, RSA": PEM.replace(b"OPENSSH", b"RSA"),
    "a private key, written out": b'{"key": "' + PEM.replace(b"\n", b"\\n") + b'"}',
    "a private key, encrypted": CANARIES["opt/app/encrypted.pem"],
    "a private key, PGP": CANARIES["root/backup.asc"],
    "a private key in base64": CANARIES["opt/app/kube.yaml"],
    "a PuTTY key": CANARIES["root/key.ppk"],
    "an age key": CANARIES["root/age.txt"],
    "an AWS key": CANARIES["opt/app/boto.ini"],
    "an AWS key id": CANARIES["opt/app/aws.txt"],
    "a GitHub token": CANARIES["opt/app/github.txt"],
    "a GitLab token": b"glpat-" + b"x" * 20,
    "a Slack token": b"xoxb-1234567-" + b"x" * 24,
    "a password": b"root:$6$saltsalt$" + b"abcDEF./" * 10 + b":20000:0:99999:7:::\n",
    "a password, yescrypt": b"admin:$y$j9T$F5Jx5fExrKuPp53xLKQ..1$" + b"X" * 43 + b":20000::::::\n",
}


def system(folder: Path, *members: tuple[str, bytes]) -> Path:
    """A small, clean root with those files more."""
    with tarfile.open(fileobj=io.BytesIO(a_system(("etc/fstab", FSTAB), *members))) as archive:
        archive.extractall(folder, filter="data")
    return folder


def disk(folder: Path, root: Path, esp: dict[str, bytes], *deleted: bytes, between: bytes = b"") -> Path:
    """A disk with a boot loader, an EFI system partition and that root, on which files were deleted last."""
    for number, content in enumerate(deleted):
        (root / f"gone-{number}").write_bytes(b"deleted\n" + content)
    made = making.ext(folder / "root.img", root, 48, "-L", "phoenix-root")
    if deleted:
        making.debugfs(made, *(f"rm /gone-{number}" for number in range(len(deleted))))
    efi = making.fat(folder / "efi.img", making.tree(folder / "efi", {"EFI/BOOT/BOOTX64.EFI": b"MZ", **esp}))
    parts = [(making.BIOS_BOOT, b"GRUB"), (making.ESP, efi), (making.LINUX, made)]
    return making.gpt(folder / "disk.raw", parts, {40 * 512: between} if between else None)


def in_form(raw: Path, form: str) -> Disk:
    options = {"qcow2": ("-c",), "vmdk": ("-o", "subformat=streamOptimized")}
    made = raw if form == "raw" else making.convert(raw, raw.with_suffix(f".{form}"), form, *options[form])
    return Disk(str(made), form)


def measure(tmp_path: Path, *disks: Disk, **settings: Any) -> Measurement:
    gate = build("hygiene", settings, None, tmp_path)
    return gate.measure(Subject("a disk", str(tmp_path), artefact=ARTEFACT, disks=disks))


@pytest.mark.parametrize("form", ["raw", "qcow2", "vmdk"])
def test_every_canary_is_found_in_files_and_in_what_was_deleted(tmp_path: Path, form: str) -> None:
    planted = {**CANARIES, **FINAL}
    root = system(tmp_path / "root", *planted.items())
    raw = disk(tmp_path, root, ESP_CANARIES, *DELETED.values(), between=PEM)
    content = raw.read_bytes()
    measurement = measure(tmp_path, in_form(raw, form))

    assert (judge(measurement), measurement.error) == (Verdict.FAILED, "")
    rows = measurement.details["findings"]
    in_files = {(row["path"], row["layer"]) for row in rows if row["rule"] != "deleted"}
    assert in_files == {(f"/{name}", 3) for name in planted} | {(f"/boot/efi/{name}", 2) for name in ESP_CANARIES}
    told = {row["path"]: (row["layer"], row["what"]) for row in rows if row["rule"] == "deleted"}
    found = {int(path.split()[-1].rstrip(")")): said for path, said in told.items()}
    assert found[40 * 512] == (None, "a private key, which deleting has left there")
    for what, canary in DELETED.items():
        # Blocks of 1 KiB, and each deleted file says that it is one.
        (at,) = _all(content, b"deleted\n" + canary)
        ((layer, said),) = (said for place, said in found.items() if at <= place < at + 1024)
        assert (layer, said) == (3, f"{what.partition(',')[0]}, which deleting has left there")


def _all(content: bytes, canary: bytes) -> list[int]:
    places, at = [], content.find(canary)
    while at >= 0:
        places.append(at)
        at = content.find(canary, at + 1)
    return places


@pytest.mark.docker
def test_a_clean_debian_with_an_ssh_server_has_no_findings(world: World, tmp_path: Path) -> None:
    container = docker("create", world.machines.image, "true")
    rootfs, clean = tmp_path / "rootfs.tar", tmp_path / "clean.tar"
    with rootfs.open("wb") as file:
        subprocess.run(["docker", "export", container], stdout=file, check=True)
    docker("rm", container)
    clean.write_bytes(clean_up(rootfs))
    root = tmp_path / "root"
    root.mkdir()
    subprocess.run(["tar", "-xf", str(clean), "-C", str(root)], check=True)
    (root / "etc/machine-id").write_bytes(b"")
    made = making.mbr(tmp_path / "disk.raw", making.ext(tmp_path / "fs", root, 512))
    measurement = measure(tmp_path, in_form(made, "qcow2"))

    assert measurement.details.get("findings") == [], measurement.value
    assert judge(measurement) is Verdict.PASSED
    assert measurement.details["files"] > 5000


@pytest.mark.parametrize("form", ["raw", "qcow2", "vmdk"])
def test_a_clean_disk_has_no_findings_whatever_was_deleted_on_it(tmp_path: Path, form: str) -> None:
    harmless = (
        b"#!/bin/sh\nexit 101\n",
        b"root:*:20000:0:99999:7:::\n",
        b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 root@host\n",
    )
    header = b"-----BEGIN PRIVATE KEY-----\0-----BEGIN RSA PRIVATE KEY-----\0"
    measurement = measure(tmp_path, in_form(disk(tmp_path, system(tmp_path / "root"), {}, *harmless, header), form))

    assert (judge(measurement), measurement.error) == (Verdict.PASSED, "")
    assert measurement.details["findings"] == []
    assert measurement.details["disks"] == [
        "partition 1: a boot loader",
        "partition 2: FAT",
        "partition 3: ext2, ext3 or ext4",
    ]


@pytest.mark.docker
def test_the_key_that_packer_leaves_is_found_until_the_provisioning_takes_it(world: World, tmp_path: Path) -> None:
    """The end of the real provisioning script, on a machine's root with what a build has put there."""
    key = "ssh-rsa " + "A" * 370 + " phoenix-build-debian-base-2026.11-1-0123abcd"
    left = (
        f"install -d /home/admin/.ssh /root/.ssh /var/lib/cloud/instance; echo {key} >/root/.ssh/authorized_keys; "
        "cp /root/.ssh/authorized_keys /home/admin/.ssh/; echo x >/var/lib/cloud/instance/user-data.txt; "
        "echo 'admin ALL=(ALL) NOPASSWD:ALL' >/etc/sudoers.d/90-cloud-init-users; echo 0123 >/etc/machine-id; "
        "echo 1234 >/var/lib/systemd/random-seed; ls >/root/.bash_history; "
    )
    prepare = f"mkdir -p /etc/sudoers.d /var/lib/systemd; {left}"
    script = (Project.find().include / "images/common/provision.sh").read_text()
    cleaning = script.partition("\nif has_layer machine; then settle")[0] + "\nclean_up\n"
    before, after = (
        _after(world, tmp_path / name, prepare + more) for name, more in (("before", ""), ("after", cleaning))
    )

    found = {row["path"] for row in before.details["findings"]}
    assert {"/root/.ssh/authorized_keys", "/home/admin/.ssh/authorized_keys", "/var/lib/systemd/random-seed"} <= found
    assert {"/etc/ssh/ssh_host_ed25519_key", "/etc/machine-id", "/etc/sudoers.d/90-cloud-init-users"} <= found
    assert (after.details.get("findings"), after.error) == ([], "")
    assert judge(after) is Verdict.PASSED


def _after(world: World, folder: Path, script: str) -> Measurement:
    """What the gate says of a disk with a Debian on which that has run as root."""
    root = folder / "root"
    root.mkdir(parents=True)
    container = docker("create", "-i", "-e", "PHOENIX_LAYERS=common machine", world.machines.image, "sh", "-s")
    try:
        docker("start", "-i", container, stdin=script.encode())
        with (folder / "rootfs.tar").open("wb") as file:
            subprocess.run(["docker", "export", container], stdout=file, check=True)
    finally:
        docker("rm", "--force", container)
    subprocess.run(["tar", "-xf", str(folder / "rootfs.tar"), "-C", str(root)], check=True)
    return measure(folder, Disk(str(making.mbr(folder / "disk", making.ext(folder / "fs", root, 512))), "raw"))


def test_names_of_whiteouts_delete_nothing_on_a_disk(tmp_path: Path) -> None:
    lists = ("var/lib/apt/lists/deb_InRelease", b"x")
    root = system(tmp_path / "root", lists, ("var/lib/apt/.wh.lists", b""), ("etc/.wh.machine-id", b""))
    measurement = measure(tmp_path, Disk(str(disk(tmp_path, root, {})), "raw"))

    assert [row["path"] for row in measurement.details["findings"]] == ["/var/lib/apt/lists/deb_InRelease"]


def test_a_partition_that_nobody_says_where_to_mount_is_looked_at_as_the_root(tmp_path: Path) -> None:
    data = making.ext(tmp_path / "data.img", making.tree(tmp_path / "data", {"var/log/build.log": b"x", "a": b"x"}), 8)
    root = making.ext(tmp_path / "root.img", system(tmp_path / "root"), 48, "-L", "phoenix-root")
    raw = making.gpt(tmp_path / "disk.raw", [(making.LINUX, data), (making.LINUX, root)])
    measurement = measure(tmp_path, Disk(str(raw), "raw"))

    assert [(row["path"], row["layer"]) for row in measurement.details["findings"]] == [("/var/log/build.log", 1)]


def test_swap_is_memory_of_the_builder(tmp_path: Path) -> None:
    root = making.ext(tmp_path / "root.img", system(tmp_path / "root"), 48)
    swap = bytes(4086) + b"SWAPSPACE2" + bytes(4096)
    raw = making.gpt(tmp_path / "disk.raw", [(making.LINUX, root), (making.LINUX, swap)])
    measurement = measure(tmp_path, Disk(str(raw), "raw"))

    assert [(row["rule"], row["layer"]) for row in measurement.details["findings"]] == [("swap", 2)]


@pytest.mark.parametrize(
    ("second", "settings", "why"),
    [
        (b"XFSB" + bytes(100_000), {}, "partition 2 has no file system that can be read here"),
        (None, {"min_files": 1000}, "files were seen"),
        (None, {"max_bytes": 100_000}, "larger than 100000 bytes"),
        (None, {"max_entries": 50}, "more than 50 entries"),
    ],
    ids=["another file system", "few files", "too large", "too many"],
)
def test_what_was_not_seen_whole_is_never_passed(
    tmp_path: Path, second: bytes | None, settings: dict[str, Any], why: str
) -> None:
    root = making.ext(tmp_path / "root.img", system(tmp_path / "root"), 48)
    more = [(making.LINUX, second)] if second else []
    raw = making.gpt(tmp_path / "disk.raw", [(making.LINUX, root), *more])
    measurement = measure(tmp_path, Disk(str(raw), "raw"), **settings)

    assert judge(measurement) is Verdict.ERROR
    assert why in measurement.error
    assert not measurement.artefacts


@pytest.mark.parametrize("form", ["raw", "qcow2", "vmdk", "vhdx"])
def test_a_disk_that_is_none_is_an_error(tmp_path: Path, form: str) -> None:
    (tmp_path / "disk").write_bytes(b"not a disk" * 1000)
    measurement = measure(tmp_path, Disk(str(tmp_path / "disk"), form))

    assert judge(measurement) is Verdict.ERROR


def test_disks_that_are_no_system_are_an_error(tmp_path: Path) -> None:
    files = {f"usr/x{number}": b"x" for number in range(300)}
    raw = making.mbr(tmp_path / "disk", making.ext(tmp_path / "fs", making.tree(tmp_path / "root", files)))
    measurement = measure(tmp_path, Disk(str(raw), "raw"))

    assert "no /etc/os-release" in measurement.error


def test_an_artefact_whose_disks_were_not_copied_is_an_error(tmp_path: Path) -> None:
    from phoenix_fleet.connections import Connection

    gate = build("hygiene", {}, lambda name: Connection(name), tmp_path)
    measurement = gate.measure(Subject("a disk", str(tmp_path), artefact=ARTEFACT))

    assert judge(measurement) is Verdict.ERROR
    assert "does not name an image in a registry" in measurement.error
