"""The images of the lab's machines on EC2 and vSphere, in the local Docker engine: two good releases and a bad one.

Each is the day's Debian seed with an SSH server and Python, ``lab/guest`` on top. The seed takes half a minute and lies
in the cache; the rest takes seconds and is made anew when anything in it changes.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
import docker.errors

from lab.places import REPOSITORY
from phoenix_fleet import seeds
from phoenix_fleet.config import Seed
from phoenix_fleet.connections import Connection
from phoenix_fleet.dockercommand import DockerCommand
from phoenix_fleet.domain.errors import Unavailable

SOCKET = "/var/run/docker.sock"
NAME = "phoenix-labs-machine"
"""The repository of these images."""
LABEL = "phoenix.lab"
"""On everything of the lab's machines in the engine: whose it is."""
FAMILY, OLD, NEW, BAD = "lab-machine", "2026.10-1", "2026.11-1", "2026.12-1"
"""The releases; the service of the last one does not come up."""
PORT = 8080
"""Where the service answers."""

_KEPT_SECONDS = 2 * 86400
_GUEST = REPOSITORY / "lab" / "guest"
_SEED = Seed(suite="bookworm", include=("openssh-server", "python3"))
_SEED_WITH_CLOUD_INIT = Seed(suite="bookworm", include=("cloud-init", "openssh-server", "python3"))
_FILES = {"boot.py": "usr/sbin/boot", "vmware-rpctool": "usr/bin/vmware-rpctool"}
_DOCKERFILE = """\
FROM {seed}
RUN rm -f /etc/ssh/ssh_host_*
COPY root /
RUN mkdir -p /etc/lab-service
LABEL {label}=machines
CMD {command}
"""


def api() -> docker.APIClient:
    """A client of the local engine, for one thread and a few calls.

    :raises Unavailable: it does not answer.
    """
    try:
        return docker.APIClient(base_url=f"unix://{SOCKET}", version="auto", timeout=60)
    except docker.errors.DockerException as error:
        raise Unavailable(f"No Docker engine answers at {SOCKET}: {error}", remedy="Run scripts/setup --dev.") from None


@contextmanager
def engine() -> Iterator[Any]:
    """The same, closed at the end of the block."""
    client = api()
    try:
        yield client
    finally:
        client.close()


def images(log: Callable[[str], None]) -> dict[str, str]:
    """The image of each release, as the engine knows it; those that are there already are used."""
    files = {path: _guest(name) for name, path in _FILES.items()}
    return _releases(log, "", "usr/local/bin/service", files, '["/usr/sbin/boot"]')


def pod_images(log: Callable[[str], None]) -> dict[str, str]:
    """The same service for pods, in which nothing else runs; the container of the last release ends at once."""
    files = {"usr/local/bin/pod": _guest("pod.py")}
    return _releases(log, "pod-", "usr/local/bin/pod", files, '["/usr/local/bin/pod"]')


def _releases(
    log: Callable[[str], None], prefix: str, broken: str, files: Mapping[str, bytes], command: str
) -> dict[str, str]:
    """The image of each release; in the bad one a program that does not come up takes the place of ``broken``."""
    with engine() as client:
        seed = _seed(client, _SEED, log)
        found = {}
        for version in (OLD, NEW, BAD):
            content = {
                "etc/phoenix-release": f"{version}\n".encode(),
                "usr/local/bin/service": _guest("service.py"),
                **files,
                **({broken: _guest("broken-service")} if version == BAD else {}),
            }
            found[version] = _image(client, f"{prefix}{version}", seed, content, command, log)
        return found


def push(images: Mapping[str, str], registry: str) -> dict[str, str]:
    """The same images in that registry, by digest: ``127.0.0.1:5055/lab-machine@sha256:…``.

    :param registry: host and port.
    :raises Unavailable: it does not take one.
    """
    repository, found = f"{registry}/{FAMILY}", {}
    with engine() as client:
        for version, image in images.items():
            client.tag(image, repository, tag=version)
            for line in client.push(repository, tag=version, stream=True, decode=True):
                if "error" in line:
                    raise Unavailable(f"{repository}:{version} cannot be pushed: {line['error']}") from None
                if "aux" in line:
                    found[version] = f"{repository}@{line['aux']['Digest']}"
            client.remove_image(f"{repository}:{version}")
    return found


