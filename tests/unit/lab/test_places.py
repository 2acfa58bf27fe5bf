"""The lab's folders: labs beside each other come and go without touching one another."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.fronts import owner_of
from lab.places import Places


@pytest.mark.parametrize("home", ["", "/tmp/some-lab"])  # noqa: S108 (nothing is written there)
def test_a_lab_on_one_platform_lies_beside_the_others(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.setenv("PHOENIX_LAB_HOME", home)
    usual = Places.find()
    ec2, vmware = usual.beside("ec2"), usual.beside("vmware")
    folders = [folder for places in (usual, ec2, vmware) for folder in (places.home, places.run)]
    assert not [
        (one, other)
        for number, places in enumerate((usual, ec2, vmware))
        for one in (places.home, places.run)
        for other in folders[: 2 * number] + folders[2 * number + 2 :]
        if one == other or one.is_relative_to(other)
    ]
    assert ec2.cache == usual.cache


def test_what_a_lab_makes_in_the_engine_is_told_apart_by_its_home() -> None:
    cache = Path("/cache")
    usual = Places(Path("/var/lib/phoenix-lab-ec2"), Path("/run/phoenix-lab-ec2"), cache)
    others = [Places(Path(home), Path(home) / "run", cache) for home in ("/tmp/a/home", "/tmp/b/home")]  # noqa: S108
    names = [owner_of(places, "ec2") for places in (usual, *others)]
    assert names[0] == "phoenix-labs-ec2"
    assert len(set(names)) == 3
