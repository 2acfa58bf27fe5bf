"""A container registry by its HTTP API (OCI distribution): what the ``docker`` platform needs of it, and no more."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import (
    AuthenticationFailed,
    InvalidConfig,
    InvalidSpec,
    NotFound,
    NotSupported,
    PhoenixError,
    Throttled,
    Unavailable,
)

_IMAGE_MANIFESTS = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*")
_PARAMETER = re.compile(r'([a-z]+)="([^"]*)"')
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")
_LARGEST = 8 * 1024 * 1024
"""Bytes: no manifest or image configuration is near that, and a hostile registry may send for ever."""
_MOST_PAGES = 1000


@dataclass(frozen=True)
class Manifest:
    """One image manifest, checked against its digest."""

    digest: str
    media_type: str
    body: bytes

    @property
    def config_digest(self) -> str:
        """Digest of the image's configuration; empty if this is no plain image (an index, say)."""
        if self.media_type not in _IMAGE_MANIFESTS:
            return ""
        digest = _mapping(_mapping(_parsed(self.body)).get("config")).get("digest")
        return digest if isinstance(digest, str) and _DIGEST.fullmatch(digest) else ""


@contextmanager
def opened(connection: Connection) -> Iterator[Registry]:
    """The registry for as long as the block lasts. No I/O before its first call."""
    registry = Registry(connection)
    with registry.client:
        yield registry


