"""Readers of file systems against what e2fsprogs, dosfstools and QEMU make; and damage, which is never passed over."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from phoenix_fleet.disks import ext, fat, partitions, raw
from phoenix_fleet.disks.bounds import Budget, Limits, Unreadable
from phoenix_fleet.disks.files import FileSystem
from tests.unit.disks import making

LIMITS = Limits(1024**3, 100_000)


def content(count: int = 120) -> dict[str, bytes]:
    """Files of many sizes, a folder with many names, and one that fills many extents."""
    some = random.Random(7)  # noqa: S311
    made = {f"d{number % 7}/f{number}": some.randbytes(number * 371 % 20_000) for number in range(count)}
    made |= {f"many/{'x' * 60}-{number:04d}": b"" for number in range(600)}
    return made | {"large": some.randbytes(2_500_000), "etc/Größe.txt": "grün".encode()}


def seen(system: FileSystem) -> dict[str, bytes]:
    return {file.path: b"".join(chunks) for file, chunks in system.walk() if file.kind == "file"}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ext4", ()),
        ("ext4", ("-O", "^64bit,^metadata_csum", "-b", "1024")),
        ("ext4", ("-O", "^extents,^64bit,^metadata_csum", "-I", "128")),
        ("ext3", ()),
        ("ext2", ("-b", "1024")),
    ],
    ids=["ext4", "small blocks", "maps", "ext3", "ext2"],
)
def test_every_file_of_ext_is_read_as_it_was_written(tmp_path: Path, kind: str, options: tuple[str, ...]) -> None:
    root = making.tree(tmp_path / "root", content())
    with (root / "sparse").open("wb") as file:
        file.seek(5_000_000)
        file.write(b"end")
        file.truncate(9_000_000)
    (root / "short").symlink_to("/dev/null")
    (root / "long").symlink_to("y" * 200)
    os.link(root / "large", root / "again")
    with raw.opened(making.ext(tmp_path / "fs", root, 32, *options, kind=kind)) as disk:
        system = ext.Ext(disk, Budget(LIMITS))
        found = {file.path: (file, b"".join(chunks)) for file, chunks in system.walk()}
        assert system.find("/etc/Größe.txt", 3) == "grün".encode()[:3]
        assert system.find("/etc/none", 3) is None
        assert system.find("/large/x", 3) is None

    assert {path: data for path, (file, data) in found.items() if path[1:] in content()} == {
        f"/{name}": data for name, data in content().items()
    }
    assert found["/again"][1] == content()["large"]
    assert (found["/short"][0].target, found["/long"][0].target) == ("/dev/null", "y" * 200)
    sparse, data = found["/sparse"]
    assert (sparse.size, data.strip(b"\0")) == (9_000_000, b"end")
    assert len(data) < 3_000_000, "long holes are shortened"


@pytest.mark.parametrize(("bits", "mib"), [(12, 4), (16, 40), (32, 40)])
def test_every_file_of_fat_is_read_as_it_was_written(tmp_path: Path, bits: int, mib: int) -> None:
    files = {name: data for name, data in content(60).items() if name != "large" and "many" not in name}
    files |= {f"EFI/debian/grub-{number:03d}-with-a-long-name.efi": bytes([number]) * 3000 for number in range(70)}
    image = making.fat(tmp_path / "fs", making.tree(tmp_path / "root", files), bits, mib)
    with raw.opened(image) as disk:
        system = fat.Fat(disk, Budget(LIMITS))
        found = {
            path.replace("/efi/", "/EFI/"): data for path, data in seen(system).items()
        }  # short names have no case
        assert found == {f"/{name}": data for name, data in files.items()}
        assert (system.label, system.uuid) == ("UEFI", "7B77-95E7")
        assert system.find("/efi/DEBIAN/grub-001-with-a-long-name.efi", 2) == b"\1\1"


def test_what_was_given_as_content_leaves_out_free_blocks_and_slack(tmp_path: Path) -> None:
    image = making.ext(tmp_path / "fs", making.tree(tmp_path / "root", {"kept": b"k" * 5000, "gone": b"g" * 5000}))
    making.debugfs(image, "rm /gone")
    _patch(image, image.read_bytes().index(b"k" * 5000) + 5000, b"slack")
    with raw.opened(image) as disk:
        system = ext.Ext(disk, Budget(LIMITS))
        assert list(seen(system)) == ["/kept"]
        left = b"".join(chunk for gap in raw.gaps(disk.size, system.read) for _, chunk in disk.pieces(gap))

    assert left.count(b"g" * 5000) == 1
    assert left.count(b"slack") == 1
    assert b"kk" not in left


def _patch(image: Path, at: int, data: bytes) -> None:
    with image.open("r+b") as file:
        file.seek(at)
        file.write(data)


def _loop(image: Path) -> None:
    making.debugfs(image, "link /d1 /d2/back")


def _slash(image: Path) -> None:
    data = image.read_bytes()
    _patch(image, data.index(b"f10\0"), b"f/0\0")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda image: _patch(image, 1024 + 96, b"\xc6\x02\0\0"), "cut off while it was written"),
        (lambda image: _patch(image, 1024 + 98, b"\x01"), "cannot be read here"),
        (lambda image: _patch(image, 1024 + 24, b"\xff"), "damaged superblock"),
        (lambda image: _patch(image, 1024 + 40, bytes(4)), "damaged superblock"),
        (_loop, "in two places"),
        (lambda image: making.debugfs(image, "sif /large block[0] 0"), "damaged extent"),
        (lambda image: making.debugfs(image, "sif /large block[5] 0xffffff0"), "in the wrong place"),
        (lambda image: making.debugfs(image, "sif /large flags 0x10080000"), "holds its content itself"),
        (lambda image: os.truncate(image, 1_000_000), "do not lie on a disk"),
    ],
    ids=["journal", "encrypted", "block size", "groups", "loop", "extent", "far away", "inline", "short"],
)
def test_damage_is_never_passed_over(tmp_path: Path, damage: Callable[[Path], object], why: str) -> None:
    image = making.ext(tmp_path / "fs", making.tree(tmp_path / "root", content(40)))
    damage(image)
    with raw.opened(image) as disk, pytest.raises(Unreadable, match=why):
        seen(ext.Ext(disk, Budget(LIMITS)))


def test_a_name_that_would_leave_its_folder_is_told_and_harmless(tmp_path: Path) -> None:
    image = making.ext(tmp_path / "fs", making.tree(tmp_path / "root", {"f10": b"x"}), 8, "-O", "^metadata_csum")
    _slash(image)
    with raw.opened(image) as disk:
        found = [file for file, _ in ext.Ext(disk, Budget(LIMITS)).walk() if file.is_hostile]

    assert [file.path for file in found] == ["/f%2f0"]


def test_bytes_at_random_end_in_an_error_or_an_end(tmp_path: Path) -> None:
    good = making.ext(tmp_path / "fs", making.tree(tmp_path / "root", content(40)), 8).read_bytes()
    some = random.Random(11)  # noqa: S311
    image = tmp_path / "bad"
    for _ in range(40):
        bad = bytearray(good)
        for _ in range(200):
            bad[some.randrange(1024, 600_000)] = some.randrange(256)
        image.write_bytes(bad)
        with raw.opened(image) as disk:
            try:
                for _, chunks in ext.Ext(disk, Budget(Limits(64 * 1024**2, 5000))).walk():
                    list(chunks)
            except Unreadable:
                continue


@pytest.mark.parametrize(("limits", "why"), [(Limits(100_000, 10**6), "larger than"), (Limits(10**9, 50), "more than")])
def test_limits_hold(tmp_path: Path, limits: Limits, why: str) -> None:
    image = making.ext(tmp_path / "fs", making.tree(tmp_path / "root", content(40)))
    with raw.opened(image) as disk, pytest.raises(Unreadable, match=why):
        seen(ext.Ext(disk, Budget(limits)))


def test_a_fat_whose_file_never_ends_is_an_error(tmp_path: Path) -> None:
    image = making.fat(tmp_path / "fs", making.tree(tmp_path / "root", {"a": b"x" * 50_000}), 16, 20)
    data = image.read_bytes()
    start = int.from_bytes(data[14:16], "little") * 512
    entry = int.from_bytes(data[start + 4 : start + 6], "little")
    assert entry == 3
    _patch(image, start + 4, b"\2\0")
    _patch(image, data.index(b"A          \x20") + 28, b"\xff\xff\xff\x7f")
    with raw.opened(image) as disk, pytest.raises(Unreadable, match="never ends"):
        seen(fat.Fat(disk, Budget(LIMITS)))


class TestPartitions:
    def test_a_gpt_names_each_part(self, tmp_path: Path) -> None:
        root = making.ext(tmp_path / "fs", making.tree(tmp_path / "root", {"a": b"x"}), 8)
        disk = making.gpt(tmp_path / "disk", [(making.BIOS_BOOT, b"GRUB"), (making.LINUX, root)])
        with raw.opened(disk) as whole:
            found = partitions.partitions(whole)
            assert [(part.number, part.is_loader) for part in found] == [(1, True), (2, False)]
            assert seen(ext.Ext(found[1].raw, Budget(LIMITS))) == {"/a": b"x"}

    def test_a_boot_record_does_too_and_a_bare_file_system_is_one(self, tmp_path: Path) -> None:
        root = making.ext(tmp_path / "fs", making.tree(tmp_path / "root", {"a": b"x"}), 8)
        for disk in (root, making.mbr(tmp_path / "disk", root)):
            with raw.opened(disk) as whole:
                (part,) = partitions.partitions(whole)
                assert seen(ext.Ext(part.raw, Budget(LIMITS))) == {"/a": b"x"}

    @pytest.mark.parametrize(
        ("at", "data", "why"),
        [
            (510, b"\0\0", "neither a partition table nor a file system"),
            (512, b"NOT", "has no header"),
            (512 + 81, b"\xff", "entries of"),
            (1024 + 40, b"\1", "checksums are wrong"),
            (512 + 24, b"\7", "checksums are wrong"),
            (446 + 4, b"\5", "extended partition"),
            (446 + 4, b"\0", "table is empty"),
        ],
    )
    def test_a_damaged_table_is_an_error(self, tmp_path: Path, at: int, data: bytes, why: str) -> None:
        disk = making.gpt(tmp_path / "disk", [(making.LINUX, b"x" * making.MIB)])
        _patch(disk, at, data)
        with raw.opened(disk) as whole, pytest.raises(Unreadable, match=why):
            partitions.partitions(whole)

    def test_a_part_beyond_the_end_is_an_error(self, tmp_path: Path) -> None:
        disk = making.mbr(
            tmp_path / "disk", making.ext(tmp_path / "fs", making.tree(tmp_path / "root", {"a": b"x"}), 8)
        )
        _patch(disk, 446 + 12, b"\xff\xff\xff\x7f")
        with raw.opened(disk) as whole, pytest.raises(Unreadable, match="does not lie on a disk"):
            partitions.partitions(whole)
