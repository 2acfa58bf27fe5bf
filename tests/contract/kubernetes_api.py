"""As much of Kubernetes' API server as the drivers call, in this process, for tests that take no time.

It keeps what drivers rely on as the real one does, and the same tests run against that one too: ``generation`` counts
changes of the spec and no others, a server-side apply keeps who owns which field, refuses what another manager owns,
and removes what its own manager leaves out; writes that name another ``uid`` or ``resourceVersion`` are refused, and
evictions stay within the budget. It runs no controllers: tests write the status that these would write.
"""

from __future__ import annotations

import copy
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from phoenix_fleet.connections import Connection

Object = dict[str, Any]
Path = tuple[str, ...]


class Refused(Exception):
    def __init__(self, code: int, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code, self.message, self.details = code, message, details


@dataclass
class ApiServer:
    """Its state, and what a test can order."""

    policy: str = "policy/v1"
    """The version of budgets that it serves."""
    objects: dict[str, Object] = field(default_factory=dict)
    owners: dict[str, dict[str, set[Path]]] = field(default_factory=dict)
    """By object, which manager owns which fields."""
    calls: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    used: set[tuple[str, str]] = field(default_factory=set)
    """(verb, resource) of every call."""
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    """(verb, resource) that nobody may."""
    broken: Callable[[str, str], int | None] = lambda method, path: None
    """An HTTP status that a call is answered with instead."""
    lost: set[str] = field(default_factory=set)
    """Methods whose next call takes effect and is answered with 504."""
    version: int = 0
    url: str = ""

    def __post_init__(self) -> None:
        self.lock = threading.RLock()

    def handle(self, method: str, path: str, query: dict[str, str], kind: str, body: Any) -> tuple[int, Object]:
        with self.lock:
            self.calls.append((method, path, query))
            if status := self.broken(method, path):
                return status, _status(status, "out of order")
            before = copy.deepcopy((self.objects, self.owners, self.version))
            try:
                found = self._answer(method, path, query, kind, body)
            except Refused as refused:
                return refused.code, _status(refused.code, refused.message, **refused.details)
            if query.get("dryRun") == "All":
                self.objects, self.owners, self.version = before
            if method in self.lost:
                self.lost.discard(method)
                return 504, _status(504, "the reply was lost")
            return 201 if method == "POST" else 200, copy.deepcopy(found)

    def _answer(self, method: str, path: str, query: dict[str, str], kind: str, body: Any) -> Object:
        if (method, path) == ("GET", "/api/v1"):
            group, _, version = self.policy.partition("/")
            return {"resources": [{"name": "pods/eviction", "group": group, "version": version, "kind": "Eviction"}]}
        base, sub = re.sub(r"/(status|eviction)$", "", path), path.rpartition("/")[2]
        resource = re.sub(r"^/(api/v1|apis/[^/]+/[^/]+)/(namespaces/[^/]+/)?", "", path).partition("/")[0]
        resource = "pods/eviction" if sub == "eviction" else resource
        listed = method == "GET" and path not in self.objects and _is_collection(path)
        verb = "list" if listed else {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}[method]
        self.used.add((verb, resource))
        if (verb, resource) in self.forbidden:
            raise Refused(403, f'User "phoenix" cannot {verb} resource "{resource}"')
        if "/policy/" in path and not path.startswith(f"/apis/{self.policy}/"):
            raise Refused(404, "the server could not find the requested resource")
        if sub == "eviction":
            return self._evict(base, body)
        if method == "POST":
            return self._create(path, body)
        if listed:
            return self._list(path, query)
        found = self.objects.get(base)
        if found is None:
            raise Refused(404, f'"{base.rpartition("/")[2]}" not found')
        if method == "DELETE":
            _check(found, (body or {}).get("preconditions") or {})
            del self.objects[base]
        elif method == "PATCH":
            return self._patch(base, found, sub, query, kind, body)
        return found

    def _create(self, path: str, body: Object) -> Object:
        where = f"{path}/{body['metadata']['name']}"
        if where in self.objects:
            raise Refused(409, "already exists")
        made = copy.deepcopy(body)
        made["metadata"] |= {
            "uid": str(uuid.uuid4()),
            "generation": 1,
            "creationTimestamp": "2026-11-01T04:00:00Z",
            "resourceVersion": self._next(),
        }
        match = re.search(r"/namespaces/([^/]+)/", path)
        if match:
            made["metadata"]["namespace"] = match[1]
        self.objects[where] = made
        self.owners[where] = {"kubectl": set(_leaves(body))}
        return made

    def _list(self, path: str, query: Mapping[str, str]) -> Object:
        name = path.rpartition("/")[2]
        inside = re.compile(re.escape(path) + "/[^/]+$")
        anywhere = re.compile(rf"^{re.escape(path.rpartition('/')[0])}/namespaces/[^/]+/{name}/[^/]+$")
        found = [each for key, each in sorted(self.objects.items()) if inside.match(key) or anywhere.match(key)]
        found = [each for each in found if _selected(each, query)]
        start, limit = int(query.get("continue") or 0), int(query.get("limit") or len(found) or 1)
        following = str(start + limit) if start + limit < len(found) else ""
        bare = [{key: value for key, value in each.items() if key != "kind"} for each in found[start : start + limit]]
        return {"kind": "List", "metadata": {"continue": following}, "items": bare}

    def _patch(self, path: str, found: Object, sub: str, query: Mapping[str, str], kind: str, body: Object) -> Object:
        _check(found, body.get("metadata") or {})
        before = copy.deepcopy(found)
        manager = query.get("fieldManager", "kubectl")
        if kind == "application/apply-patch+yaml":
            self._apply(path, found, body, manager, force=query.get("force") == "true")
        else:
            changed = (
                {"status": body["status"]} if sub == "status" else {k: v for k, v in body.items() if k != "status"}
            )
            _merge(found, changed)
            manager = f"{manager} (update)"  # the API keeps apart what one manager has applied and has updated
            for owner, fields in self.owners[path].items():
                if owner != manager:
                    fields -= set(_leaves(changed))
            self.owners[path].setdefault(manager, set()).update(_leaves(changed))
        annotations = [each["metadata"].get("annotations") for each in (found, before)]
        # Of a Deployment alone annotations count too: its controller copies them to its ReplicaSets.
        told = "/deployments/" in path and annotations[0] != annotations[1]
        if found.get("spec") != before.get("spec") or told:
            found["metadata"]["generation"] += 1
        if found != before:
            found["metadata"]["resourceVersion"] = self._next()
        return found

    def _apply(self, path: str, found: Object, body: Object, manager: str, *, force: bool) -> None:
        told = _leaves(body)
        owners = self.owners[path]
        now = _leaves(found)
        for other, fields in owners.items():
            contested = [each for each in told if other != manager and each in fields and now.get(each) != told[each]]
            if contested and not force:
                causes = [
                    {"reason": "FieldManagerConflict", "message": f'conflict with "{other}"', "field": ".".join(each)}
                    for each in contested
                ]
                raise Refused(409, f"Apply failed with {len(causes)} conflicts", details={"causes": causes})
            if other != manager:
                fields -= set(contested)
        for dropped in owners.get(manager, set()) - set(told):
            if not any(dropped in fields for other, fields in owners.items() if other != manager):
                _remove(found, dropped)
        for where, value in told.items():
            _put(found, where, value)
        owners[manager] = set(told)

    def _evict(self, path: str, body: Object) -> Object:
        pod = self.objects.get(path)
        if pod is None:
            raise Refused(404, "not found")
        if body["apiVersion"] != self.policy:
            raise Refused(400, f"{body['apiVersion']} is not known")
        budgets = f"/apis/{self.policy}/namespaces/{pod['metadata']['namespace']}/poddisruptionbudgets/"
        labels = pod["metadata"].get("labels") or {}
        for key, each in self.objects.items():
            wanted = (each.get("spec") or {}).get("selector", {}).get("matchLabels", {})
            if key.startswith(budgets) and wanted.items() <= labels.items():
                if each["status"]["disruptionsAllowed"] <= 0:
                    raise Refused(429, "Cannot evict pod as it would violate the pod's disruption budget.")
                each["status"]["disruptionsAllowed"] -= 1
        pod["metadata"]["deletionTimestamp"] = "2026-11-01T05:00:00Z"
        return {"kind": "Status", "status": "Success"}

    def _next(self) -> str:
        self.version += 1
        return str(self.version)


@contextmanager
def serving(policy: str = "policy/v1") -> Iterator[ApiServer]:
    """An API server on loopback for as long as the block lasts."""
    server = ApiServer(policy)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"null")
            url = urlsplit(self.path)
            query = dict(parse_qsl(url.query))
            code, found = server.handle(self.command, url.path, query, self.headers.get("Content-Type") or "", body)
            data = json.dumps(found).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = _serve

        def log_message(self, *args: Any) -> None:
            """Nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def leading_to(url: str, conn_id: str = "kubernetes_default") -> Connection:
    """A connection to it."""
    told = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": url}}],
        "users": [{"name": "lab", "user": {}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
    }
    return Connection(conn_id, extra={"kube_config": json.dumps(told)})


def _is_collection(path: str) -> bool:
    """Whether that names objects of one kind, in one namespace or all."""
    rest = re.sub(r"^/(api/v1|apis/[^/]+/[^/]+)/", "", path)
    rest = re.sub(r"^namespaces/[^/]+/", "", rest)
    return "/" not in rest


def _status(code: int, message: str, **details: Any) -> Object:
    return {"kind": "Status", "status": "Failure", "code": code, "message": message, **details}


def _check(found: Object, wanted: Mapping[str, Any]) -> None:
    for name in ("uid", "resourceVersion"):
        if name in wanted and wanted[name] != found["metadata"][name]:
            raise Refused(409, f"Precondition failed: {name} is {found['metadata'][name]}, not {wanted[name]}")


def _selected(found: Object, query: Mapping[str, str]) -> bool:
    labels = found["metadata"].get("labels") or {}
    for part in filter(None, (query.get("labelSelector") or "").split(",")):
        key, _, value = part.partition("=")
        if labels.get(key) != value:
            return False
    for part in filter(None, (query.get("fieldSelector") or "").split(",")):
        where, _, value = part.partition("=")
        at: Any = found
        for name in where.split("."):
            at = (at or {}).get(name)
        if at != value:
            return False
    return True


_IDENTITY = ("apiVersion", "kind", "name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp")


def _leaves(value: Any, at: Path = ()) -> dict[Path, Any]:
    """Every field of an object that somebody can own; containers by their names, as the API's schema says."""
    if isinstance(value, dict) and value:
        found: dict[Path, Any] = {}
        for key, inner in value.items():
            if at in ((), ("metadata",)) and key in _IDENTITY:
                continue
            found |= _leaves(inner, (*at, key))
        return found
    if isinstance(value, list) and at[-1:] == ("containers",):
        found = {}
        for each in value:
            rest = {key: inner for key, inner in each.items() if key != "name"}
            found |= _leaves(rest, (*at, f"name={each['name']}"))
        return found
    return {} if isinstance(value, dict) else {at: value}


def _step(found: Any, name: str, *, make: bool = False) -> Any:
    if name.startswith("name="):
        return next(each for each in found if each["name"] == name[5:])
    return found.setdefault(name, {}) if make else found[name]


def _put(found: Object, where: Path, value: Any) -> None:
    at: Any = found
    for name in where[:-1]:
        at = _step(at, name, make=True)
    at[where[-1]] = copy.deepcopy(value)


def _remove(found: Object, where: Path) -> None:
    at: Any = found
    for name in where[:-1]:
        at = _step(at, name)
    at.pop(where[-1], None)


def _merge(found: Object, changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, dict):
            if not isinstance(found.get(key), dict):
                found[key] = {}
            _merge(found[key], value)
        else:
            found[key] = copy.deepcopy(value)