class Registry:
    """One registry; errors come as those of ``domain.errors``."""

    def __init__(self, connection: Connection) -> None:
        if not connection.host:
            raise InvalidConfig(f"The connection '{connection.id}' names no registry host.", remedy="Set its host.")
        self.authority = f"{connection.host}:{connection.port}" if connection.port else connection.host
        scheme = connection.extra.get("scheme") or ("http" if _is_loopback(connection.host) else "https")
        self._auth = (connection.login, connection.password) if connection.login else None
        self.client = httpx.Client(
            base_url=f"{scheme}://{self.authority}",
            verify=_trust(connection),
            timeout=15,
            follow_redirects=True,
            trust_env=False,  # the environment's proxies and .netrc have no say in where artefacts come from
        )

    @property
    def credentials(self) -> dict[str, str] | None:
        """What a container engine needs to pull from here; None for an open registry."""
        return {"username": self._auth[0], "password": self._auth[1]} if self._auth else None

    def reference(self, repository: str, digest: str) -> str:
        """``host:port/repository@sha256:…``."""
        return f"{self.authority}/{repository}@{digest}"

    def parse(self, reference: str) -> tuple[str, str]:
        """Repository and digest of a reference into this registry.

        :raises InvalidSpec: it goes elsewhere, or is not by digest.
        """
        name, _, digest = reference.partition("@")
        authority, _, repository = name.partition("/")
        if authority != self.authority:
            raise InvalidSpec(
                f"{reference!r} is not in the registry {self.authority}.", remedy="Push the artefact there."
            )
        if not _DIGEST.fullmatch(digest) or not _REPOSITORY.fullmatch(repository):
            raise InvalidSpec(f"{reference!r} is not a reference by digest.", remedy="Use name@sha256:….")
        return repository, digest

    def repositories(self) -> list[str]:
        """Every repository, all pages."""
        return [name for name in self._pages("/v2/_catalog?n=500", "repositories") if _REPOSITORY.fullmatch(name)]

    def tags(self, repository: str) -> list[str]:
        """Every tag of a repository, all pages; none if the repository has gone meanwhile."""
        try:
            return self._pages(f"/v2/{repository}/tags/list?n=500", "tags")
        except NotFound:
            return []

    def digest_of(self, repository: str, tag: str) -> str:
        """The digest that a tag points at; empty if there is no such tag."""
        try:
            headers = self._ask("HEAD", f"/v2/{repository}/manifests/{tag}", accept=True)[0]
        except NotFound:
            return ""
        digest = str(headers.get("docker-content-digest", ""))
        if not _DIGEST.fullmatch(digest):
            raise Unavailable(f"The registry {self.authority} did not say which digest {repository}:{tag} has.")
        return digest

    def manifest(self, repository: str, digest: str) -> Manifest:
        """The manifest with that digest.

        :raises NotFound: there is none.
        """
        headers, body = self._ask("GET", f"/v2/{repository}/manifests/{digest}", accept=True)
        self._check(body, digest, repository)
        return Manifest(digest, headers.get("content-type", "").partition(";")[0].strip(), body)

    def labels(self, repository: str, manifest: Manifest) -> dict[str, str]:
        """The labels in the image's configuration; none if it has none or is no plain image."""
        digest = manifest.config_digest
        if not digest:
            return {}
        body = self._ask("GET", f"/v2/{repository}/blobs/{digest}")[1]
        self._check(body, digest, repository)
        labels = _mapping(_mapping(_mapping(_parsed(body)).get("config")).get("Labels"))
        return {str(key): str(value) for key, value in labels.items()}

    def tag(self, repository: str, manifest: Manifest, tag: str) -> None:
        """Let ``tag`` point at the manifest; it may have pointed elsewhere."""
        self._ask(
            "PUT",
            f"/v2/{repository}/manifests/{tag}",
            body=manifest.body,
            headers={"content-type": manifest.media_type},
        )

    def delete(self, repository: str, digest: str) -> None:
        """Delete the manifest and with it all its tags; what is not there is deleted.

        :raises NotSupported: the registry does not let anybody delete.
        """
        try:
            self._ask("DELETE", f"/v2/{repository}/manifests/{digest}")
        except NotFound:
            return

    # Inside

    def _check(self, body: bytes, digest: str, repository: str) -> None:
        if f"sha256:{hashlib.sha256(body).hexdigest()}" != digest:
            raise AuthenticationFailed(
                f"The registry {self.authority} sent other bytes than {repository}@{digest}.",
                remedy="Find out who changed its storage or its answers before anything is launched from it.",
            )

    def _pages(self, path: str, key: str) -> list[str]:
        found: list[str] = []
        for _ in range(_MOST_PAGES):
            headers, body = self._ask("GET", path)
            page = _mapping(_parsed(body)).get(key, ...)
            if page is not None and not isinstance(page, list):
                raise Unavailable(f"The registry {self.authority} answered {path} without '{key}'.")
            found += [str(entry) for entry in page or []]
            path = _next_page(headers.get("link", ""))
            if not path:
                return found
        raise Unavailable(f"The registry {self.authority} has no end of pages of {key}.")

    def _ask(
        self,
        method: str,
        path: str,
        *,
        accept: bool = False,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[httpx.Headers, bytes]:
        wanted = dict(headers or {}) | ({"accept": ", ".join(_IMAGE_MANIFESTS)} if accept else {})
        reply, content = self._send(method, path, body, wanted | self._basic())
        challenge = reply.headers.get("www-authenticate", "")
        if reply.status_code == 401 and challenge.lower().startswith("bearer "):
            token = self._token(dict(_PARAMETER.findall(challenge)))
            reply, content = self._send(method, path, body, wanted | {"authorization": f"Bearer {token}"})
        if reply.is_success:
            return reply.headers, content
        raise self._error(f"{method} {path}", reply.status_code, content)

    def _send(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], **params: str
    ) -> tuple[httpx.Response, bytes]:
        # A redirect to another host (where large registries keep their blobs) goes without the authorization.
        with (
            self._translated(f"{method} {url}"),
            self.client.stream(method, url, content=body, headers=headers, params=params or None) as reply,
        ):
            return reply, _bounded(reply)

    def _basic(self) -> dict[str, str]:
        if not self._auth:
            return {}
        return {"authorization": f"Basic {base64.b64encode(':'.join(self._auth).encode()).decode()}"}

    def _token(self, challenge: Mapping[str, str]) -> str:
        """A token from where the registry sends us for one (the distribution's token protocol)."""
        realm = httpx.URL(challenge.get("realm", ""))
        if realm.scheme != "https" and not (realm.scheme == "http" and _is_loopback(realm.host)):
            raise AuthenticationFailed(f"The registry {self.authority} wants a password shown to {str(realm)!r}.")
        asked = {name: challenge[name] for name in ("service", "scope") if name in challenge}
        reply, content = self._send("GET", str(realm), None, self._basic(), **asked)
        if not reply.is_success:
            raise self._error(f"GET {realm}", reply.status_code, content)
        answer = _mapping(_parsed(content))
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise Unavailable(f"{realm.host} answered without a token for the registry {self.authority}.")
        return token

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise Unavailable(
                f"The registry {self.authority} does not answer {what}: {error or type(error).__name__}.",
                remedy="See that it runs and can be reached.",
            ) from error

    def _error(self, what: str, status: int, content: bytes) -> PhoenixError:
        text = f"The registry {self.authority} answered {what} with {status}: {_short(content)}"
        if status in (401, 403):
            return AuthenticationFailed(text, remedy="Correct login and password of its connection.")
        if status == 404:
            return NotFound(text)
        if status == 405:
            return NotSupported(text, remedy="Allow deletion in the registry's own configuration.")
        if status == 429:
            return Throttled(text)
        if status >= 500:
            return Unavailable(text)
        return InvalidSpec(text)


def _trust(connection: Connection) -> ssl.SSLContext:
    """The certificates to believe: the connection's own file, or else the system's."""
    file = connection.extra.get("ca_file")
    try:
        return ssl.create_default_context(cafile=file)
    except OSError as error:
        raise InvalidConfig(
            f"The connection '{connection.id}': {file} holds no certificates: {error}.", remedy="Correct extra.ca_file."
        ) from error


def _bounded(reply: httpx.Response) -> bytes:
    content = b""
    for chunk in reply.iter_bytes():
        content += chunk
        if len(content) > _LARGEST:
            raise Unavailable(f"The registry's answer to {reply.request.url.path} is too long to be true.")
    return content


def _next_page(link: str) -> str:
    """Path and query of the next page: never another host, whatever the header says."""
    match = re.search(r'<([^>]+)>\s*;\s*rel="?next"?', link)
    if not match:
        return ""
    url = urlsplit(match[1])
    return f"{url.path}?{url.query}"


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise Unavailable(f"The registry's answer is not JSON: {_short(body)}") from error


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _short(content: bytes) -> str:
    return repr(content[:300].decode("utf-8", "replace"))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
