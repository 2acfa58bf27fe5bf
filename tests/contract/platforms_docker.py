"""The Docker platform under the contract tests: a real engine, a real registry, images of 2 MB."""

from __future__ import annotations

import io
import itertools
import tarfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import docker
import docker.errors

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.models import OWNER, Artefact, LaunchIntent
from phoenix_fleet.platforms import docker as driver
from tests.contract import machinery

_serial = itertools.count(1)


class Crash(BaseException):
    """The process died here."""


class DockerLab:
    """What the contract tests ask of a platform's surroundings."""

    name = "docker"

    def __init__(self, api: docker.APIClient, root: bytes, port: int, network: str) -> None:
        self.api = api
        self.root = root
        self.network = network
        self.settings: Mapping[str, Any] = {"network": network}
        self.authority = f"127.0.0.1:{port}"
        self.connections = machinery.KnownConnections(
            Connection("docker", host=machinery.SOCKET), Connection("registry", host="127.0.0.1", port=port)
        )
        self.platform = self.again()
        self.standard = self.artefact("lab", "2026.11-1")

    def again(self, **settings: Any) -> driver.Driver:
        """Another driver object for the same world."""
        return driver.Driver(driver.Settings(**{**self.settings, **settings}), self.connections)

    def artefact(
        self, family: str, version: str, *, ours: bool = True, command: str = machinery.SERVE, repository: str = ""
    ) -> Artefact:
        marks = {"phoenix.owner": OWNER, "phoenix.family": family, "phoenix.version": version}
        marks["phoenix.test"] = str(next(_serial))  # so that no two images are the same
        name = f"{self.authority}/{repository or family}:{version}-candidate"
        argv = ["/bin/sh", "-c", command]
        digest = machinery.image(self.api, self.root, name, marks if ours else {"phoenix.test": "x"}, argv)
        return Artefact("docker", f"{name.rpartition(':')[0]}@{digest}", digest)

    def foreign(self, name: str, marks: Mapping[str, str]) -> str:
        image = f"{self.network}-foreign:1"
        try:
            self.api.inspect_image(image)
        except docker.errors.ImageNotFound:
            self.api.import_image_from_data(self.root, repository=image.partition(":")[0], tag="1")
        made = self.api.create_container(
            image,
            ["/bin/sh", "-c", machinery.SERVE],
            name=name,
            labels=dict(marks),
            host_config=self.api.create_host_config(network_mode=self.network),
        )
        self.api.start(made["Id"])
        return str(made["Id"])

    def is_alive(self, instance_id: str) -> bool:
        return bool(self.api.inspect_container(instance_id)["State"]["Running"])

    def count(self, token: str) -> int:
        """How many machines carry the token, in truth."""
        return len(self.api.containers(all=True, filters={"label": f"phoenix.token={token}"}))

    def authorized_key(self, instance_id: str) -> str:
        chunks, about = self.api.get_archive(instance_id, "/root/.ssh/authorized_keys")
        assert about["mode"] & 0o777 == 0o600
        folder = self.api.get_archive(instance_id, "/root/.ssh")[1]
        assert folder["mode"] & 0o777 == 0o700
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
            member = tar.getmember("authorized_keys")
            assert (member.uid, member.gid) == (0, 0)
            file = tar.extractfile(member)
            assert file is not None
            return file.read().decode().strip()

    def marks(self, instance_id: str) -> dict[str, str]:
        labels: dict[str, str] = self.api.inspect_container(instance_id)["Config"]["Labels"]
        return labels

    def crash_in_launch(self, intent: LaunchIntent) -> None:
        """Launch, and die between creating and starting the container."""
        with mock.patch.object(docker.APIClient, "start", side_effect=Crash):
            try:
                self.platform.launch(intent)
            except Crash:
                return
        raise AssertionError("the launch did not come to the start")

    def break_down(self, instance_id: str) -> None:
        """Let the machine end by itself, for good."""
        self.api.update_container(instance_id, restart_policy={"Name": "no"})
        self.api.kill(instance_id, "SIGKILL")

    def sweep(self) -> None:
        """Remove every container that was made here, whatever became of it."""
        for container in self.api.containers(all=True):
            here = container["HostConfig"]["NetworkMode"] == self.network
            if here or container["Image"].startswith(f"{self.authority}/"):
                with machinery.gone_is_fine():
                    self.api.remove_container(container["Id"], force=True, v=True)


@contextmanager
def opened(folder: Path, packages: Sequence[str] = ()) -> Iterator[DockerLab]:
    """A lab with a network and a registry of its own; whatever was made in it is removed after.

    :param packages: Debian's, for the images beside busybox
    """
    api = docker.APIClient(version="auto", timeout=60)
    name = f"phoenix-test-{uuid.uuid4().hex[:8]}"
    api.create_network(name, driver="bridge")
    try:
        with machinery.registry(folder) as port:
            lab = DockerLab(api, machinery.busybox(folder, packages), port, name)
            try:
                yield lab
            finally:
                lab.sweep()
                _forget_images(api, (f"{lab.authority}/", f"{name}-foreign:"))
    finally:
        api.remove_network(name)
        api.close()


def _forget_images(api: docker.APIClient, beginnings: tuple[str, ...]) -> None:
    for image in api.images():
        for found in [*(image["RepoTags"] or []), *(image["RepoDigests"] or [])]:
            if found.startswith(beginnings):
                with machinery.gone_is_fine():
                    api.remove_image(found, force=True)
