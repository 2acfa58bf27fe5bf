"""A pod's containers in the Docker engine, named and marked as a kubelet on Docker names and marks them.

A pod's network belongs to its sandbox, in which nothing but ``pause`` runs: its address outlives its containers.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import docker.errors

from lab import guests
from lab.kubeapi import Object
from lab.kubelet_spec import hostname
from lab.kubelet_status import Ended, moment

NODE = "phoenix.lab.node"
UID, NAMESPACE, POD = "io.kubernetes.pod.uid", "io.kubernetes.pod.namespace", "io.kubernetes.pod.name"
CONTAINER, ATTEMPT = "io.kubernetes.container.name", "io.kubernetes.container.restartCount"
SANDBOX = "POD"
"""What a sandbox is called where containers have their names."""
_LAST_WORDS = 2048
"""Bytes of a container's output that its end may tell."""


class PullFailed(Exception):
    """An image cannot be had, with what the engine said."""


class NotMade(Exception):
    """The engine does not make or start a container, with what it said."""


@dataclass(frozen=True)
class Order:
    """What a container is made from."""

    name: str
    image: str
    attempt: int
    command: Sequence[str] | None = None
    arguments: Sequence[str] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    binds: Sequence[str] = ()
    user: str = ""
    folder: str | None = None
    read_only: bool = False


@dataclass(frozen=True)
class Found:
    """What the engine knows of a container."""

    id: str
    attempt: int
    image_id: str
    running_since: str
    """RFC 3339; empty unless it runs."""
    ended: Ended | None
    finished_at: float
    """When it ended, in seconds since the epoch; 0 unless it did."""


class PodEngine:
    """The containers of one pod, for one thread."""

    def __init__(self, owner: str, network: str, pause: str, node: str, pod: Object) -> None:
        """``pause``: the image of sandboxes."""
        self._network, self._pause = network, pause
        meta = pod["metadata"]
        self._uid, self._suffix = meta["uid"], f"{meta['name']}_{meta['namespace']}_{meta['uid']}"
        self._hostname = hostname(pod)
        self._labels = {
            guests.LABEL: owner,
            NODE: node,
            UID: meta["uid"],
            NAMESPACE: meta["namespace"],
            POD: meta["name"],
        }
        self._client: Any = guests.api()

    def close(self) -> None:
        """Let go of the engine."""
        self._client.close()

    def sandbox(self) -> str:
        """The address of the pod's sandbox, which is made and started if it is not there."""
        name = f"k8s_{SANDBOX}_{self._suffix}_0"
        try:
            seen = self._client.inspect_container(name)
        except docker.errors.NotFound:
            self._client.create_container(
                self._pause,
                name=name,
                hostname=self._hostname,
                labels=self._labels | {CONTAINER: SANDBOX},
                host_config=self._client.create_host_config(network_mode=self._network),
            )
            seen = {"State": {"Running": False}}
        if not seen["State"]["Running"]:
            self._client.start(name)
            seen = self._client.inspect_container(name)
        return str(seen["NetworkSettings"]["Networks"][self._network]["IPAddress"])

    def has_image(self, image: str) -> bool:
        """Whether the engine holds it."""
        try:
            self._client.inspect_image(image)
        except docker.errors.ImageNotFound:
            return False
        return True

    def pull(self, image: str) -> None:
        """Have the engine fetch it. :raises PullFailed: it cannot."""
        repository, tag = split_image(image)
        try:
            for line in self._client.pull(repository, tag=tag, stream=True, decode=True):
                if "error" in line:
                    raise PullFailed(line["error"])
        except docker.errors.APIError as error:
            raise PullFailed(error.explanation or str(error)) from None

    def run(self, order: Order) -> str:
        """The id of a new container, started. :raises NotMade: the engine does not."""
        name = f"k8s_{order.name}_{self._suffix}_{order.attempt}"
        with guests.gone_is_fine():  # one that was made and not started, before this process began
            self._client.remove_container(name, force=True, v=True)
        try:
            made = self._client.create_container(
                order.image,
                name=name,
                entrypoint=list(order.command) if order.command else None,
                command=list(order.arguments) if order.arguments else None,
                environment=order.environment,
                labels=self._labels | {CONTAINER: order.name, ATTEMPT: str(order.attempt)},
                user=order.user or None,
                working_dir=order.folder,
                host_config=self._client.create_host_config(
                    network_mode=f"container:k8s_{SANDBOX}_{self._suffix}_0",
                    binds=list(order.binds),
                    read_only=order.read_only,
                ),
            )["Id"]
            self._client.start(made)
        except docker.errors.APIError as error:
            raise NotMade(error.explanation or str(error)) from None
        return str(made)

    def newest(self) -> dict[str, str]:
        """The id of the newest container of each name: what an earlier kubelet has left running."""
        found: dict[str, tuple[int, str]] = {}
        for each in self._client.containers(all=True, filters={"label": f"{UID}={self._uid}"}):
            labels = each["Labels"]
            if ATTEMPT in labels:
                known = (int(labels[ATTEMPT]), str(each["Id"]))
                found[labels[CONTAINER]] = max(found.get(labels[CONTAINER], known), known)
        return {name: known for name, (_, known) in found.items()}

    def look(self, container_id: str, *, last_words: bool = False) -> Found | None:
        """What is known of it; None once it is gone. ``last_words``: how it ended comes with its output."""
        try:
            seen = self._client.inspect_container(container_id)
        except docker.errors.NotFound:
            return None
        state = seen["State"]
        running, over = bool(state["Running"]), state["Status"] in ("exited", "dead")
        ended, finished = None, 0.0
        if over:
            finished = _seconds(state["FinishedAt"])
            ended = Ended(
                exit_code=int(state["ExitCode"]),
                started=_whole(state["StartedAt"]),
                finished=_whole(state["FinishedAt"]),
                container_id=container_id,
                out_of_memory=bool(state["OOMKilled"]),
                message=self._said(container_id) if last_words and state["ExitCode"] else "",
            )
        return Found(
            id=container_id,
            attempt=int(seen["Config"]["Labels"][ATTEMPT]),
            image_id=self._image_id(seen),
            running_since=_whole(state["StartedAt"]) if running else "",
            ended=ended,
            finished_at=finished,
        )

    def execute(self, container_id: str, argv: Sequence[str], seconds: float) -> int | None:
        """The exit code of a program run inside; None if it takes longer, or cannot be run."""
        try:
            made = self._client.exec_create(container_id, list(argv), stdout=False, stderr=False)["Id"]
            self._client.exec_start(made, detach=True)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                seen = self._client.exec_inspect(made)
                if not seen["Running"] and seen["ExitCode"] is not None:
                    return int(seen["ExitCode"])
                time.sleep(0.05)
        except docker.errors.APIError:
            return None
        return None

    def forget(self, container_id: str) -> None:
        """Remove one that ended."""
        with guests.gone_is_fine():
            self._client.remove_container(container_id, force=True, v=True)

    def stop(self, container_id: str, seconds: float) -> None:
        """SIGTERM, and SIGKILL if it still runs after that time."""
        with guests.gone_is_fine():
            self._client.stop(container_id, timeout=max(round(seconds), 0))

    def remove(self) -> None:
        """Everything of the pod, whatever it does."""
        sweep({UID: self._uid})

    def _image_id(self, seen: Any) -> str:
        try:
            digests = self._client.inspect_image(seen["Image"]).get("RepoDigests") or []
        except docker.errors.ImageNotFound:
            return str(seen["Image"])
        wanted = seen["Config"]["Image"]
        own = [each for each in digests if each == wanted or each.partition("@")[0] == split_image(wanted)[0]]
        return f"docker-pullable://{own[0]}" if own else f"docker://{seen['Image']}"

    def _said(self, container_id: str) -> str:
        text: bytes = self._client.logs(container_id, stdout=True, stderr=True, tail=80)
        return text[-_LAST_WORDS:].decode(errors="replace")


