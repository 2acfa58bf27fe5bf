"""An image in a registry under the hygiene gate: fetched by its digest, and every layer of it looked at."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from phoenix_fleet.connections import Connection
from phoenix_fleet.disks.bounds import Limits, Unreadable
from phoenix_fleet.domain.models import Artefact
from phoenix_fleet.gates import _layers, _leftovers, _process
from phoenix_fleet.gates._leftovers import Seen
from phoenix_fleet.gates._scan import Scan, whiteout
from phoenix_fleet.redact import redact

_REFERENCE = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:]+\](?::\d+)?|[A-Za-z0-9.-]+(?::\d+)?)/(?P<name>[a-z0-9][a-z0-9._/-]*)@(?P<digest>sha256:[0-9a-f]{64})"
)


def fetch(artefact: Artefact, registry: Connection, folder: Path, timeout: timedelta) -> _layers.Layout:
    """The image, in that private folder.

    :raises Unreadable: it cannot be fetched, or is another one.
    """
    match = _REFERENCE.fullmatch(artefact.reference)
    if not match or match["digest"] != artefact.digest:
        raise Unreadable(f"'{artefact.reference}' does not name an image in a registry by its digest")
    image = folder / "image"
    policy, auth = folder / "policy.json", folder / "auth.json"
    # Whatever has the right digest is the right image, so no signature policy of this machine plays a part.
    policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}), encoding="utf-8")
    auth.touch(mode=0o600)
    auth.write_text(json.dumps(_credentials(match["host"], registry)))
    tls = "false" if _is_loopback(match["host"]) else "true"
    argv = ["skopeo", "--policy", str(policy), "copy", "--quiet", "--authfile", str(auth)]
    argv += [f"--src-tls-verify={tls}", f"docker://{artefact.reference}", f"dir:{image}"]
    try:
        ended = _process.run(
            argv, env=_process.environment(folder), cwd=folder, output=folder / "output", timeout=timeout
        )
    except FileNotFoundError:
        raise Unreadable("skopeo is not installed") from None
    if ended.code is None:
        raise Unreadable(f"fetching it took longer than {timeout.total_seconds():g} s")
    if ended.code:
        raise Unreadable(f"it cannot be fetched: {redact(' '.join(ended.output.split()))[-500:]}")
    return _layers.open_layout(image, artefact.digest)


def scan(layout: _layers.Layout, limits: Limits, min_files: int) -> Scan:
    """Everything in it.

    :raises Unreadable: it could not be seen whole.
    """
    found = Scan(parts=[digest for digest, _ in layout.layers])
    for entry, content in _layers.entries(layout, limits):
        if deleted := whiteout(entry.path):
            found.delete(entry.layer, deleted)
        else:
            found.take(entry, Seen.of(content))
    return found.ended(min_files, _leftovers.by_configuration(layout.config))


def _credentials(host: str, connection: Connection) -> dict[str, Any]:
    """An auth file: the password goes neither into an argument nor the environment, nor to any other host."""
    known = connection.host.rpartition("://")[2].strip("/") + (f":{connection.port}" if connection.port else "")
    if not connection.login or host not in (known, connection.host):
        return {"auths": {}}
    pair = b64encode(f"{connection.login}:{connection.password}".encode()).decode()
    return {"auths": {host: {"auth": pair}}}


def _is_loopback(host: str) -> bool:
    name = host.split("]")[0][1:] if host.startswith("[") else host.split(":")[0]
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
