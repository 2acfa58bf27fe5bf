"""Real machines for the contract tests of gates and configurators: containers with an SSH server, and a registry."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import socket
import subprocess
import tarfile
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.domain.models import Artefact, Instance, InstanceState

IMAGE = "phoenix-test/sshd:1"
"""Debian with an SSH server and Python; made once, kept for the next run."""
_KEY = "/etc/ssh/ssh_host_ed25519_key"
_START = (
    f"rm -f /etc/ssh/ssh_host_*; ssh-keygen -q -t ed25519 -N '' -f {_KEY}; mkdir -p /run/sshd; "
    f"exec /usr/sbin/sshd -D -e -h {_KEY}"
)


def docker(*argv: str, stdin: bytes | None = None, check: bool = True) -> str:
    """What the docker command prints."""
    done = subprocess.run(["docker", *argv], input=stdin, capture_output=True, check=False, timeout=120)
    if check and done.returncode:
        raise RuntimeError(f"docker {argv}: {done.stderr.decode(errors='replace')}")
    return done.stdout.decode(errors="replace").strip()


def make_image(scratch: Path) -> str:
    """The image's name, made with mmdebstrap if the engine has none."""
    if docker("image", "inspect", IMAGE, "--format", "{{.Id}}", check=False):
        return IMAGE
    seed = scratch / "sshd-seed.tar"
    subprocess.run(
        ["mmdebstrap", "--variant=minbase", "--include=openssh-server,python3", "bookworm", str(seed)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    docker("import", str(seed), IMAGE)
    seed.unlink()
    return IMAGE


@dataclass(frozen=True)
class Key:
    """An SSH key pair."""

    private: Path

    @property
    def public(self) -> str:
        return self.private.with_suffix(".pub").read_text().strip()


def make_key(folder: Path) -> Key:
    path = folder / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
    return Key(path)


class Ssh:
    """Connections with one entry, and an InvalidConfig for every other."""

    def __init__(self, key: Path | None, **others: Connection) -> None:
        self.known = {"phoenix_ssh": Connection("phoenix_ssh", extra={"key_file": str(key)} if key else {}), **others}

    def __call__(self, conn_id: str) -> Connection:
        if conn_id not in self.known:
            raise InvalidConfig(f"There is no connection '{conn_id}'.")
        return self.known[conn_id]


class Machines:
    """Containers on a network of their own; all are removed at the end."""

    def __init__(self, image: str, key: Key) -> None:
        self.image, self.key = image, key
        self.name = f"phoenix-test-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.started: list[Instance] = []
        self._containers: list[str] = []
        docker("network", "create", self.name)

    def start(self, slot: str = "web-01") -> Instance:
        """A running instance as a platform would report it; with its SSH host keys read through the engine."""
        name = f"{slot}-{uuid.uuid4().hex[:8]}"
        run = ["run", "--detach", "--network", self.name, "--name", name, "--hostname", name]
        container = docker(*run, self.image, "sh", "-c", _START)
        self._containers.append(container)
        script = "mkdir -pm700 /root/.ssh; cat > /root/.ssh/authorized_keys"
        docker("exec", "-i", container, "sh", "-c", script, stdin=f"{self.key.public}\n".encode())
        where = f'{{{{(index .NetworkSettings.Networks "{self.name}").IPAddress}}}}'
        instance = Instance(
            id=container,
            name=name,
            fleet="web",
            slot=slot,
            version="2026.11-1",
            token="0" * 32,
            state=InstanceState.RUNNING,
            address=docker("inspect", container, "--format", where),
        )
        wait_for_port(instance.address, 22)
        instance = replace(instance, host_keys=self.host_keys(instance))
        self.started.append(instance)
        return instance

    def host_keys(self, instance: Instance) -> tuple[str, ...]:
        """What a platform would report."""
        text = docker("exec", instance.id, "sh", "-c", "cat /etc/ssh/ssh_host_*_key.pub")
        return tuple(" ".join(line.split()[:2]) for line in text.splitlines())

    def read(self, instance: Instance, path: str) -> str:
        """A file inside, or nothing."""
        return docker("exec", instance.id, "cat", path, check=False)

    def write(self, instance: Instance, path: str, text: str) -> None:
        docker("exec", "-i", instance.id, "sh", "-c", 'cat > "$0"', path, stdin=text.encode())

    def remove(self, instance: Instance) -> None:
        docker("rm", "--force", "--volumes", instance.id, check=False)

    def close(self) -> None:
        for container in self._containers:
            docker("rm", "--force", "--volumes", container, check=False)
        docker("network", "rm", self.name, check=False)


def wait_for_port(host: str, port: int, patience: float = 120) -> None:
    end = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """``host:port`` of an empty registry on loopback."""
    port = free_port()
    config = folder / "registry.json"  # JSON is YAML
    config.write_text(
        json.dumps(
            {
                "version": 0.1,
                "log": {"level": "error", "accesslog": {"disabled": True}},
                "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
                "http": {"addr": f"127.0.0.1:{port}"},
            }
        )
    )
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
        try:
            wait_for_port("127.0.0.1", port)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/_catalog") as answer:
                assert json.load(answer) == {"repositories": []}, "a stranger's registry answers"
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


def tar(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    """An archive of files (name and content; a name ending in ``/`` is a folder) and of ready-made headers."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            name, content = member
            header = tarfile.TarInfo(name.rstrip("/"))
            header.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return out.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


def a_system(*more: tuple[str, bytes] | tarfile.TarInfo, files: int = 300) -> bytes:
    """A layer that looks like a small, clean system."""
    clean = [
        ("etc/os-release", b"ID=debian\n"),
        ("etc/machine-id", b""),
        ("etc/passwd", b"root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33::/var/www:/usr/sbin/nologin\n"),
        ("etc/shadow", b"root:*:20000:0:99999:7:::\nwww-data:!:20000::::::\nsshd:!*:20000::::::\n"),
        ("etc/gshadow", b"root:*::\nusers:*::\nstaff::\n"),
        ("etc/sudoers", b"# %sudo ALL=(ALL) NOPASSWD: ALL\nroot ALL=(ALL:ALL) ALL\n"),
    ]
    return tar(*clean, *((f"usr/share/doc/p{number}/copyright", b"free\n") for number in range(files)), *more)


def push(
    where: str,
    *layers: bytes,
    config: Mapping[str, Any] | None = None,
    media: str = "application/vnd.oci.image.layer.v1.tar+gzip",
    name: str = "test",
) -> Artefact:
    """Put an image made of those layers (tar archives, packed here) into a registry."""
    packed = [gzip.compress(layer, 1) if media.endswith("gzip") else layer for layer in layers]
    diff_ids = [_digest(layer) for layer in layers]
    blob = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    blob = json.dumps(json.loads(blob) | dict(config or {}))
    with httpx.Client(base_url=f"http://{where}", trust_env=False) as client:
        for data in (*packed, blob.encode()):
            begun = client.post(f"/v2/{name}/blobs/uploads/").raise_for_status()
            client.put(f"{begun.headers['Location']}&digest={_digest(data)}", content=data).raise_for_status()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": _descriptor("application/vnd.oci.image.config.v1+json", blob.encode()),
                "layers": [_descriptor(media, layer) for layer in packed],
            }
        ).encode()
        url = f"/v2/{name}/manifests/{_digest(manifest)}"
        client.put(url, content=manifest, headers={"Content-Type": _MANIFEST}).raise_for_status()
    return Artefact("docker", f"{where}/{name}@{_digest(manifest)}", _digest(manifest))


_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _descriptor(media: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media, "digest": _digest(data), "size": len(data)}
