"""What an image file may say about builds, and which of its targets a deployment builds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet import cli_validate
from phoenix_fleet.config import Project
from phoenix_fleet.domain.errors import InvalidConfig
from tests.unit import projects

EC2 = """  - platform:
      ec2: {subnets: [subnet-0123456789abcdef0], security_groups: [sg-0123456789abcdef0], instance_type: m7i.large}
    build:
      template: packer/fake.pkr.hcl
      settings: {SETTINGS}
"""
RIGHT = 'source_owner: "136693071363", source_name: debian-12-*, ssh_username: admin, ssh_from: [10.0.0.0/8]'


def include(folder: Path, settings: str = RIGHT) -> Path:
    """A project whose family is built for EC2, too."""
    found = projects.make_project(folder).include
    file = found / "images" / "base" / "image.yaml"
    head, mark, rest = file.read_text().partition("access:")
    file.write_text(head + EC2.replace("SETTINGS", settings) + mark + rest)
    return found


def test_without_a_word_all_targets_are_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHOENIX_TARGETS", raising=False)
    family = Project(include(tmp_path)).family("base")
    assert (family.platforms, family.left_out) == (["fake", "ec2"], ())


@pytest.mark.parametrize(
    ("said", "platforms", "left_out"),
    [("fake", ["fake"], ("ec2",)), ("ec2", ["ec2"], ("fake",)), (" ec2 , fake,docker", ["fake", "ec2"], ())],
)
def test_a_deployment_chooses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, platforms: list[str], left_out: tuple[str, ...]
) -> None:
    monkeypatch.setenv("PHOENIX_TARGETS", said)
    family = Project(include(tmp_path)).family("base")
    assert (family.platforms, family.left_out) == (platforms, left_out)


def test_a_choice_of_what_is_no_platform_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOENIX_TARGETS", "dockr")
    with pytest.raises(InvalidConfig, match="dockr, which is no platform"):
        Project(include(tmp_path)).family("base")


def test_what_is_built_elsewhere_is_no_mistake_and_its_fleets_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHOENIX_TARGETS", "vmware")
    project = Project(include(tmp_path))
    family = project.family("base")
    assert (family.platforms, family.left_out) == ([], ("fake", "ec2"))
    found = cli_validate.inspect(project, tmp_path / "airflow_settings.yaml")
    assert found.mistakes == []
    assert any("nothing is left, so it has no DAG here" in each for each in found.warnings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (RIGHT.replace("source_name", "source_nam"), r"targets\.1\.build\.settings\.source_nam: unknown key"),
        (RIGHT.replace("10.0.0.0/8", "0.0.0.0/0"), "is everybody"),
        (RIGHT.replace("10.0.0.0/8", "10.0.0.1/8"), r"targets\.1\.build\.settings\.ssh_from"),
        (RIGHT.replace("136693071363", "debian"), r"targets\.1\.build\.settings\.source_owner"),
    ],
)
def test_a_builders_settings_are_checked_when_the_file_is_read(tmp_path: Path, settings: str, told: str) -> None:
    with pytest.raises(InvalidConfig, match=told):
        Project(include(tmp_path, settings)).family("base")


DIGEST = "ab" * 32
CLOUD = f"url: https://images.example/noble.img, sha256: {DIGEST}"


def written(folder: Path, platform: str, seed: str) -> Project:
    """A project whose family starts from that seed on that platform."""
    project = projects.make_project(folder)
    file = project.include / "images" / "base" / "image.yaml"
    text = file.read_text().replace("platform: fake", f"platform: {{{platform}}}")
    file.write_text(text.replace("seed: {suite: bookworm}", f"seed: {{{seed}}}"))
    return project


DOCKER, LIBVIRT = "docker: {network: lab}", "libvirt: {pool: p, network: n}"


@pytest.mark.parametrize(
    ("platform", "seed", "kind"),
    [
        (DOCKER, "suite: bookworm, include: [ca-certificates]", "suite"),
        (DOCKER, f'image: "registry.example:5000/library/ubuntu@sha256:{DIGEST}"', "image"),
        (LIBVIRT, "suite: noble", "suite"),
        (LIBVIRT, CLOUD, "url"),
        (LIBVIRT, CLOUD.replace("https://images.example", "http://127.0.0.1:8000"), "url"),
    ],
)
def test_a_build_starts_from_a_suite_or_from_what_is_pinned(
    tmp_path: Path, platform: str, seed: str, kind: str
) -> None:
    (target,) = written(tmp_path, platform, seed).family("base").targets
    assert target.build.seed is not None
    assert target.build.seed.kind == kind


@pytest.mark.parametrize(
    ("platform", "seed", "told"),
    [
        (
            DOCKER,
            "include: [a]",
            r"seed: this says nothing to start from. Remedy: Write exactly one of suite, image, url",
        ),
        (DOCKER, f'suite: bookworm, image: "a@sha256:{DIGEST}"', r"seed\.image: this says suite and image"),
        (DOCKER, 'image: "ubuntu:24.04"', r"seed\.image: 'ubuntu:24.04' does not have the right form"),
        (DOCKER, f'image: "--all-tags@sha256:{DIGEST}"', r"seed\.image: .* does not have the right form"),
        (DOCKER, f'image: "a@sha256:{DIGEST}", include: [a]', r"seed\.include: only a suite is made with packages"),
        (DOCKER, CLOUD, r"seed\.url: a build for docker does not start from it. Remedy: Write suite or image"),
        (LIBVIRT, f'image: "a@sha256:{DIGEST}"', r"seed\.image: a build for libvirt does not start from it"),
        (LIBVIRT, "url: https://images.example/noble.img", r"seed\.url: url and sha256 belong together"),
        (LIBVIRT, f"suite: noble, sha256: {DIGEST}", r"seed\.sha256: url and sha256 belong together"),
        (LIBVIRT, CLOUD.replace("https", "http"), r"seed\.url: it must begin with https://"),
        (LIBVIRT, CLOUD.replace("https://", "file:///"), r"seed\.url: it must begin with https://"),
        (LIBVIRT, CLOUD.replace("https://", "https://me:secret@"), r"seed\.url: a login does not belong"),
        (LIBVIRT, CLOUD.replace(DIGEST, "current"), r"seed\.sha256: 'current' does not have the right form"),
    ],
)
def test_what_a_build_cannot_start_from_is_said_with_its_place(
    tmp_path: Path, platform: str, seed: str, told: str
) -> None:
    project = written(tmp_path, platform, seed)
    with pytest.raises(InvalidConfig, match=rf"image\.yaml:\d+: targets\.0\.build\.{told}"):
        project.family("base")


def test_platforms_whose_settings_say_where_they_start_take_no_seed(tmp_path: Path) -> None:
    found = include(tmp_path)
    file = found / "images" / "base" / "image.yaml"
    file.write_text(file.read_text().replace("      settings:", "      seed: {suite: bookworm}\n      settings:"))
    with pytest.raises(InvalidConfig, match="a build for ec2 does not start from it"):
        Project(found).family("base")


def test_reading_builders_settings_loads_no_sdk(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from phoenix_fleet.config import Project;"
        f"Project(Path({str(include(tmp_path))!r})).family('base'); from phoenix_fleet import drivers;"
        "[drivers.load('builders', name) for name in drivers.names('builders')];"
        "print([name for name in sys.modules if name.startswith(('boto', 'pyVmomi', 'libvirt', 'httpx'))])"
    )
    path = str(Path(projects.__file__).parents[2] / "include")
    done: Any = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