def image_with_cloud_init(log: Callable[[str], None]) -> str:
    """An image in which nothing runs by itself, with the real cloud-init where the others have a stand-in."""
    with engine() as client:
        seed = _seed(client, _SEED_WITH_CLOUD_INIT, log)
        files = {"usr/bin/vmware-rpctool": _guest("vmware-rpctool")}
        return _image(client, "cloud-init", seed, files, '["/bin/sleep", "infinity"]', log)


def _seed(client: Any, seed: Seed, log: Callable[[str], None]) -> str:
    _forget_old(client)
    with tempfile.TemporaryDirectory() as folder:
        return seeds.docker_image(seed, log, docker=DockerCommand(Connection("docker", SOCKET), Path(folder)))


def _guest(name: str) -> bytes:
    return (_GUEST / name).read_bytes()


def _image(
    client: Any, what: str, seed: str, files: Mapping[str, bytes], command: str, log: Callable[[str], None]
) -> str:
    context = {f"root/{path}": data for path, data in files.items()}
    context["Dockerfile"] = _DOCKERFILE.format(seed=seed, label=LABEL, command=command).encode()
    digest = hashlib.sha256(repr(sorted(context.items())).encode()).hexdigest()[:12]
    name = f"{NAME}:{what}-{digest}"
    try:
        client.inspect_image(name)
    except docker.errors.ImageNotFound:
        log(f"making {name}")
        for line in client.build(fileobj=packed(context), custom_context=True, tag=name, rm=True, decode=True):
            if "error" in line:
                raise Unavailable(f"The engine cannot make {name}: {line['error']}") from None
    return name


def _forget_old(client: Any) -> None:
    """Images of earlier days go, unless a machine still runs from them: each keeps its day's seed from going."""
    for each in client.images(name=NAME):
        if time.time() - each["Created"] > _KEPT_SECONDS:
            for tag in each["RepoTags"] or ():
                with suppress(docker.errors.APIError):
                    client.remove_image(tag)


def packed(files: Mapping[str, bytes]) -> io.BytesIO:
    """These files as a tar, each of them root's and a program."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
    content.seek(0)
    return content


def make_bridge(owner: str) -> str:
    """A bridge of the engine for that owner's machines; its addresses, the first range of 10.66 that is free."""
    for third in range(256):
        cidr = f"10.66.{third}.0/24"
        pool = docker.types.IPAMPool(subnet=cidr, gateway=f"10.66.{third}.1")
        try:
            with engine() as client:
                client.create_network(
                    bridge_name(owner, cidr),
                    driver="bridge",
                    ipam=docker.types.IPAMConfig(pool_configs=[pool]),
                    labels={LABEL: owner},
                    check_duplicate=True,
                )
        except docker.errors.APIError as error:
            if any(word in str(error).lower() for word in ("overlap", "already exists")):
                continue
            raise
        return cidr
    raise Unavailable("No range of 10.66.0.0/16 is free.", remedy="Remove networks of the engine.")


def bridge_name(owner: str, cidr: str) -> str:
    """How the engine calls the bridge with those addresses."""
    return f"{owner}-{cidr.partition('/')[0]}"


def containers(owner: str) -> list[dict[str, Any]]:
    """Every container of that owner, running or not."""
    with engine() as client:
        return list(client.containers(all=True, filters={"label": f"{LABEL}={owner}"}))


def networks(owner: str) -> list[dict[str, Any]]:
    """Every network of that owner."""
    with engine() as client:
        return list(client.networks(filters={"label": f"{LABEL}={owner}"}))


def sweep(owner: str) -> None:
    """Remove every container and network of that owner."""
    for each in containers(owner):
        with engine() as client, gone_is_fine():
            client.remove_container(each["Id"], force=True, v=True)
    for each in networks(owner):
        with engine() as client, gone_is_fine():
            client.remove_network(each["Id"])


def remove_images() -> None:
    """Remove every image that was made here; those that somebody's machine runs from stay."""
    with engine() as client:
        for each in client.images(name=NAME):
            for tag in each["RepoTags"] or ():
                with suppress(docker.errors.APIError):
                    client.remove_image(tag)


@contextmanager
def gone_is_fine() -> Iterator[None]:
    """What is gone already needs no removing."""
    try:
        yield
    except docker.errors.NotFound:
        return
