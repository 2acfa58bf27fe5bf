from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet import packer
from phoenix_fleet.config import Build, Driver, ImageFamily, Seed, Target
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import BuildFailed, InvalidConfig, Unavailable
from phoenix_fleet.domain.windows import Version

VERSION = Version.parse("2026.11-1")
PASSWORD = "hunter2-of-the-registry"

# Notes what it was given, says what $HOME/says holds, and ends as $HOME/ends says.
PACKER = """#!/bin/sh
echo "$@" >"$HOME/packer.argv"
env >"$HOME/packer.env"
for variables in "$@"; do case $variables in -var-file=*) variables=${variables#-var-file=}; break ;; esac; done
cp -p "$variables" "$HOME/packer.variables"
stat -c %a "$variables" >"$HOME/packer.mode"
ls -ld "$(dirname "$variables")" | cut -c1-10 >>"$HOME/packer.mode"
id=$(sed 's/.*"build_id": "\\([^"]*\\)".*/\\1/' "$variables")
mkdir -p "$HOME/containers"
echo "$id 99999999999" >"$HOME/containers/phoenix-build-$id"
trap 'rm -f "$HOME/containers/phoenix-build-$id"; echo cleaned >"$HOME/packer.cleaned"; exit 1' TERM
cat "$HOME/says"
if [ -e "$HOME/hangs" ]; then touch "$HOME/packer.started"; sleep 60 & wait; fi
if [ -e "$HOME/dies" ]; then kill -9 $$; fi
rm "$HOME/containers/phoenix-build-$id"
manifest=$(sed 's/.*"manifest": "\\([^"]*\\)".*/\\1/' "$variables")
if [ -e "$HOME/manifest" ]; then cp "$HOME/manifest" "$manifest"; fi
exit "$(cat "$HOME/ends")"
"""

# Containers are files named after the container, which hold the values of the two labels.
DOCKER = """#!/bin/sh
if [ -e "$HOME/engine-is-down" ]; then echo "Cannot connect to the Docker daemon" >&2; exit 1; fi
case "$1 $2" in
"version "*) echo 20.10 ;;
"image inspect") echo "${5#phoenix-seed:}" ;;
"container ls")
    cd "$HOME/containers" || exit
    for name in *; do echo "$name $(cat "$name")"; done ;;
"container rm") rm "$HOME/containers/$5" ;;
*) exit 64 ;;
esac
"""

SAYS = r"""1795461827,,ui,say,==> docker.debian: Starting docker container...
1795461828,,ui,message,    docker.debian: hello%!(PACKER_COMMA) world\nsecond line
not machine-readable
1795461828,,ui,error,==> docker.debian: the password is hunter2-of-the-registry
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a packer and a docker of our own on PATH, which all goes well with."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("packer", PACKER), ("docker", DOCKER)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PHOENIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AIRFLOW_CONN_SOMETHING", f"http://me:{PASSWORD}@there")
    for folder in ("containers", "work", "family/packer"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "family" / "packer" / "docker.pkr.hcl").write_text("# a template\n")
    (tmp_path / "says").write_text(SAYS)
    (tmp_path / "ends").write_text("0")
    (tmp_path / "manifest").write_text(json.dumps({"builds": [{"artifact_id": "127.0.0.1:5000/base:2026.11-1"}]}))
    return tmp_path


@pytest.fixture
def registry() -> Iterator[Connection]:
    """Something that listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield Connection("registry", "127.0.0.1", listening.getsockname()[1], "builder", PASSWORD)


@pytest.fixture
def build(home: Path, registry: Connection) -> Any:
    """Builds, and gives back what was logged."""

    def run(connection: Connection = registry, log: Any = None, **changed: Any) -> list[str]:
        lines: list[str] = []
        known = {"registry": connection, "docker": Connection("docker", "/run/docker.sock")}
        packer.build(
            family(home / "family"),
            target(**changed),
            VERSION,
            known.__getitem__,
            workdir=home / "work",
            log=log or lines.append,
        )
        return lines

    return run


def family(folder: Path) -> ImageFamily:
    made = ImageFamily.model_construct(family="base")
    object.__setattr__(made, "_home", folder)
    made.__pydantic_private__ = {"_home": folder}
    return made


def target(**changed: Any) -> Target:
    usual: dict[str, Any] = {"template": "packer/docker.pkr.hcl", "seed": Seed(suite="bookworm")}
    return Target.model_construct(
        platform=Driver(name="docker", settings={"network": "x"}), build=Build(**{**usual, **changed})
    )


def containers(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "containers").iterdir())


