"""The family ``ubuntu-base`` for real on Docker, from a published image by its digest.

Canonical's is out of reach here. Debian 13 stands in for it: like Ubuntu 24.04 it is newer than Debian 12 in all parts,
and has its sources written in paragraphs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.guests import packed
from phoenix_fleet import packer, seeds
from phoenix_fleet.config import ImageFamily, Project, Seed
from phoenix_fleet.connections import Connection
from phoenix_fleet.dockercommand import DockerCommand
from phoenix_fleet.domain.errors import Unavailable
from phoenix_fleet.domain.models import Instance
from phoenix_fleet.platforms.docker import Driver as Docker
from tests.e2e.debian_base import RUN, VERSION, Built, checked, own_target

pytestmark = [pytest.mark.e2e, pytest.mark.docker, pytest.mark.timeout(600)]


# Its own sources in paragraphs, as Ubuntu has them.
DOCKERFILE = r"""
FROM {seed}
RUN sed -nE "s/^deb (\[[^]]*\] )?(\S+) (\S+) (.*)$/Types: deb\nURIs: \2\nSuites: \3\nComponents: \4\n/p" \
        /etc/apt/sources.list >/etc/apt/sources.list.d/ubuntu.sources && rm /etc/apt/sources.list
"""


@pytest.fixture(scope="module")
def published(publisher: str, engine: Any) -> Iterator[str]:
    """What Canonical would publish, by its digest; the engine does not have it yet."""
    with tempfile.TemporaryDirectory() as folder:
        docker = DockerCommand(Connection("docker", "/var/run/docker.sock"), Path(folder))
        seed = seeds.docker_image(Seed(suite="trixie", include=("ca-certificates",)), print, docker=docker)
    repository = f"{publisher}/e2e-{RUN}/ubuntu"
    context = packed({"Dockerfile": DOCKERFILE.format(seed=seed).encode()})
    engine.images.build(fileobj=context, custom_context=True, tag=f"{repository}:24.04", rm=True)
    engine.images.push(repository, "24.04")
    (name,) = (each for each in engine.images.get(f"{repository}:24.04").attrs["RepoDigests"] if repository in each)
    engine.images.remove(f"{repository}:24.04")
    yield str(name)
    for image in engine.images.list(name=repository):
        engine.images.remove(image.id, force=True)


def started_from(image: str) -> ImageFamily:
    """The family as it ships, but for where its build for Docker starts."""
    family = Project.find().family("ubuntu-base")
    target = family.target("docker")
    return family.model_copy(
        update={
            "targets": (
                target.model_copy(update={"build": target.build.model_copy(update={"seed": Seed(image=image)})}),
            )
        }
    )


@pytest.fixture(scope="module")
def family(published: str) -> ImageFamily:
    return started_from(published)


def test_it_is_made_of_exactly_what_is_pinned(built: Built, published: str, engine: Any) -> None:
    assert f"seed: pulling {published}" in built.log
    assert f"provision: done: ubuntu-base {VERSION}" in "\n".join(built.log)
    base, made = (engine.images.get(name).attrs["RootFS"]["Layers"] for name in (published, built.artefact.reference))
    assert made[: len(base)] == base
    assert len(made) > len(base)


def test_the_checks_of_the_other_family_pass_on_it(
    family: ImageFamily, platform: Docker, connections: Any, bare: Instance, tmp_path: Path
) -> None:
    found = checked(family, platform, connections, bare, tmp_path)
    assert (found.passed, found.error) == (True, ""), found.details


def test_a_digest_that_nobody_publishes_stops_it_before_anything_is_made(
    published: str, connections: Any, platform: Docker, built: Built, engine: Any, tmp_path: Path
) -> None:
    other = f"{published.partition('@')[0]}@sha256:{'0' * 64}"
    family = started_from(other)
    with pytest.raises(Unavailable, match=r"seed\.image cannot be pulled"):
        packer.build(family, own_target(family), VERSION, connections, workdir=tmp_path, log=print)
    assert [artefact for artefact, _ in platform.list_images(family.name)] == [built.artefact]
    assert engine.containers.list(all=True, filters={"name": "phoenix-build-ubuntu-base-"}) == []
