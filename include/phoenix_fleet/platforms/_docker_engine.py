"""The Docker Engine behind the ``docker`` platform: a client for one call, errors in our words, files in and out."""

from __future__ import annotations

import io
import re
import socket
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import (
    AuthenticationFailed,
    CapacityExhausted,
    InvalidConfig,
    InvalidSpec,
    NotFound,
    PhoenixError,
    Throttled,
    Unavailable,
)

if TYPE_CHECKING:
    from docker import APIClient

TIMEOUT = 60
"""Seconds without a byte from the engine, after which it counts as not answering."""

_SMALL_FILE = 64 * 1024
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_NO_ROOM = (
    "no space left",
    "cannot allocate memory",
    "no available ipv4",
    "no available network",
    "address pools have been",
    "pids limit",
)
_WORDS: tuple[tuple[tuple[str, ...], type[PhoenixError]], ...] = (
    (_NO_ROOM, CapacityExhausted),
    (("toomanyrequests", "too many requests"), Throttled),
    (("unauthorized", "no basic auth credentials", "access denied", "denied:"), AuthenticationFailed),
    (("manifest unknown", "manifest invalid", "name unknown"), InvalidSpec),
)
_STATUS: dict[int, type[PhoenixError]] = {
    401: AuthenticationFailed,
    403: AuthenticationFailed,
    404: NotFound,
    409: InvalidSpec,
    429: Throttled,
}


@contextmanager
def engine(connection: Connection, what: str) -> Iterator[APIClient]:
    """A client of the engine for one call of ours; ``what`` begins the message of an error."""
    import docker

    with translated(what):
        where = _where(connection)
        _knock(where["base_url"])
        # One client for each call: sessions are not made for threads, and none is left open behind anybody.
        api = docker.APIClient(version="auto", timeout=TIMEOUT, **where)
        try:
            yield api
        finally:
            api.close()


def _where(connection: Connection) -> dict[str, Any]:
    from docker.tls import TLSConfig

    host = connection.host.removeprefix("unix://")
    if not host:
        raise InvalidConfig(f"The connection '{connection.id}' names no engine.", remedy="Set its host to the socket.")
    if host.startswith("/"):
        return {"base_url": f"unix://{host}"}
    if host.startswith("var/"):  # how a URI without its third slash comes out
        return {"base_url": f"unix:///{host}"}
    address = f"tcp://{host}:{connection.port or 2376}"
    extra = connection.extra
    if extra.get("ca_cert"):
        pair = (extra["client_cert"], extra["client_key"]) if extra.get("client_cert") else None
        return {"base_url": address, "tls": TLSConfig(client_cert=pair, ca_cert=extra["ca_cert"], verify=True)}
    if host not in _LOOPBACK:
        raise InvalidConfig(
            f"The connection '{connection.id}' reaches {host} without TLS: whoever is in between would be root there.",
            remedy="Set extra.ca_cert, extra.client_cert and extra.client_key.",
        )
    return {"base_url": address}


def _knock(base_url: str) -> None:
    # The SDK leaves its socket open behind it when nobody answers at a path, so that is found out here.
    if base_url.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(TIMEOUT)
            probe.connect(base_url.removeprefix("unix://"))


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn the SDK's errors, and those of what it stands on, into ours."""
    import docker.errors
    import requests.exceptions
    import urllib3.exceptions

    try:
        yield
    except docker.errors.APIError as error:
        raise api_error(what, error.status_code or 500, error.explanation or str(error)) from error
    except docker.errors.TLSParameterError as error:
        raise InvalidConfig(f"{what}: {error}", remedy="Correct the TLS files of the engine's connection.") from error
    except (
        docker.errors.DockerException,
        requests.exceptions.RequestException,
        urllib3.exceptions.HTTPError,
        OSError,
    ) as error:
        if "Permission denied" in str(error):
            raise AuthenticationFailed(
                f"{what}: the Docker engine may not be used: {error}", remedy="Join the group that owns its socket."
            ) from error
        raise Unavailable(
            f"{what}: the Docker engine does not answer: {error}", remedy="See that dockerd runs and can be reached."
        ) from error