class TestLine:
    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("1,,ui,say,a%!(PACKER_COMMA) b", packer.Line("", "ui", ("say", "a, b"))),
            (r"1,docker.x,error,one\ntwo\r\n", packer.Line("docker.x", "error", ("one\ntwo\n",))),
            ("1,docker.x,artifact,0,id,sha256:1", packer.Line("docker.x", "artifact", ("0", "id", "sha256:1"))),
            ("1,,error-count,", packer.Line("", "error-count", ("",))),
            ("1,,end", packer.Line("", "end", ())),
        ],
    )
    def test_a_line_is_taken_apart(self, text: str, line: packer.Line) -> None:
        assert packer.Line.parse(text) == line

    @pytest.mark.parametrize("text", ["", "Error: no such file", "x,y,z", "a, b, c, d", "1,2"])
    def test_what_is_no_such_line_is_none(self, text: str) -> None:
        assert packer.Line.parse(text) is None


class TestBuild:
    def test_what_packer_says_is_logged_line_by_line_without_secrets(self, home: Path, build: Any) -> None:
        lines = build()
        assert "==> docker.debian: Starting docker container..." in lines
        assert "    docker.debian: hello, world" in lines
        assert "second line" in lines
        assert "not machine-readable" in lines
        assert "==> docker.debian: the password is ***" in lines
        assert lines[-1] == "build: 127.0.0.1:5000/base:2026.11-1 is in the registry"
        kept = (home / "work" / "packer.log").read_text()
        assert "hello, world" in kept
        assert PASSWORD not in kept + "".join(lines)

    def test_the_template_gets_what_it_needs(self, home: Path, build: Any, registry: Connection) -> None:
        build()
        variables = json.loads((home / "packer.variables").read_text())
        assert variables["seed"].startswith("phoenix-seed:bookworm-")
        assert {name: variables[name] for name in ("family", "version", "repository", "registry")} == {
            "family": "base",
            "version": "2026.11-1",
            "repository": "base",
            "registry": f"127.0.0.1:{registry.port}",
        }
        assert (variables["registry_login"], variables["registry_user"]) == (True, "builder")
        assert variables["registry_password"] == PASSWORD
        assert variables["build_id"].startswith("base-2026.11-1-")
        build(repository="images/base")
        again = json.loads((home / "packer.variables").read_text())
        assert again["repository"] == "images/base"
        assert again["build_id"] != variables["build_id"]

    def test_secrets_are_neither_arguments_nor_environment(self, home: Path, build: Any) -> None:
        build()
        arguments = (home / "packer.argv").read_text()
        environment = (home / "packer.env").read_text()
        assert PASSWORD not in arguments + environment
        assert (home / "packer.mode").read_text().split() == ["600", "drwx------"]
        assert "CHECKPOINT_DISABLE=1" in environment
        assert "DOCKER_HOST=unix:///run/docker.sock" in environment
        cache = next(line for line in environment.splitlines() if line.startswith("PACKER_CACHE_DIR="))
        assert str(home / "work") in cache

    def test_nothing_but_the_log_is_left(self, home: Path, build: Any) -> None:
        build()
        assert [path.name for path in (home / "work").iterdir()] == ["packer.log"]
        assert containers(home) == []

    def test_private_folders_of_killed_builds_are_removed_once_they_are_old(self, home: Path, build: Any) -> None:
        old, young = home / "work" / "packer-old", home / "work" / "packer-young"
        for folder in (old, young):
            folder.mkdir()
        os.utime(old, (1, 1))
        build()
        assert (old.exists(), young.exists()) == (False, True)

    def test_those_of_earlier_tries_too(self, home: Path, build: Any) -> None:
        left, foreign = home / "try-1" / "packer-old", home / "other" / "packer-old"
        for folder in (left, foreign):
            folder.mkdir(parents=True)
            os.utime(folder, (1, 1))
        build()
        assert (left.exists(), foreign.exists()) == (False, True)

    def test_a_sweep_by_itself_takes_the_same(self, home: Path, build: Any) -> None:
        past = int(time.time()) - 10
        (home / "containers" / "phoenix-build-a-1").write_text(f"a-1 {past}")
        (home / "containers" / "phoenix-build-b-1").write_text(f"b-1 {past + 3600}")
        connections = {"docker": Connection("docker", "/run/docker.sock")}
        packer.sweep(target(), connections.__getitem__, print)
        assert containers(home) == ["phoenix-build-b-1"]
        (home / "engine-is-down").touch()
        with pytest.raises(Unavailable, match="sweep builds"):
            packer.sweep(target(), connections.__getitem__, print)

    def test_a_failure_says_what_failed(self, home: Path, build: Any) -> None:
        (home / "says").write_text(
            SAYS + "1,,ui,error,==> docker.debian: E: no such package\n"
            rf"1,docker.debian,error,Script exited with {PASSWORD}\n"
        )
        (home / "ends").write_text("1")
        with pytest.raises(BuildFailed) as failed:
            build()
        text = str(failed.value)
        assert "exit code 1" in text
        assert "Script exited with ***" in text
        assert "E: no such package" in text
        assert "Mend what packer/ does there" in failed.value.remedy
        assert PASSWORD not in text
        assert containers(home) == []

    @pytest.mark.parametrize("manifest", [None, "", "{", '{"builds": []}', '{"builds": [{"artifact_id": ""}]}', "[]"])
    def test_success_without_an_artefact_is_a_failure(self, home: Path, build: Any, manifest: str | None) -> None:
        (home / "manifest").unlink()
        if manifest is not None:
            (home / "manifest").write_text(manifest)
        with pytest.raises(BuildFailed, match="names no artefact"):
            build()

    def test_too_long_is_stopped_and_leaves_nothing(self, home: Path, build: Any) -> None:
        (home / "hangs").touch()
        with pytest.raises(BuildFailed, match="longer than") as failed:
            build(timeout=timedelta(seconds=1))
        assert "raise build.timeout" in failed.value.remedy
        assert (home / "packer.cleaned").exists()
        assert containers(home) == []

    def test_a_packer_that_was_killed_is_cleaned_up_after(self, home: Path, build: Any) -> None:
        (home / "dies").touch()
        (home / "containers" / "phoenix-build-foreign").write_text("foreign 99999999999")
        with pytest.raises(BuildFailed, match="signal 9"):
            build()
        assert containers(home) == ["phoenix-build-foreign"]

    def test_an_exception_in_the_log_leaves_nothing(self, home: Path, build: Any) -> None:
        (home / "hangs").touch()

        def fail(line: str) -> None:
            if "hello" in line:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build(log=fail)
        assert (home / "packer.cleaned").exists()
        assert containers(home) == []
        assert [path.name for path in (home / "work").iterdir()] == ["packer.log"]

    def test_orphans_of_ours_past_their_time_are_swept_and_nothing_else(self, home: Path, build: Any) -> None:
        past = int(time.time()) - 10
        for name, labels in (
            ("phoenix-build-a-1", f"a-1 {past}"),
            ("phoenix-build-b-1", f"b-1 {past + 3600}"),  # at it still
            ("phoenix-build-c-1", f"other {past}"),  # a look-alike name
            ("somebody", f"somebody {past}"),
            ("web-01-abcdef01", f"web-01-abcdef01 {past}"),
            ("phoenix-build-d-1", "d-1 soon"),
            ("phoenix-build-e-1", f" {past}"),  # born from an image, so without the label's value
        ):
            (home / "containers" / name).write_text(labels)
        build()
        assert "phoenix-build-a-1" not in containers(home)
        assert len(containers(home)) == 6

    def test_a_registry_that_does_not_answer_is_found_out_before_the_build(self, home: Path, build: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
            build(Connection("registry", "127.0.0.1", port))
        assert not (home / "packer.argv").exists()

    def test_an_engine_that_does_not_answer_is_found_out_before_the_build(self, home: Path, build: Any) -> None:
        (home / "engine-is-down").touch()
        with pytest.raises(Unavailable, match="Docker engine"):
            build()
        assert not (home / "packer.argv").exists()

    @pytest.mark.parametrize("template", ["packer/other.pkr.hcl", "../work", "/etc/passwd", "packer"])
    def test_a_template_outside_the_family_or_missing_is_refused(self, build: Any, template: str) -> None:
        with pytest.raises(InvalidConfig, match=r"build\.template"):
            build(template=template)

    def test_without_packer_the_error_says_so(self, home: Path, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        (home / "bin" / "packer").unlink()
        # Debian's own, if there is one, must not be found either.
        programs = home / "few"
        programs.mkdir()
        for name in ("setpriv", "sh", "cat", "env", "rm", "sed", "ls", "stat", "mkdir", "touch"):
            (programs / name).symlink_to(shutil.which(name) or "/nonexistent")
        monkeypatch.setenv("PATH", f"{home / 'bin'}:{programs}")
        with pytest.raises(InvalidConfig, match="'packer' is not installed"):
            build()


CALLER = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
import test_packer as helpers
from phoenix_fleet import packer
from phoenix_fleet.connections import Connection
home = Path(sys.argv[3])
known = {"registry": Connection("registry", "127.0.0.1", int(sys.argv[4])), "docker": Connection("docker", "/run/x")}
packer.build(helpers.family(home / "family"), helpers.target(), helpers.VERSION, known.__getitem__,
             workdir=home / "work", log=print)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_build_that_is_killed_leaves_no_container(home: Path, registry: Connection, number: signal.Signals) -> None:
    (home / "hangs").touch()
    tests, package = str(Path(__file__).parent), str(Path(packer.__file__).parents[1])
    caller = subprocess.Popen([sys.executable, "-c", CALLER, tests, package, str(home), str(registry.port)])
    wait_for(lambda: (home / "packer.started").exists())
    assert containers(home)
    caller.send_signal(number)
    assert caller.wait(timeout=20) in (-number, 1, 128 + number)
    wait_for(lambda: (home / "packer.cleaned").exists())
    wait_for(lambda: not containers(home))


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
