"""What the lab does in the Docker engine, and undoes: a network, and whatever carries our marks on it."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import docker
import docker.errors

from lab.processes import recorded_pid
from phoenix_fleet import seeds
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import InUse, Unavailable
from phoenix_fleet.domain.models import OWNER

NETWORK = "phoenix-lab"
MARK = {"phoenix.lab": "network"}


class DockerEngine:
    """The Docker engine of one connection."""

    def __init__(self, connection: Connection) -> None:
        try:
            with socket.socket(socket.AF_UNIX) as probe:  # the SDK leaks its own socket where nobody listens
                probe.connect(connection.host)
            self._client: Any = docker.DockerClient(base_url=f"unix://{connection.host}", timeout=60)
            self._client.ping()
        except (OSError, docker.errors.DockerException) as error:
            raise Unavailable(
                f"No Docker engine answers on {connection.host}: {error}", remedy="Run scripts/setup."
            ) from None

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    def make_network(self) -> None:
        """The lab's bridge network, unless it is there.

        :raises InUse: if another program has a network of that name.
        """
        try:
            network = self._client.networks.get(NETWORK)
        except docker.errors.NotFound:
            self._client.networks.create(NETWORK, driver="bridge", labels=MARK, check_duplicate=True)
            return
        if (network.attrs.get("Labels") or {}).get("phoenix.lab") != "network":
            raise InUse(f"A Docker network {NETWORK} exists that is not the lab's.", remedy="Rename or remove it.")

    def containers(self) -> list[Any]:
        """Containers with our owner mark on the lab's network."""
        return list(
            self._client.containers.list(
                all=True, ignore_removed=True, filters={"label": [f"phoenix.owner={OWNER}"], "network": [NETWORK]}
            )
        )

    def remove_containers(self) -> int:
        """Remove them; how many there were."""
        found = self.containers()
        for container in found:
            try:
                container.remove(force=True, v=True)
            except docker.errors.NotFound:
                continue
        return len(found)

    def remove_images(self, registry: str, *, but: str = "") -> None:
        """Remove every image that came from the lab's registry, except those of the version ``but``."""
        for image in self._client.images.list():
            if but and image.labels.get("phoenix.version") == but:
                continue
            for reference in (*image.tags, *(image.attrs.get("RepoDigests") or [])):
                if reference.startswith(f"{registry}/"):
                    self._remove_image(reference)

    def remove_seeds(self) -> None:
        """Remove what builds start from."""
        for image in self._client.images.list(name=seeds.REPOSITORY):
            for tag in image.tags:
                self._remove_image(tag)

    def _remove_image(self, reference: str) -> None:
        try:
            self._client.images.remove(reference)
        except docker.errors.APIError:
            return  # gone with another name of it, or a stranger's container needs it

    def remove_network(self) -> None:
        """Remove the lab's network if it is there and ours."""
        try:
            network = self._client.networks.get(NETWORK)
        except docker.errors.NotFound:
            return
        if (network.attrs.get("Labels") or {}).get("phoenix.lab") == "network":
            network.remove()


def stop_engine(record: Path) -> bool:
    """Stop the engine that ``scripts/setup`` started, if it did; whether one was stopped."""
    pid = recorded_pid(record)
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while recorded_pid(record) and time.monotonic() < deadline:
        time.sleep(0.1)
    record.unlink(missing_ok=True)
    return True
