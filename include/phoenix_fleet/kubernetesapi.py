"""Kubernetes' API, for the drivers that need it: a client from an Airflow connection, and its errors in our words.

The connection is one of the type ``kubernetes``, read as the cncf.kubernetes provider of Airflow reads it
(https://airflow.apache.org/docs/apache-airflow-providers-cncf-kubernetes/stable/connections/kubernetes.html): one that
works there works here, and neither Airflow nor the provider is imported. Beside its ways (in the cluster, a kubeconfig
as file or as JSON) a host with a token as password and ``extra.ca_file`` will do.

Objects are plain data as the API gives them: what a server of another version adds or leaves out breaks nothing here.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phoenix_fleet.connections import Connection, Connections
from phoenix_fleet.domain.errors import (
    AuthenticationFailed,
    InvalidConfig,
    InvalidSpec,
    NotFound,
    PhoenixError,
    Throttled,
    Unavailable,
)

Object = dict[str, Any]

FIELD_MANAGER = "phoenix-fleet"
"""Under this name the API keeps which fields are ours."""
TIMEOUT = (10, 30)
"""Seconds to connect and to be answered in."""
PAGE = 250
_LONGEST = 400
"""Characters of the API's own words in a message of ours."""
APPLY, MERGE = "application/apply-patch+yaml", "application/merge-patch+json"
_FROM_HERE = ("in_cluster", "kube_config_path", "kube_config")


class Conflict(InvalidSpec):
    """Somebody else owns a field that would be changed."""


class Changed(Unavailable):
    """The object is another one, or has changed, since it was read: read it again."""


