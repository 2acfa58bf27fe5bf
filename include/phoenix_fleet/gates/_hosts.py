"""How gates reach an instance with testinfra: by URL, on trusted terms only."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from phoenix_fleet import ssh
from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.errors import InvalidSpec
from phoenix_fleet.domain.models import Subject

_SCHEMES = frozenset({"docker", "podman", "kubectl", "lxc", "ssh", "safe-ssh"})
"""Those that reach another machine and whose identity is certain: ``local`` would measure this one, and
paramiko, salt, ansible and winrm decide by rules of their own whom they trust."""
_QUERY = re.compile(r"(?:namespace|container)=[\w.-]+(?:&(?:namespace|container)=[\w.-]+)?")


@dataclass(frozen=True)
class Reach:
    """A way to one instance, open while the context lasts."""

    folder: Path
    """Private scratch folder."""
    hostspec: str = ""
    ssh_config: Path | None = None


@contextmanager
def reaching(subject: Subject, connections: Connections, connection: str) -> Iterator[Reach]:
    """A checked hostspec of the subject's instance, and a private folder that is gone afterwards.

    For ``ssh://`` the key file comes from the connection and the only host keys believed are those of
    ``subject.instance.host_keys``.

    :raises InvalidSpec: the hostspec is missing or not one that can be trusted.
    :raises AuthenticationFailed: the platform reports no host key.
    """
    folder = Path(tempfile.mkdtemp(prefix="phoenix-"))
    config: Path | None = None
    try:
        hostspec = _checked(subject.hostspec)
        if "ssh" in urlsplit(hostspec).scheme:
            identity = ssh.identity_file(connections(connection))
            keys = subject.instance.host_keys if subject.instance else ()
            config = ssh.trusting_config(folder, whose=subject.name, host_keys=keys, identity=identity)
            # Our ssh_config shares one connection in a private place; testinfra's own way would open a public one.
            hostspec += "?controlpersist=0"
        yield Reach(folder, hostspec, config)
    finally:
        if config:
            ssh.hang_up(config)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def nowhere() -> Iterator[Reach]:
    """A private folder alone, for suites that measure from outside."""
    with tempfile.TemporaryDirectory(prefix="phoenix-") as folder:
        yield Reach(Path(folder))


def _checked(hostspec: str) -> str:
    url = urlsplit(hostspec)
    if not hostspec:
        raise InvalidSpec("There is no hostspec, so no instance to look into.")
    plain = url.netloc and not url.fragment and not set(hostspec) & set(", \t\r\n\\\0")
    plain = plain and (not url.query or (url.scheme == "kubectl" and bool(_QUERY.fullmatch(url.query))))
    if url.scheme not in _SCHEMES or not plain or url.password is not None or url.netloc.startswith("-"):
        raise InvalidSpec(
            f"'{hostspec}' is not a hostspec that can be trusted.",
            remedy=f"One of {', '.join(sorted(_SCHEMES))}, without password, list or options.",
        )
    return hostspec
