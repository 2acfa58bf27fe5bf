"""Each break fits the project's files as they are now, and touches one file of a copy."""

from __future__ import annotations

import filecmp
from pathlib import Path

import pytest

from lab import breaks
from lab.places import REPOSITORY
from phoenix_fleet.domain.errors import InvalidConfig

INCLUDE = REPOSITORY / "include"


def files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and "phoenix_fleet" not in path.relative_to(folder).parts
    }


@pytest.mark.parametrize("name", sorted(breaks.BREAKS))
def test_a_break_changes_one_file_of_the_copy_at_most(name: str, tmp_path: Path) -> None:
    copy = tmp_path / "include"
    broken = breaks.make(name, INCLUDE, copy)
    assert files(copy) == files(INCLUDE)
    _, changed, errors = filecmp.cmpfiles(INCLUDE, copy, sorted(files(copy)), shallow=False)
    assert errors == []
    assert len(changed) == (0 if name == "release" else 1)
    assert broken.told
    assert broken.stops_at


def test_a_break_that_no_longer_fits_is_refused(tmp_path: Path) -> None:
    include = tmp_path / "include"
    home = include / "images" / "common"
    home.mkdir(parents=True)
    (home / "provision.sh").write_text("echo nothing\n")
    with pytest.raises(InvalidConfig, match="cannot break it"):
        breaks.make("build", include, tmp_path / "copy")
