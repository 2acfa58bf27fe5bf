"""Gates that look into disks get copies, and nothing of them is left."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet.domain.errors import PhoenixError, TimedOut, Unavailable
from phoenix_fleet.domain.models import Artefact, Bounds, Disk, Subject
from phoenix_fleet.domain.verdicts import Measurement
from phoenix_fleet.gates.base import Gate
from phoenix_fleet.platforms.base import DiskImages
from phoenix_fleet.rollout import looking_into

ARTEFACT = Artefact("fake", "an image", "sha256:" + "1" * 64)


class Looking(Gate):
    """Says what is on the disks that it is shown."""

    bounds: Bounds | None = Bounds(1000, timedelta(seconds=5))

    @property
    def fetches(self) -> Bounds | None:
        return self.bounds

    def measure(self, subject: Subject) -> Measurement:
        return Measurement(" ".join(Path(disk.path).read_text() for disk in subject.disks) or "no disks", True)


class Disks(DiskImages):
    """A platform with one disk, or one that gives an error after it has begun."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.folder = Path()

    def copy_disks(self, artefact: Artefact, folder: Path, bounds: Bounds) -> tuple[Disk, ...]:
        self.folder = folder
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "disk").write_text(f"{artefact.reference}, at most {bounds.bytes}")
        if self.error:
            raise self.error
        return (Disk(str(folder / "disk"), "raw"),)


def gate(tmp_path: Path) -> Looking:
    return Looking(None, None, tmp_path)  # type: ignore[arg-type]  # it asks nobody


def test_a_gate_that_asks_sees_copies_which_are_gone_afterwards(tmp_path: Path) -> None:
    platform: Any = Disks()
    found = looking_into.measured(gate(tmp_path), Subject("x", str(tmp_path), artefact=ARTEFACT), lambda: platform)

    assert found.value == "an image, at most 1000"
    assert not platform.folder.exists()


@pytest.mark.parametrize(
    ("error", "expected"), [(TimedOut("late"), TimedOut), (OSError(28, "No space left on device"), Unavailable)]
)
def test_what_cannot_be_copied_is_an_error_and_leaves_nothing(
    tmp_path: Path, error: Exception, expected: type[PhoenixError]
) -> None:
    platform: Any = Disks(error)
    with pytest.raises(expected):
        looking_into.measured(gate(tmp_path), Subject("x", str(tmp_path), artefact=ARTEFACT), lambda: platform)

    assert platform.folder.name
    assert not platform.folder.exists()


def test_no_platform_is_asked_for_a_gate_that_looks_at_no_disk(tmp_path: Path) -> None:
    def never() -> Any:
        raise AssertionError("nobody should ask")

    plain = gate(tmp_path)
    plain.bounds = None
    assert looking_into.measured(plain, Subject("x", str(tmp_path), artefact=ARTEFACT), never).value == "no disks"
    assert looking_into.measured(gate(tmp_path), Subject("x", str(tmp_path)), never).value == "no disks"


def test_a_platform_without_disks_leaves_it_to_the_gate(tmp_path: Path) -> None:
    other: Any = object()
    found = looking_into.measured(gate(tmp_path), Subject("x", str(tmp_path), artefact=ARTEFACT), lambda: other)

    assert found.value == "no disks"
