"""The family ``debian-base``, built once for a module, with a registry and a network of its own."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

from phoenix_fleet import packer
from phoenix_fleet.config import ImageFamily, Project
from phoenix_fleet.configurators.ansible import Driver as Ansible
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.models import Instance, LaunchIntent
from phoenix_fleet.platforms.docker import Driver as Docker
from tests.e2e.debian_base import (
    PASSWORD,
    RUN,
    USER,
    VERSION,
    Built,
    listens,
    own_target,
    ready_now,
    remove_containers,
    wait_for,
)


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    client = docker.from_env(timeout=60)
    yield client
    client.close()


@pytest.fixture(scope="module")
def network(engine: Any) -> Iterator[str]:
    made = engine.networks.create(f"phoenix-e2e-{RUN}")
    yield made.name
    remove_containers(engine, made.name)
    made.remove()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A registry that asks for a password, on a free port of loopback."""
    folder = tmp_path_factory.mktemp("registry")
    crypted = subprocess.run(
        ["perl", "-e", "print crypt($ARGV[0], '$2y$05$abcdefghijklmnopqrstuu')", PASSWORD],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (folder / "htpasswd").write_text(f"{USER}:{crypted}\n")
    with _serving(folder, {"auth": {"htpasswd": {"realm": "phoenix", "path": str(folder / "htpasswd")}}}) as port:
        yield Connection("registry", "127.0.0.1", port, USER, PASSWORD)


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that gives to everybody, as one that publishes base images; ``host:port``."""
    with _serving(tmp_path_factory.mktemp("publisher"), {}) as port:
        yield f"127.0.0.1:{port}"


@contextmanager
def _serving(folder: Path, more: dict[str, Any]) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
        **more,
    }
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        wait_for(lambda: process.poll() is None and listens("127.0.0.1", port))
        yield port
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ssh") / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


@pytest.fixture(scope="module")
def connections(registry: Connection, key: Path) -> Callable[[str], Connection]:
    known = {
        "registry": registry,
        "docker": Connection("docker", "/var/run/docker.sock"),
        "phoenix_ssh": Connection("phoenix_ssh", extra={"key_file": str(key)}),
    }
    return known.__getitem__


@pytest.fixture(scope="module")
def family() -> ImageFamily:
    return Project.find().family("debian-base")


@pytest.fixture(scope="module")
def platform(network: str, connections: Any) -> Docker:
    return Docker(Docker.Settings(network=network), connections)


@pytest.fixture(scope="module")
def built(
    family: ImageFamily, platform: Docker, connections: Any, tmp_path_factory: pytest.TempPathFactory, engine: Any
) -> Iterator[Built]:
    workdir = tmp_path_factory.mktemp("build")
    log: list[str] = []
    packer.build(family, own_target(family), VERSION, connections, workdir=workdir, log=log.append)
    ((artefact, marks),) = platform.list_images(family.name)
    yield Built(artefact, marks, log, workdir)
    remove_containers(engine, platform.settings.network)
    for image in engine.images.list(name=artefact.reference.partition("@")[0]):
        engine.images.remove(image.id, force=True)


@pytest.fixture(scope="module")
def launch(built: Built, platform: Docker, key: Path, family: ImageFamily, network: str) -> Callable[[str], Instance]:
    """Launches an instance that is ready: running, with an address and host keys."""

    def ready(name: str) -> Instance:
        intent = LaunchIntent(
            fleet=f"e2e-{RUN}",
            slot=name,
            purpose=f"e2e-{RUN}-{uuid.uuid4().hex}",
            attempt=1,
            family=family.name,
            version=str(VERSION),
            artefact=built.artefact,
            authorized_key=key.with_suffix(".pub").read_text().strip(),
            settings={"network": network},
        )
        launched = platform.launch(intent)
        return wait_for(lambda: ready_now(platform, launched.id), every=0.02)  # type: ignore[no-any-return]

    return ready


@pytest.fixture(scope="module")
def bare(launch: Callable[[str], Instance]) -> Instance:
    """An instance that nothing changes."""
    return launch("bare")


@pytest.fixture
def throwaway(launch: Callable[[str], Instance], platform: Docker) -> Iterator[Instance]:
    """An instance of the test's own."""
    instance = launch("throwaway")
    yield instance
    platform.terminate(instance.id)


@pytest.fixture(scope="module")
def configured(launch: Any, connections: Any, family: ImageFamily) -> tuple[Instance, list[str], list[str]]:
    """An instance with both components for certification, and what two runs of its configuration said."""
    instance = launch("configured")
    runs: list[list[str]] = []
    for _ in range(2):
        lines: list[str] = []
        Ansible(Ansible.Settings(), connections).apply(instance, family.environment("certify"), lines.append)
        runs.append(lines)
    return instance, *runs


@pytest.fixture
def overlay(tmp_path: Path, family: ImageFamily) -> Callable[[str, str], ImageFamily]:
    """The family in a copy of ``include/``, its provisioning changed."""

    def changed(old: str, new: str) -> ImageFamily:
        include = tmp_path / "include"
        shutil.copytree(family.home.parents[1], include, ignore=shutil.ignore_patterns("phoenix_fleet", "__pycache__"))
        script = include / "images" / "common" / "provision.sh"
        assert script.read_text().count(old) == 1
        script.write_text(script.read_text().replace(old, new))
        return Project(include).family("debian-base")

    return changed
