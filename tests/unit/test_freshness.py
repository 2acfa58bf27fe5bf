from __future__ import annotations

import os
from pathlib import Path

import pytest

from phoenix_fleet import freshness
from phoenix_fleet.domain.errors import Unavailable

NONE = "Reading package lists...\n0 upgraded, 0 newly installed, 0 to remove and 0 not upgraded.\n"
SOME = """\
Reading package lists...
The following packages will be upgraded:
  libexpat1 openssl
Inst openssl [3.0.1-1] (3.0.2-1 Debian-Security:12/stable-security [amd64]) []
Inst libexpat1 [2.5.0-1] (2.5.0-1+deb12u1 Debian:12/stable [amd64])
Inst libnew1 (1.0 Debian:12/stable [amd64])
Remv libold0 [0.9]
Conf openssl (3.0.2-1 Debian-Security:12/stable-security [amd64])
2 upgraded, 1 newly installed, 1 to remove and 0 not upgraded.
"""

APT = """#!/bin/sh
echo "$@" >>"$HOME/apt.calls"
case $* in
*" update")
    if [ -e "$HOME/archive-is-down" ]; then echo "E: Failed to fetch" >&2; exit 100; fi
    for option; do case $option in Dir::State::Lists=*) echo lists >"${option#*=}/list" ;; esac; done ;;
*) cat "$HOME/answer" ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine, with an apt-get of our own."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "apt-get").write_text(APT)
    (programs / "apt-get").chmod(0o755)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "answer").write_text(NONE)
    return tmp_path


def test_an_instance_that_has_everything_has_nothing_pending(machine: Path) -> None:
    assert freshness.pending_upgrades("local://") == []


def test_upgrades_new_and_removed_packages_are_named(machine: Path) -> None:
    (machine / "answer").write_text(SOME)
    assert freshness.pending_upgrades("local://") == [
        "libexpat1: 2.5.0-1 → 2.5.0-1+deb12u1",
        "libnew1: 1.0 (new)",
        "libold0: removed",
        "openssl: 3.0.1-1 → 3.0.2-1",
    ]


def test_the_archive_is_asked_and_the_instance_is_left_as_it_was(machine: Path) -> None:
    freshness.pending_upgrades("local://")
    update, simulate = (machine / "apt.calls").read_text().splitlines()
    assert "APT::Update::Error-Mode=any" in update
    assert simulate.endswith("--simulate full-upgrade")
    for call in (update, simulate):
        assert f"Dir::State::Lists={machine / 'tmp'}{os.sep}" in call
    assert list((machine / "tmp").iterdir()) == []


def test_an_archive_that_does_not_answer_is_not_one_without_upgrades(machine: Path) -> None:
    (machine / "archive-is-down").touch()
    with pytest.raises(Unavailable, match="Failed to fetch"):
        freshness.pending_upgrades("local://")
    assert list((machine / "tmp").iterdir()) == []


def test_an_instance_that_is_not_there_is_unavailable(machine: Path) -> None:
    with pytest.raises(Unavailable):
        freshness.pending_upgrades("docker://phoenix-no-such-container")
    with pytest.raises(Unavailable):
        freshness.pending_upgrades("no-such-backend://x")


@pytest.mark.parametrize(
    "output",
    [
        "",
        "Reading package lists...\n",
        SOME.replace("2 upgraded", "3 upgraded"),
        NONE.replace("0 to remove", "1 to remove"),
    ],
    ids=["nothing", "no summary", "an upgrade that is not named", "a removal that is not named"],
)
def test_what_cannot_be_read_is_never_none(output: str) -> None:
    with pytest.raises(Unavailable, match="cannot be read"):
        freshness.parsed(output)
