"""What goes into an image, as one fingerprint."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from phoenix_fleet import packer
from tests.unit.test_packer import family


class TestFingerprint:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "family"
        (folder / "packer").mkdir(parents=True)
        (folder / "image.yaml").write_text("family: base\n")
        (folder / "packer" / "provision.sh").write_text("true\n")
        (folder / "packer" / "link").symlink_to("provision.sh")
        return folder

    def test_it_is_the_same_in_every_checkout(self, folder: Path, tmp_path: Path) -> None:
        before = packer.inputs_fingerprint(family(folder))
        copy = tmp_path / "elsewhere"
        shutil.copytree(folder, copy, symlinks=True)
        for path in copy.rglob("*"):
            if not path.is_symlink():
                os.utime(path, (1, 1))
                path.chmod(0o775 if path.is_dir() else 0o664)
        assert packer.inputs_fingerprint(family(copy)) == before

    def test_caches_do_not_count(self, folder: Path) -> None:
        before = packer.inputs_fingerprint(family(folder))
        for name in ("checks/__pycache__/x.py", ".pytest_cache/README.md", "packer/x.pyc"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("cache")
        assert packer.inputs_fingerprint(family(folder)) == before

    def test_whatever_goes_into_an_image_counts(self, folder: Path) -> None:
        seen = {packer.inputs_fingerprint(family(folder))}

        def changed() -> None:
            before = len(seen)
            seen.add(packer.inputs_fingerprint(family(folder)))
            assert len(seen) == before + 1

        (folder / "packer" / "provision.sh").write_text("false\n")
        changed()
        (folder / "packer" / "provision.sh").chmod(0o755)
        changed()
        (folder / "packer" / "provision.sh").rename(folder / "packer" / "provision2.sh")
        changed()
        (folder / "empty").touch()
        changed()
        (folder / "packer" / "link").unlink()
        (folder / "packer" / "link").symlink_to("provision2.sh")
        changed()
        (folder / "linked").symlink_to("packer")
        changed()
        (folder / "empty").unlink()
        (folder / "image.yaml").write_text("family: base\nempty")
        changed()
