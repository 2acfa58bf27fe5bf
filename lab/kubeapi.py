"""As much of a client of Kubernetes' API as the lab needs: objects as they come, lists, and watches that go on."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from phoenix_fleet.domain.errors import NotFound, PermanentError, Refused, Unavailable

Object = dict[str, Any]
Event = tuple[str, Object]
"""``ADDED``, ``MODIFIED`` or ``DELETED`` with an object; ``LISTED`` with the whole list, whenever a watch starts."""

_WATCH_SECONDS = 60
_PATCHES = {
    "strategic": "application/strategic-merge-patch+json",
    "merge": "application/merge-patch+json",
    "apply": "application/apply-patch+yaml",
}


class Conflict(PermanentError):
    """An object of that name is there already, or it has changed meanwhile."""


@dataclass(frozen=True)
class Identity:
    """Whom one calls, and as whom."""

    url: str
    ca: str
    """Path of the authority's certificate."""
    own: str
    """Path of the key with its certificate."""


class Api:
    """A client for any number of threads."""

    def __init__(self, identity: Identity, *, timeout: float = 30) -> None:
        context = ssl.create_default_context(cafile=identity.ca)
        context.load_cert_chain(identity.own)
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=20)
        self.url = identity.url
        self._client = httpx.Client(
            base_url=identity.url, verify=context, timeout=timeout, trust_env=False, limits=limits
        )

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    def get(self, path: str, **query: str) -> Object:
        """The object or list there.

        :raises NotFound: there is none.
        :raises Refused: one may not.
        :raises Unavailable: nobody answers, or not now.
        """
        return self._ask("GET", path, query=query)

    def create(self, path: str, body: Object) -> Object:
        """The object as it was made. :raises Conflict: there is one of that name."""
        return self._ask("POST", path, body)

    def replace(self, path: str, body: Object) -> Object:
        """The object as it is now. :raises Conflict: it has changed meanwhile."""
        return self._ask("PUT", path, body)

    def patch(self, path: str, body: Object, *, how: str = "strategic", **query: str) -> Object:
        """The object as it is now. ``how``: strategic, merge, or apply."""
        return self._ask("PATCH", path, body, query=query, content_type=_PATCHES[how])

    def delete(self, path: str, body: Object | None = None) -> None:
        """Ask for its end; what is gone already is fine."""
        try:
            self._ask("DELETE", path, body)
        except NotFound:
            return

    def answers(self) -> bool:
        """Whether it is there and ready."""
        try:
            return self._client.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def follow(self, path: str, over: threading.Event, **query: str) -> Iterator[Event]:
        """All that happens to that list, until ``over``: it survives the server's absence and starts with a list."""
        while not over.is_set():
            try:
                listed = self.get(path, **query)
                yield "LISTED", listed
                yield from self._watch(path, listed["metadata"]["resourceVersion"], over, query)
            except (Unavailable, NotFound, Refused, _Anew):
                over.wait(0.5)

    def _watch(self, path: str, version: str, over: threading.Event, query: Mapping[str, str]) -> Iterator[Event]:
        """Watches, one after the other, until the server wants a new list."""
        while not over.is_set():
            asked = {**query, "watch": "1", "resourceVersion": version, "timeoutSeconds": str(_WATCH_SECONDS)}
            try:
                with self._client.stream("GET", path, params=asked, timeout=httpx.Timeout(10, read=90)) as answer:
                    if answer.status_code != 200:
                        raise _Anew
                    for line in answer.iter_lines():
                        event = json.loads(line)
                        if event["type"] not in ("ADDED", "MODIFIED", "DELETED"):
                            raise _Anew  # 410: what one has seen is too long ago
                        version = event["object"]["metadata"]["resourceVersion"]
                        yield event["type"], event["object"]
                        if over.is_set():
                            return
            except (httpx.HTTPError, ValueError):
                raise _Anew from None

    def _ask(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        content = None if body is None else json.dumps(body)
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        try:
            answer = self._client.request(method, path, content=content, headers=headers, params=query)
        except httpx.HTTPError as error:
            raise Unavailable(f"{self.url} does not answer: {type(error).__name__}: {error}") from None
        if answer.is_success:
            found: Object = answer.json()
            return found
        raise _refusal(answer, f"{method} {path}")


class _Anew(Exception):
    """What was watched has to be listed again."""


def _refusal(answer: httpx.Response, asked: str) -> Exception:
    try:
        said = answer.json().get("message", answer.text)
    except ValueError:
        said = answer.text
    said = f"{asked}: {answer.status_code} {said}"[:1000]
    if answer.status_code == 404:
        return NotFound(said)
    if answer.status_code == 409:
        return Conflict(said)
    if answer.status_code in (429, 500, 502, 503, 504):
        return Unavailable(said)
    return Refused(said)


def write_kubeconfig(file: Path, identity: Identity, name: str) -> Path:
    """The same identity as a kubeconfig that needs no other file (JSON, which is YAML)."""

    def data(path: str) -> str:
        return base64.b64encode(Path(path).read_bytes()).decode()

    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": identity.url, "certificate-authority-data": data(identity.ca)}}
        ],
        "users": [
            {
                "name": name,
                "user": {"client-certificate-data": data(identity.own), "client-key-data": data(identity.own)},
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    file.touch(mode=0o600)
    file.write_text(json.dumps(config, indent=1))
    return file
