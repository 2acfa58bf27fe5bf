"""Parts of builders that need no platform: traces on a disk, the partition table, whether KVM works."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from phoenix_fleet.builders import _libvirt_disk as disks
from phoenix_fleet.builders import _libvirt_qemu as qemu
from phoenix_fleet.builders import _tools as tools
from phoenix_fleet.builders import base
from phoenix_fleet.domain.errors import BuildFailed, InvalidConfig
from phoenix_fleet.platforms import _libvirt_probe as probe

MIB = 1024 * 1024


class TestTraces:
    @pytest.mark.parametrize("at", [0, 1, 4 * MIB - 3, 4 * MIB, 9 * MIB - 7], ids=str)
    def test_one_is_found_wherever_it_begins(self, tmp_path: Path, at: int) -> None:
        disk = tmp_path / "disk"
        disk.write_bytes(bytearray(9 * MIB))
        with disk.open("r+b") as file:
            file.seek(at)
            file.write(b"needle!")
        assert tools.traces(disk, [b"other", b"needle!"]) == [at]

    def test_holes_are_passed_over(self, tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        with disk.open("wb") as file:
            file.truncate(1 << 40)  # reading it would take an hour
            file.seek(1 << 39)
            file.write(b"needle!")
        assert tools.traces(disk, [b"needle!"]) == [1 << 39]

    def test_none_is_none(self, tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        disk.write_bytes(os.urandom(MIB))
        assert tools.traces(disk, [b"a needle that is not there"]) == []


def test_a_failed_program_says_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=r"exit code 3(.|\n)*no room"):
        tools.run(["sh", "-c", "echo no room; exit 3"], timeout=timedelta(seconds=10))


def test_missing_programs_are_named() -> None:
    with pytest.raises(InvalidConfig, match="phoenix-none, phoenix-neither"):
        tools.check_installed(["sh", "phoenix-none", "phoenix-neither"])


def test_the_partition_reaches_from_the_gap_to_the_end() -> None:
    table = disks._partition_table(64 * MIB)
    assert (len(table), table[-2:]) == (512, b"\x55\xaa")
    active, _, kind, _, start, count = struct.unpack("<B3sB3sII", table[446:462])
    assert (active, kind, start, start + count) == (0x80, 0x83, 2048, 64 * MIB // 512)


def qcow2(path: Path, size: int = 64 * MIB, *, options: str = "", backing: str = "") -> Path:
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", *(["-o", options] if options else [])]
    subprocess.run([*argv, *(["-b", backing, "-F", "raw"] if backing else []), str(path), str(size)], check=True)
    return path


class TestCloudImages:
    def test_a_copy_has_room_and_is_told_whom_to_let_in(self, tmp_path: Path) -> None:
        image = qcow2(tmp_path / "noble.img")
        disk = disks.copy(image, "ssh-ed25519 AAAA build", tmp_path, gib=1, log=print)
        assert (disk.path.stat().st_size, disk.layers) == (1024 * MIB, "common machine")
        ((option, seed),) = disk.boot
        told = Path(seed).read_bytes()
        assert option == "-cdrom"
        assert told[32808:32814].lower() == b"cidata"
        assert b'"ssh_authorized_keys": ["ssh-ed25519 AAAA build"]' in told
        assert image.stat().st_size < MIB, "what lies in the cache is not written to"

    def test_one_that_has_no_room_is_refused(self, tmp_path: Path) -> None:
        image = qcow2(tmp_path / "noble.img", 2048 * MIB)
        with pytest.raises(InvalidConfig, match=r"disk_gib: 1 is less than the 2.0 of the cloud image"):
            disks.copy(image, "", tmp_path, gib=1, log=print)

    @pytest.mark.parametrize("kind", ["other", "short", "backing", "external"])
    def test_what_is_no_whole_disk_is_refused(self, tmp_path: Path, kind: str) -> None:
        image, other = tmp_path / "noble.img", tmp_path / "other"
        other.write_bytes(bytes(MIB))
        if kind == "other":
            image.write_bytes(b"#!/bin/sh\n" + bytes(MIB))
        elif kind == "short":
            image.write_bytes(b"QFI\xfb")
        elif kind == "backing":
            qcow2(image, MIB, backing=str(other))
        else:
            qcow2(image, MIB, options=f"data_file={other}")
        told = "refers to another file" if kind in ("backing", "external") else "is no qcow2 disk"
        with pytest.raises(InvalidConfig, match=f"url: the file {told}"):
            disks.copy(image, "", tmp_path, gib=1, log=print)
        assert not (tmp_path / "disk.raw").exists()


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ("echo 'SeaBIOS (version 1.16)'; echo 'Linux version 6.1.0'; sleep 60", "kvm"),
        ("echo 'SeaBIOS (version 1.16)'; echo 'Probing EDD'; sleep 60", "tcg"),
        ("exit 1", "tcg"),
    ],
    ids=["boots", "hangs", "refused"],
)
def test_kvm_works_where_a_kernel_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, expected: str
) -> None:
    program = tmp_path / "qemu-system-x86_64"
    program.write_text(f"#!/bin/sh\n{says}\n")
    program.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(qemu.os, "access", lambda *_: True)
    monkeypatch.setattr(probe, "PATIENCE", timedelta(seconds=2))
    assert qemu.accelerator(["-kernel", "vmlinuz"]) == expected


@pytest.mark.parametrize(
    ("build_id", "until", "over"),
    [
        ("mini-2026.11-1-0123abcd", "1700000000", True),
        ("mini-2026.11-1-0123abcd", "1800000000", False),
        ("mini-2026.11-1-0123abcd", "", False),
        ("mini-2026.11-1-0123abcd", "-1", False),
        ("mini-2026.11-1-0123abcd", "1e9", False),
        ("*", "1700000000", False),
        ("", "1700000000", False),
        ("mini-2026.11-1-0123abcd\n", "1700000000", False),
    ],
)
def test_only_marks_that_make_sense_say_that_a_build_is_over(build_id: str, until: str, over: bool) -> None:
    assert base.is_over(build_id, until, 1_750_000_000) is over
