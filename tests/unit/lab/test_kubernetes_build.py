"""Kubernetes' programs in the cache: built once, whole or not at all, from the version that is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import kubernetes_build, roots
from lab.kubernetes_build import PAUSE, PROGRAMS, VERSION, build
from phoenix_fleet.domain.errors import Unavailable

TARGETS = (
    "Nodesource nodistro main https://n\nDebian bookworm-updates main http://u\nDebian bookworm main http://mirror\n"
)


class Tools:
    """APT, dpkg-source, make and gcc, as far as the build calls them."""

    def __init__(self) -> None:
        self.version, self.targets = VERSION, TARGETS
        self.made: list[list[str]] = []
        self.sources = ""

    def run(self, *argv: str | Path) -> str:
        if argv[:2] == ("apt-get", "indextargets"):
            return self.targets
        if argv[0] == "dpkg-source":
            (Path(argv[-1]) / "_output" / "real").mkdir(parents=True)
        if argv[0] == "gcc":
            Path(argv[argv.index("-o") + 1]).touch()
        return ""

    def run_in(self, argv: list[str], folder: Path, env: dict[str, str] | None = None) -> None:
        if argv[0] == "apt-get":
            self.sources = (folder / "sources.list").read_text()
            (folder / f"kubernetes_{self.version}-1.dsc").touch()
            return
        self.made.append(argv)
        assert env is not None
        assert env["GOPROXY"] == "off"
        for program in PROGRAMS:
            (folder / "_output" / "real" / program).write_text(program)
        (folder / "_output" / "bin").symlink_to(folder / "_output" / "real")


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Tools:
    tools = Tools()
    monkeypatch.setattr(roots, "run", tools.run)
    monkeypatch.setattr(kubernetes_build, "_run", tools.run_in)
    return tools


def test_it_is_built_once_and_nothing_but_the_programs_stays(tools: Tools, tmp_path: Path) -> None:
    folder = build(tmp_path, print)
    assert sorted(each.name for each in folder.iterdir()) == sorted([*PROGRAMS, PAUSE])
    assert [(folder / each).read_text() for each in PROGRAMS] == list(PROGRAMS)
    assert build(tmp_path, print) == folder
    assert tools.made == [["make", f"WHAT={' '.join(f'cmd/{program}' for program in PROGRAMS)}"]]
    assert tools.sources.endswith("http://mirror bookworm main\n")


def test_another_version_is_not_taken_for_this_one(tools: Tools, tmp_path: Path) -> None:
    tools.version = "1.32.3"
    with pytest.raises(Unavailable, match=rf"kubernetes_1\.32\.3-1\.dsc and not {VERSION}"):
        build(tmp_path, print)
    tools.version = VERSION
    assert (build(tmp_path, print) / PAUSE).exists()


def test_a_machine_without_that_debian_is_told_so(tools: Tools, tmp_path: Path) -> None:
    tools.targets = "Ubuntu noble main http://u\n"
    with pytest.raises(Unavailable, match="knows no Debian bookworm"):
        build(tmp_path, print)


def test_what_the_build_says_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="the last words"):
        kubernetes_build._run(["sh", "-c", "echo the last words; exit 1"], tmp_path)
    with pytest.raises(Unavailable, match="There is no no-such-program"):
        kubernetes_build._run(["no-such-program"], tmp_path)
