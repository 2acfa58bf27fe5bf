"""The Dockerfile, built for real on a base made here, and the project working inside it without any network.

The base stands in for Astro Runtime: Debian 12, Python, the user astro and /usr/local/airflow. It carries every locked
wheel and a pip configuration that knows nothing else, so the build proves that the lock is complete.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = uuid.uuid4().hex[:8]
SEED, BASE, ONBUILD = (f"phoenix-test/astro-{name}:{RUN}" for name in ("seed", "base", "onbuild"))
IMAGE, IMAGE_ONBUILD = f"phoenix-test/airflow:{RUN}", f"phoenix-test/airflow:{RUN}-onbuild"

BASE_DOCKERFILE = f"""
FROM {SEED}
COPY wheels /opt/wheels
RUN useradd --uid 50000 --gid 0 --create-home astro \\
    && install -d -o astro -g 0 -m 775 /usr/local/airflow \\
    && python3 -m venv /opt/venv \\
    && printf '[global]\\nno-index = true\\nfind-links = /opt/wheels\\n' > /etc/pip.conf
ENV PATH=/opt/venv/bin:$PATH AIRFLOW_HOME=/usr/local/airflow
WORKDIR /usr/local/airflow
USER astro
"""

ONBUILD_DOCKERFILE = f"""
FROM {IMAGE}
ONBUILD COPY packages.txt .
ONBUILD USER root
ONBUILD RUN test -s packages.txt
ONBUILD COPY requirements.txt .
ONBUILD RUN pip install --no-cache-dir -r requirements.txt
ONBUILD USER astro
ONBUILD COPY --chown=astro:0 . .
"""

pytestmark = [pytest.mark.docker, pytest.mark.e2e]


def run(*argv: str, seconds: int = 900) -> str:
    """What the command printed; if it fails, the end of that as the test's message."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds, cwd=ROOT, check=False)
    assert done.returncode == 0, f"{argv[0]} {argv[1]}: {(done.stdout + done.stderr)[-4000:]}"
    return done.stdout


def in_image(*argv: str, image: str = IMAGE, options: tuple[str, ...] = ()) -> str:
    """What the command printed inside a container of the image that reaches nothing."""
    return run("docker", "run", "--rm", "--network", "none", *options, image, *argv)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image of the Dockerfile on the stand-in base."""
    folder = tmp_path_factory.mktemp("image")
    try:
        _make_base(folder)
        run("docker", "build", "--network", "host", "--build-arg", f"BASE_IMAGE={BASE}", "-t", IMAGE, ".")
        yield IMAGE
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for tag in (IMAGE_ONBUILD, ONBUILD, IMAGE, BASE, SEED):
            subprocess.run(["docker", "image", "rm", "--force", tag], capture_output=True, check=False)


def _make_base(folder: Path) -> None:
    wheels, seed, log = folder / "wheels", folder / "seed.tar", folder / "download.log"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
           "--python-version=3.11", "--only-binary=:all:", "--dest", str(wheels)]  # fmt: skip
    # libvirt's library exists as source alone, and what builds it is no part of the lock
    locked = [*pip, "--require-hashes", "--no-binary=libvirt-python", "-r", "requirements.txt"]
    with log.open("wb") as told:
        download = subprocess.Popen(locked, cwd=ROOT, stdout=told, stderr=subprocess.STDOUT)
    run(*pip, "setuptools")
    packages = "ca-certificates,python3,python3-venv,python3-dev"
    run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}", "bookworm", str(seed))
    assert download.wait(timeout=600) == 0, f"the locked packages could not be downloaded: {log.read_text()[-4000:]}"
    run("docker", "import", str(seed), SEED)
    (folder / "Dockerfile").write_text(BASE_DOCKERFILE)
    run("docker", "build", "-t", BASE, str(folder))
    seed.unlink()


def test_it_runs_as_astro_and_cannot_change_its_own_code(image: str) -> None:
    config = json.loads(run("docker", "image", "inspect", image))[0]["Config"]
    assert config["User"] == "astro"
    assert in_image("id", "-un").strip() == "astro"
    script = "import os; print([p for p in ('include', 'dags', 'include/phoenix_fleet/cli.py') if os.access(p, 2)])"
    assert in_image("python", "-c", script).strip() == "[]"


def test_everything_that_is_locked_is_installed_and_agrees(image: str) -> None:
    assert "No broken requirements" in in_image("pip", "check")
    assert in_image("airflow", "version").strip().splitlines()[-1] == "3.3.2"
    for program in ("git", "ssh", "packer", "docker", "skopeo", "mmdebstrap", "ansible-playbook", "phoenix"):
        assert in_image("which", program).strip(), program


def test_the_projects_files_are_sound_and_its_dags_load(image: str) -> None:
    assert "no mistakes" in in_image("phoenix", "validate")
    script = (
        "import json; from airflow.dag_processing.dagbag import DagBag; bag = DagBag('/usr/local/airflow/dags');"
        "print(json.dumps([bag.import_errors, sorted(bag.dags)]))"
    )
    errors, dags = json.loads(in_image("python", "-c", script).strip().splitlines()[-1])
    assert errors == {}
    assert {"audit", "operate", "image.debian-base", "fleet.web", "fleet.web-staging"} <= set(dags)


def test_the_dag_tests_pass_inside(image: str) -> None:
    mount = f"type=bind,source={ROOT}/tests,target=/usr/local/airflow/tests,readonly"
    options = ("--mount", mount, "--env", "HOME=/tmp")
    printed = in_image(
        "env", "PYTHONPATH=/usr/local/airflow/include:/usr/local/airflow", "python", "-B", "-m", "pytest", "-q",
        "-c", "/dev/null", "--rootdir", "/usr/local/airflow", "--import-mode=importlib", "-p", "no:cacheprovider",
        "tests/dags/test_shape.py",
        options=options,
    )  # fmt: skip
    assert " passed" in printed
    assert "skipped" not in printed


def test_the_catalog_and_reports_have_a_place_that_astro_can_write_to(image: str) -> None:
    assert "up to date" in in_image("phoenix", "migrate")


def test_a_base_that_installs_by_itself_first_gives_the_same(image: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(ONBUILD_DOCKERFILE)
    run("docker", "build", "-t", ONBUILD, str(tmp_path))
    run("docker", "build", "--network", "host", "--build-arg", f"BASE_IMAGE={ONBUILD}", "-t", IMAGE_ONBUILD, ".")
    assert "No broken requirements" in in_image("pip", "check", image=IMAGE_ONBUILD)
    assert "no mistakes" in in_image("phoenix", "validate", image=IMAGE_ONBUILD)
    assert in_image("pip", "freeze", image=IMAGE_ONBUILD) == in_image("pip", "freeze")