def split_image(image: str) -> tuple[str, str]:
    """Repository, and digest or tag; without either it is ``latest``, as everywhere."""
    if "@" in image:
        repository, _, digest = image.partition("@")
        return repository, digest
    repository, _, tag = image.rpartition(":")
    return (repository, tag) if repository and "/" not in tag else (image, "latest")


def sweep(labels: dict[str, str]) -> None:
    """Remove every container with these labels, all at once."""
    with guests.engine() as client:
        wanted = {"label": [f"{name}={value}" for name, value in labels.items()]}
        found = [each["Id"] for each in client.containers(all=True, filters=wanted)]
    if found:
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(_remove, found))


def _remove(container_id: str) -> None:
    with guests.engine() as client, guests.gone_is_fine():
        try:
            client.remove_container(container_id, force=True, v=True)
        except docker.errors.APIError as error:
            if "already in progress" not in str(error):
                raise


def pods(owner: str, node: str) -> set[str]:
    """The uids of all pods that have containers on that node."""
    with guests.engine() as client:
        wanted = {"label": [f"{guests.LABEL}={owner}", f"{NODE}={node}"]}
        return {str(each["Labels"][UID]) for each in client.containers(all=True, filters=wanted)}


@functools.cache
def version() -> str:
    """The engine's."""
    with guests.engine() as client:
        return str(client.version()["Version"])


def pause_image(program: Path) -> str:
    """The image of sandboxes, made unless it is there."""
    name = f"{guests.NAME}:pause-{program.parent.name.rpartition('-')[2]}"
    with guests.engine() as client:
        try:
            client.inspect_image(name)
        except docker.errors.ImageNotFound:
            client.import_image_from_data(
                guests.packed({"pause": program.read_bytes()}).getvalue(),
                repository=guests.NAME,
                tag=name.partition(":")[2],
                changes=['ENTRYPOINT ["/pause"]', f"LABEL {guests.LABEL}=machines"],
            )
    return name


def _parsed(text: str) -> datetime:
    """The engine's time, whose fractions have nine places."""
    return datetime.fromisoformat(re.sub(r"\.\d+", "", text).replace("Z", "+00:00")).astimezone(UTC)


def _whole(text: str) -> str:
    return moment(_parsed(text))


def _seconds(text: str) -> float:
    fraction = re.search(r"\.\d+", text)
    return _parsed(text).timestamp() + (float(fraction[0]) if fraction else 0.0)
