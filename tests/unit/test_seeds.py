from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from datetime import date
from pathlib import Path

import pytest

from phoenix_fleet import cache, seeds
from phoenix_fleet.config import Seed
from phoenix_fleet.connections import Connection
from phoenix_fleet.dockercommand import DockerCommand
from phoenix_fleet.domain.errors import BuildFailed, InvalidConfig, Unavailable

DAY = date(2026, 11, 23)
SEED = Seed(suite="bookworm", include=("ca-certificates",))

MMDEBSTRAP = """#!/bin/sh
echo "$@" >>"$HOME/mmdebstrap.calls"
if [ -e "$HOME/archive-is-down" ]; then echo "E: cannot reach the archive" >&2; exit 1; fi
if [ -e "$HOME/slow" ]; then sleep 0.5; fi
for last; do :; done
echo "root file system" >"$last"
"""

# Holds images as files named after the reference; their content is the label.
DOCKER = """#!/bin/sh
echo "$@" >>"$HOME/docker.calls"
if [ -e "$HOME/engine-is-down" ]; then echo "Cannot connect to the Docker daemon" >&2; exit 1; fi
images=$HOME/images
mkdir -p "$images"
case "$1 $2" in
"version "*) echo 20.10 ;;
"image inspect")
    if [ ! -e "$images/$5" ]; then echo "No such image: $5" >&2; exit 1; fi
    cat "$images/$5" ;;
"image ls") ls "$images" | sed -n 's/^phoenix-seed://p' ;;
"image rm") rm "$images/$3" ;;
"import --change") echo "${3#LABEL phoenix.seed=}" >"$images/$5" ;;
"pull --quiet")
    if [ -e "$HOME/registry-is-down" ]; then echo "connection refused" >&2; exit 1; fi
    echo >"$images/$3" ;;
*) exit 64 ;;
esac
"""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with programs of our own on PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("mmdebstrap", MMDEBSTRAP), ("docker", DOCKER)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PHOENIX_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def docker(tmp_path: Path) -> DockerCommand:
    folder = tmp_path / "config"
    folder.mkdir()
    return DockerCommand(Connection("docker", "/run/docker.sock"), folder)


def calls(machine: Path, program: str) -> list[str]:
    file = machine / f"{program}.calls"
    return file.read_text().splitlines() if file.exists() else []


def quiet(_line: str) -> None:
    pass


def test_a_seed_is_made_once_a_day(machine: Path) -> None:
    tar = seeds.root_file_system(SEED, quiet, day=DAY)
    assert tar.read_text() == "root file system\n"
    assert seeds.root_file_system(SEED, quiet, day=DAY) == tar
    (call,) = calls(machine, "mmdebstrap")
    assert call.startswith("--variant=minbase ")
    assert "--include=ca-certificates bookworm " in call
    assert seeds.root_file_system(SEED, quiet, day=date(2026, 11, 24)) != tar
    assert len(calls(machine, "mmdebstrap")) == 2


def test_seeds_of_other_days_are_removed_and_other_recipes_kept(machine: Path) -> None:
    old = seeds.root_file_system(SEED, quiet, day=date(2026, 11, 20))
    other = seeds.root_file_system(Seed(suite="bookworm"), quiet, day=date(2026, 11, 20))
    new = seeds.root_file_system(SEED, quiet, day=DAY)
    assert (old.exists(), other.exists(), new.exists()) == (False, True, True)


def test_the_name_changes_with_all_that_goes_in() -> None:
    names = {
        seeds.name_of(SEED, DAY),
        seeds.name_of(SEED, date(2026, 11, 24)),
        seeds.name_of(Seed(suite="trixie", include=SEED.include), DAY),
        seeds.name_of(Seed(suite="bookworm", include=("ca-certificates", "python3")), DAY),
    }
    assert len(names) == 4
    swapped = [seeds.name_of(Seed(suite="bookworm", include=order), DAY) for order in (("a", "b"), ("b", "a"))]
    assert swapped[0] == swapped[1]


def test_a_seed_that_failed_says_why_and_is_never_used(machine: Path) -> None:
    (machine / "archive-is-down").touch()
    with pytest.raises(BuildFailed, match="cannot reach the archive") as failed:
        seeds.root_file_system(SEED, quiet, day=DAY)
    assert "try again" in failed.value.remedy
    (machine / "archive-is-down").unlink()
    assert seeds.root_file_system(SEED, quiet, day=DAY).read_text() == "root file system\n"


def test_what_a_killed_run_left_is_not_taken_for_a_seed(machine: Path) -> None:
    folder = machine / "cache" / "seeds"
    folder.mkdir(parents=True)
    part = folder / f"{seeds.name_of(SEED, DAY)}.0123abcd.part.tar"
    part.write_text("half a ro")
    assert seeds.root_file_system(SEED, quiet, day=DAY).read_text() == "root file system\n"
    assert not part.exists()