class Clusters:
    """Clients by connection, made when first asked for and kept for as long as the connection stays the same."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._made: dict[str, tuple[Connection, Cluster]] = {}
        self._lock = threading.Lock()

    def __call__(self, conn_id: str) -> Cluster:
        """The cluster of that connection.

        :raises InvalidConfig: the connection is missing or says nothing that leads to a cluster.
        """
        connection = self._connections(conn_id)
        with self._lock:
            made = self._made.get(conn_id)
            if made is None or made[0] != connection:
                made = self._made[conn_id] = connection, Cluster(connection)
            return made[1]


class Cluster:
    """One cluster, as one user. Safe from any thread. Paths are those of the API: ``/apis/apps/v1/…``."""

    def __init__(self, connection: Connection) -> None:
        self.name = connection.id
        self._client = _client(connection)

    def get(self, path: str) -> Object:
        """The object there. :raises NotFound: there is none."""
        return self._call("GET", path)

    def list_all(self, path: str, **query: str) -> list[Object]:
        """Every object of a collection, page by page; all of them or an error."""
        found: list[Object] = []
        wanted: dict[str, str] = {**query, "limit": str(PAGE)}
        while True:
            page = self._call("GET", path, query=wanted)
            found += page.get("items") or []
            following = (page.get("metadata") or {}).get("continue")
            if not following:
                return found
            wanted["continue"] = following

    def apply(self, path: str, body: Object, *, force: bool = False, dry_run: bool = False) -> Object:
        """The object after a server-side apply of all fields that are to be ours.

        A ``body`` with ``metadata.uid`` never makes an object; with ``resourceVersion`` it changes just what was read.

        :param force: take fields over that somebody else owns.
        :raises Conflict: somebody else owns one of them. :raises Changed: it is not what was read any more.
        """
        query = {"fieldManager": FIELD_MANAGER, "force": str(force).lower(), **({"dryRun": "All"} if dry_run else {})}
        return self._call("PATCH", path, body, query=query, content_type=APPLY)

    def merge(self, path: str, body: Object) -> Object:
        """The object after a merge patch. :raises Changed: the body has another ``resourceVersion`` than it has now."""
        return self._call("PATCH", path, body, query={"fieldManager": FIELD_MANAGER}, content_type=MERGE)

    def create(self, path: str, body: Object) -> Object:
        """What the API answers to a new object in that collection or subresource."""
        return self._call("POST", path, body)

    def delete(self, path: str, uid: str) -> None:
        """Delete exactly the object with that uid.

        :raises NotFound: there is none. :raises Changed: another one has its name.
        """
        self._call("DELETE", path, {"preconditions": {"uid": uid}})

    def _call(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        with _translated(f"{method} {path} of {self.name}"):
            headers = {"Accept": "application/json", "Content-Type": content_type}
            self._client.update_params_for_auth(headers, [], ["BearerToken"])
            answer = self._client.request(
                method,
                self._client.configuration.host + path,
                query_params=list((query or {}).items()),
                headers=headers,
                body=body,
                _request_timeout=TIMEOUT,
            )
            found = json.loads(answer.data)
            if not isinstance(found, dict):
                raise ValueError("not an object")
            return found


@contextmanager
def _translated(what: str) -> Iterator[None]:
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        raise _error_of(what, error) from error
    except (HTTPError, OSError) as error:
        raise Unavailable(f"{what}: the API does not answer: {_shortened(str(error))}") from error
    except ValueError as error:  # what answers there does not speak JSON
        raise Unavailable(f"{what}: the answer is not Kubernetes': {_shortened(str(error))}") from error


def _error_of(what: str, error: Any) -> PhoenixError:
    status = _status_of(error.body)
    said = _shortened(str(status.get("message") or error.reason or ""))
    code = int(error.status or 0)
    if code == 0:
        return AuthenticationFailed(f"{what}: TLS failed: {said}.", remedy="Correct the connection's authority.")
    if code in (401, 403):
        remedy = "Give the connection's user the shipped roles (docs/platforms/kubernetes.md), or renew its keys."
        return AuthenticationFailed(f"{what}: {said}.", remedy=remedy)
    if code == 404:
        return NotFound(f"{what}: {said}.", remedy="Correct its name, or make it.")
    if code == 409:
        return _conflict(what, said, status)
    if code == 429:
        return Throttled(f"{what}: {said}.", remedy="Wait; it says nothing about health.")
    if code in (400, 405, 415, 422):
        return InvalidSpec(f"{what}: {said}.", remedy="Correct what is asked for.")
    return Unavailable(f"{what}: {code}: {said}.")


def _conflict(what: str, said: str, status: Mapping[str, Any]) -> PhoenixError:
    causes = (status.get("details") or {}).get("causes") or []
    owned = [each for each in causes if each.get("reason") == "FieldManagerConflict"]
    if owned:
        fields = ", ".join(f"{each.get('field')} ({each.get('message')})" for each in owned[:3])
        return Conflict(
            f"{what}: somebody else owns {_shortened(fields)}.",
            remedy="Have them leave the field alone; then say take_over: true once.",
        )
    return Changed(f"{what}: {said}.")


def _status_of(body: Any) -> dict[str, Any]:
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _shortened(text: str) -> str:
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


# The way there


def _client(connection: Connection) -> Any:
    from kubernetes import client
    from kubernetes.config import ConfigException

    configuration = client.Configuration()
    configuration.retries = False  # whoever calls decides whether to try again
    try:
        _configure(configuration, connection)
    except (ConfigException, OSError, ValueError, TypeError, KeyError) as error:
        raise _bad(connection, _shortened(str(error)) or type(error).__name__) from error
    if not configuration.verify_ssl:
        raise _bad(connection, "TLS is not verified, so anybody could answer")
    return client.ApiClient(configuration)


def _configure(configuration: Any, connection: Connection) -> None:
    from kubernetes import config

    said = {name: _extra(connection, name) for name in _FROM_HERE}
    chosen = [name for name in _FROM_HERE if said[name]]
    context = _extra(connection, "cluster_context") or None
    if len(chosen) > 1:
        raise _bad(connection, f"only one of {', '.join(chosen)} can say where the cluster is")
    if _extra(connection, "disable_verify_ssl") in (True, "true", "True"):
        raise _bad(connection, "disable_verify_ssl is set, so anybody could answer")
    if said["in_cluster"]:
        config.load_incluster_config(client_configuration=configuration)
    elif said["kube_config_path"]:
        path = str(Path(str(said["kube_config_path"])).expanduser())
        config.load_kube_config(path, context, configuration, persist_config=False)
    elif said["kube_config"]:
        told = said["kube_config"]
        told = json.loads(told) if isinstance(told, str) else dict(told)
        config.load_kube_config_from_dict(told, context, configuration, persist_config=False)
    elif connection.host and connection.password:
        _configure_token(configuration, connection)
    else:
        raise _bad(connection, "it says nothing that leads to a cluster")


def _configure_token(configuration: Any, connection: Connection) -> None:
    host = connection.host if "://" in connection.host else f"https://{connection.host}"
    if not host.startswith("https://"):
        raise _bad(connection, "a token is only sent over https")
    configuration.host = f"{host}:{connection.port}" if connection.port else host
    configuration.api_key = {"BearerToken": f"Bearer {connection.password}"}
    configuration.ssl_ca_cert = _extra(connection, "ca_file") or None


def _extra(connection: Connection, name: str) -> Any:
    return connection.extra.get(name) or connection.extra.get(f"extra__kubernetes__{name}")


def _bad(connection: Connection, why: str) -> InvalidConfig:
    return InvalidConfig(
        f"Connection '{connection.id}': {why}.",
        remedy="Set in_cluster, kube_config_path or kube_config (with cluster_context), or host, password (a token) "
        "and extra.ca_file.",
    )