def api_error(what: str, status: int, message: object) -> PhoenixError:
    """Our error for one that the engine reported."""
    text = f"{what}: {str(message).strip()[:500]}"
    lowered = text.lower()
    for words, kind in _WORDS:
        if any(word in lowered for word in words):
            return kind(text)
    if status in _STATUS:
        return _STATUS[status](text)
    return Unavailable(text) if status >= 500 else InvalidSpec(text)


def pull(api: APIClient, reference: str, credentials: dict[str, str] | None) -> None:
    """Let the engine have the image by digest (it checks the digest itself); nothing to do if it has it.

    :raises InvalidSpec: the registry has no such image.
    """
    import docker.errors

    try:
        _inspect_image(api, reference)
        return
    except docker.errors.NotFound:
        repository, _, digest = reference.partition("@")
    try:
        for line in api.pull(repository, tag=digest, stream=True, decode=True, auth_config=credentials):
            if "error" in line:
                raise api_error(f"pull {reference}", 500, line["error"])
    except docker.errors.NotFound as error:
        raise InvalidSpec(
            f"pull {reference}: {error.explanation}", remedy="Build the image again, or restore the registry."
        ) from error


def repo_digests(api: APIClient, image_id: str) -> list[str]:
    """``repository@sha256:…`` for every registry that the image was pulled from or pushed to; none if unknown."""
    import docker.errors

    try:
        return [str(entry) for entry in _inspect_image(api, image_id).get("RepoDigests") or []]
    except docker.errors.NotFound:
        return []


def _inspect_image(api: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = api.inspect_image(name)  # the SDK's types leave this one out
    return found


def forget_image(api: APIClient, reference: str) -> None:
    """Free the engine's own copy, unless something still needs it."""
    import docker.errors

    try:
        api.remove_image(reference)
    except docker.errors.APIError as error:
        if error.status_code not in (404, 409):
            raise


def put_authorized_key(api: APIClient, container_id: str, key: str) -> None:
    """Let the holder of that key log in as root, before the container ever ran."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        folder = tarfile.TarInfo("root/.ssh")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o700
        tar.addfile(folder)
        line = f"{key}\n".encode()
        file = tarfile.TarInfo("root/.ssh/authorized_keys")
        file.mode, file.size = 0o600, len(line)
        tar.addfile(file, io.BytesIO(line))
    api.put_archive(container_id, "/", content.getvalue())


def host_keys(api: APIClient, container_id: str) -> tuple[str, ...]:
    """The public SSH host keys that lie in the container, without comments; none before it made them."""
    found = []
    for kind in ("ed25519", "ecdsa", "rsa"):
        text = read_file(api, container_id, f"/etc/ssh/ssh_host_{kind}_key.pub")
        match = re.match(
            r"(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)) [A-Za-z0-9+/]{32,}={0,2}(?=\s|$)", text
        )
        if match:
            found.append(match[0])
    return tuple(found)


def read_file(api: APIClient, container_id: str, path: str) -> str:
    """A small text file from the container; empty if it is missing, no plain file, too long or not text."""
    import docker.errors

    try:
        chunks, _ = api.get_archive(container_id, path)
    except docker.errors.NotFound:
        return ""
    return _only_file(chunks)


def _only_file(chunks: Iterable[bytes]) -> str:
    # The container decides what comes back: a link, a folder or endless bytes are not followed, opened or read on.
    content = b""
    for chunk in chunks:
        content += chunk
        if len(content) > _SMALL_FILE:
            return ""
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            member = tar.next()
            file = tar.extractfile(member) if member is not None and member.isreg() else None
            return file.read().decode() if file else ""
    except (tarfile.TarError, UnicodeDecodeError):
        return ""
