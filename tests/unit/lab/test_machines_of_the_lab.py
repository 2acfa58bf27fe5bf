"""What the lab's virtual machines are made of: an archive for a kernel, modules in order, a kernel unpacked."""

from __future__ import annotations

import lzma
import threading
import time
from pathlib import Path

import pytest

from lab import initrd, roots
from phoenix_fleet.domain.errors import Unavailable


def quiet(_: str) -> None:
    pass


def entries(content: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content of everything in an archive, read as the kernel does."""
    found, at = {}, 0
    while True:
        assert content[at : at + 6] == b"070701"
        fields = [int(content[at + 6 + 8 * number : at + 14 + 8 * number], 16) for number in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = content[at + 110 : at + 110 + length - 1].decode()
        begin = (at + 110 + length + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, content[begin : begin + size])
        at = (begin + size + 3) // 4 * 4


class TestInitrd:
    def test_an_archive_is_read_back_whole(self) -> None:
        told = [("a", 0o100644, b"1"), ("folder", 0o040755, b""), ("folder/bcd", 0o100600, b"12345")]

        assert entries(initrd.archive(told)) == {name: (mode, content) for name, mode, content in told}

    def test_modules_keep_their_order_and_what_is_given_is_for_root_alone(self) -> None:
        modules = [b"%d" % number for number in range(12)]
        found = entries(initrd.build(b"busybox", modules, {"host_key": b"secret"}))

        assert [found[name][1] for name in sorted(found) if name.endswith(".ko")] == modules
        assert found["given/host_key"] == (0o100600, b"secret")
        assert found["init"][0] == 0o100755

    def test_images_come_along(self) -> None:
        found = entries(initrd.build(b"", [], images={"a.qcow2": b"image"}))

        assert found["images/a.qcow2"][1] == b"image"

    def test_nothing_is_given_unless_asked_for(self) -> None:
        assert not [name for name in entries(initrd.build(b"", [])) if name.startswith(("given", "images"))]


class TestKernel:
    def test_modules_come_after_what_they_need(self, tmp_path: Path) -> None:
        needs = {"ext4": "jbd2,mbcache", "jbd2": "crc-x", "mbcache": "", "crc_x": "", "other": ""}
        known = {}
        for name, depends in needs.items():
            known[name] = tmp_path / f"{name}.ko"
            known[name].write_bytes(b"\x7fELF\0license=GPL\0depends=" + depends.encode() + b"\0name=x\0")

        assert roots.ordered(known, ["ext4", "mbcache"]) == ["crc_x", "jbd2", "mbcache", "ext4"]
        with pytest.raises(Unavailable, match="nothing"):
            roots.ordered(known, ["nothing"])

    def test_a_kernel_is_unpacked(self) -> None:
        payload = lzma.compress(b"vmlinux", lzma.FORMAT_XZ) + (7).to_bytes(4, "little")
        image = bytearray(5 * 512 + 100) + payload
        image[0x1F1] = 4
        image[0x248:0x250] = (100).to_bytes(4, "little") + len(payload).to_bytes(4, "little")

        assert roots.unpacked(bytes(image)) == b"vmlinux"
        with pytest.raises(Unavailable, match="XZ"):
            roots.unpacked(bytes(image).replace(b"7zXZ", b"zstd"))


class TestCache:
    def test_each_recipe_is_made_once_and_the_one_before_goes(self, tmp_path: Path) -> None:
        made: list[Path] = []

        def make(folder: Path) -> None:
            made.append(folder)
            (folder / "file").write_text("x")

        first = roots.cached(tmp_path, "guest", 1, make, quiet)
        other = roots.cached(tmp_path, "guest-2026.11-1-good", 1, make, quiet)
        assert roots.cached(tmp_path, "guest", 1, make, quiet) == first
        second = roots.cached(tmp_path, "guest", 2, make, quiet)

        assert len(made) == 3
        assert not first.exists()
        assert (second / "file").exists()
        assert (other / "file").exists()

    def test_what_failed_is_never_used(self, tmp_path: Path) -> None:
        def fail(folder: Path) -> None:
            (folder / "half").write_text("x")
            raise Unavailable("no")

        with pytest.raises(Unavailable):
            roots.cached(tmp_path, "guest", 1, fail, quiet)

        found = roots.cached(tmp_path, "guest", 1, lambda folder: (folder / "whole").touch(), quiet)
        assert [each.name for each in found.iterdir()] == ["whole"]

    def test_two_at_once_make_one(self, tmp_path: Path) -> None:
        made: list[Path] = []

        def make(folder: Path) -> None:
            time.sleep(0.1)
            made.append(folder)

        threads = [threading.Thread(target=roots.cached, args=(tmp_path, "guest", 1, make, quiet)) for _ in range(3)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert len(made) == 1

    def test_a_program_that_fails_is_told_with_its_words(self) -> None:
        with pytest.raises(Unavailable, match="No such file"):
            roots.run("ls", "/nowhere")
        with pytest.raises(Unavailable, match="There is no"):
            roots.run("phoenix-no-such-program")
