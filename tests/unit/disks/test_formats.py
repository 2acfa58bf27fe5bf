"""qcow2 and VMDK made by QEMU come out as they went in; those that lead elsewhere or lie are refused."""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from phoenix_fleet.disks import formats
from phoenix_fleet.disks.bounds import Limits, Unreadable
from tests.unit.disks import making

LIMITS = Limits(256 * making.MIB, 0)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A raw disk with data, holes, and an end in the middle of a cluster."""
    some = random.Random(3)  # noqa: S311
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        for at in (0, 70_000, 5 * making.MIB, 30 * making.MIB):
            file.seek(at)
            file.write(some.randbytes(100_000) + b"a" * 200_000)
        file.truncate(40 * making.MIB + 512)
    return path


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("qcow2", ()),
        ("qcow2", ("-c",)),
        ("qcow2", ("-o", "compat=0.10")),
        ("qcow2", ("-o", "cluster_size=4k")),
        ("qcow2", ("-c", "-o", "cluster_size=2M")),
        ("vmdk", ("-o", "subformat=streamOptimized")),
    ],
    ids=["qcow2", "compressed", "version 2", "small clusters", "large clusters", "vmdk"],
)
def test_a_disk_comes_out_as_it_went_in(tmp_path: Path, disk: Path, form: str, options: tuple[str, ...]) -> None:
    made = making.convert(disk, tmp_path / f"disk.{form}", form, *options)
    formats.to_raw(made, form, tmp_path / "again.raw", LIMITS)

    assert (tmp_path / "again.raw").read_bytes() == disk.read_bytes()
    assert (tmp_path / "again.raw").stat().st_blocks * 512 < 8 * making.MIB, "holes stay holes"


def _create(path: Path, *argv: str) -> Path:
    subprocess.run(["qemu-img", "create", "-q", *argv[:-1], str(path), *argv[-1:]], check=True, capture_output=True)
    return path


def test_a_disk_that_leads_to_another_file_is_refused(tmp_path: Path, disk: Path) -> None:
    over = _create(tmp_path / "over", "-f", "qcow2", "-b", str(disk), "-F", "raw", "40M")
    beside = _create(tmp_path / "beside", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'},data_file_raw=on", "40M")
    flat = making.convert(disk, tmp_path / "flat.vmdk", "vmdk", "-o", "subformat=monolithicFlat")
    sparse = making.convert(disk, tmp_path / "sparse.vmdk", "vmdk", "-o", "subformat=monolithicSparse")
    for path, form in ((over, "qcow2"), (beside, "qcow2"), (flat, "vmdk"), (sparse, "vmdk")):
        with pytest.raises(Unreadable):
            formats.to_raw(path, form, tmp_path / f"{path.name}.raw", LIMITS)


def _patched(at: int, data: bytes) -> Callable[[Path], None]:
    def patch(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(data)

    return patch


@pytest.mark.parametrize(
    ("form", "options", "damage"),
    [
        ("qcow2", (), _patched(0, b"QED\0")),
        ("qcow2", (), _patched(24, struct.pack(">Q", 1 << 60))),
        ("qcow2", (), _patched(36, struct.pack(">I", 1 << 31))),
        ("qcow2", (), _patched(40, struct.pack(">Q", 1 << 60))),
        ("qcow2", (), _patched(32, struct.pack(">I", 1))),
        ("qcow2", (), _patched(72, struct.pack(">Q", 1 << 4))),
        ("vmdk", ("-o", "subformat=streamOptimized"), _patched(12, bytes(8))),
        ("vmdk", ("-o", "subformat=streamOptimized"), _patched(64, struct.pack("<Q", 1 << 50))),
        ("vmdk", ("-o", "subformat=streamOptimized"), _patched(65536 + 100, b"garbage!")),
    ],
)
def test_a_damaged_disk_is_refused(
    tmp_path: Path, disk: Path, form: str, options: tuple[str, ...], damage: Callable[[Path], None]
) -> None:
    made = making.convert(disk, tmp_path / f"disk.{form}", form, *options)
    damage(made)
    with pytest.raises(Unreadable):
        formats.to_raw(made, form, tmp_path / "again.raw", LIMITS)


def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    large = tmp_path / "large.raw"
    large.write_bytes(b"a" * (20 * making.MIB))
    made = making.convert(large, tmp_path / "bomb", "qcow2", "-c")
    assert made.stat().st_size < making.MIB
    with pytest.raises(Unreadable, match="larger than"):
        formats.to_raw(made, "qcow2", tmp_path / "again.raw", Limits(10 * making.MIB, 0))


def test_another_format_is_refused(tmp_path: Path, disk: Path) -> None:
    with pytest.raises(Unreadable, match="format 'vhdx'"):
        formats.to_raw(disk, "vhdx", tmp_path / "again.raw", LIMITS)