def test_two_at_once_make_one_seed(machine: Path) -> None:
    (machine / "slow").touch()
    made: list[Path] = []
    threads = [
        threading.Thread(target=lambda: made.append(seeds.root_file_system(SEED, quiet, day=DAY))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls(machine, "mmdebstrap")) == 1
    assert len(set(made)) == 1


MAKER = """
import datetime
from phoenix_fleet import cache, seeds
from phoenix_fleet.config import Seed
seeds.root_file_system(Seed(suite="bookworm", include=("ca-certificates",)), print, day=datetime.date(2026, 11, 23))
"""


def test_one_that_was_killed_does_not_keep_others_waiting(machine: Path) -> None:
    (machine / "slow").touch()
    env = {**os.environ, "PYTHONPATH": str(Path(seeds.__file__).parents[1])}
    maker = subprocess.Popen([sys.executable, "-c", MAKER], env=env)
    deadline = time.monotonic() + 20
    while not calls(machine, "mmdebstrap") and time.monotonic() < deadline:
        time.sleep(0.02)
    maker.kill()
    maker.wait()
    assert seeds.root_file_system(SEED, quiet, day=DAY).read_text() == "root file system\n"
    assert len(calls(machine, "mmdebstrap")) == 2


def test_a_cache_that_cannot_be_made_is_an_error_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOENIX_CACHE", "/dev/null/cache")
    with pytest.raises(InvalidConfig, match="Set PHOENIX_CACHE"):
        cache.cache_folder()


def test_an_engine_gets_the_seed_once(machine: Path, docker: DockerCommand) -> None:
    reference = seeds.docker_image(SEED, quiet, docker=docker, day=DAY)
    assert reference == f"phoenix-seed:{seeds.name_of(SEED, DAY)}"
    assert seeds.docker_image(SEED, quiet, docker=docker, day=DAY) == reference
    assert sum(call.startswith("import ") for call in calls(machine, "docker")) == 1


def test_an_image_that_only_bears_the_name_is_not_believed(machine: Path, docker: DockerCommand) -> None:
    (machine / "images").mkdir()
    (machine / "images" / f"phoenix-seed:{seeds.name_of(SEED, DAY)}").write_text("somebody's own\n")
    seeds.docker_image(SEED, quiet, docker=docker, day=DAY)
    assert sum(call.startswith("import ") for call in calls(machine, "docker")) == 1


def test_an_engine_forgets_our_older_seeds_and_nothing_else(machine: Path, docker: DockerCommand) -> None:
    images = machine / "images"
    old = seeds.docker_image(SEED, quiet, docker=docker, day=date(2026, 11, 20))
    other = seeds.docker_image(Seed(suite="trixie"), quiet, docker=docker, day=date(2026, 11, 20))
    foreign = f"phoenix-seed:{seeds.name_of(SEED, date(2026, 11, 19))}"
    (images / foreign).write_text("somebody's own\n")
    new = seeds.docker_image(SEED, quiet, docker=docker, day=DAY)
    assert {path.name for path in images.iterdir()} == {other, foreign, new}
    assert old not in {path.name for path in images.iterdir()}


def test_an_engine_that_does_not_answer_is_not_one_without_the_image(machine: Path, docker: DockerCommand) -> None:
    (machine / "engine-is-down").touch()
    with pytest.raises(Unavailable, match="does not answer"):
        seeds.docker_image(SEED, quiet, docker=docker, day=DAY)
    assert calls(machine, "mmdebstrap") == []


def test_an_image_by_digest_is_pulled_once(machine: Path, docker: DockerCommand) -> None:
    image = f"registry.example/debian@sha256:{'0' * 64}"
    (machine / "images" / "registry.example").mkdir(parents=True)
    for _ in range(2):
        assert seeds.docker_image(Seed(image=image), quiet, docker=docker) == image
    assert sum(call.startswith("pull ") for call in calls(machine, "docker")) == 1
    assert calls(machine, "mmdebstrap") == []


def test_a_registry_that_does_not_answer_may_be_tried_again(machine: Path, docker: DockerCommand) -> None:
    (machine / "registry-is-down").touch()
    with pytest.raises(Unavailable, match="connection refused"):
        seeds.docker_image(Seed(image=f"debian@sha256:{'0' * 64}"), quiet, docker=docker)


@pytest.mark.parametrize(
    ("connection", "host"),
    [
        (Connection("docker", "/run/docker.sock"), "unix:///run/docker.sock"),
        (Connection("docker", "unix:///run/docker.sock"), "unix:///run/docker.sock"),
        (Connection("docker", "var/run/docker.sock"), "unix:///var/run/docker.sock"),
        (Connection("docker", "127.0.0.1", 2375), "tcp://127.0.0.1:2375"),
        (Connection("docker", "build.example", extra={"ca_cert": "/ca"}), "tcp://build.example:2376"),
    ],
)
def test_where_the_engine_is(tmp_path: Path, connection: Connection, host: str) -> None:
    assert DockerCommand(connection, tmp_path).env["DOCKER_HOST"] == host


def test_a_far_engine_is_reached_with_its_certificates_or_not_at_all(tmp_path: Path) -> None:
    files = {"ca_cert": "/etc/ca", "client_cert": "/etc/cert", "client_key": "/etc/key"}
    env = DockerCommand(Connection("docker", "build.example", extra=files), tmp_path).env
    assert (env["DOCKER_TLS_VERIFY"], env["DOCKER_CERT_PATH"]) == ("1", str(tmp_path))
    links = {name: os.readlink(tmp_path / name) for name in ("ca.pem", "cert.pem", "key.pem")}
    assert links == {"ca.pem": "/etc/ca", "cert.pem": "/etc/cert", "key.pem": "/etc/key"}
    for connection in (Connection("docker", "build.example"), Connection("docker", "")):
        with pytest.raises(InvalidConfig):
            DockerCommand(connection, tmp_path)
