"""Connections to libvirt hosts that are kept between calls (decision 0097): over SSH a new one is a login each time.

A call has a connection to itself, for libvirtd serves five calls at once on one, and answers no keepalive beyond that
(``max_client_requests`` in libvirtd.conf). So calls one after another share a login, and those at once have one each.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import PhoenixError
from phoenix_fleet.platforms import _libvirt_host as hosts
from phoenix_fleet.platforms._libvirt_uri import where

MOST = 4
"""Connections that are kept at rest for one host; those of more calls at once are closed when they are done."""

_Target = tuple[object, ...]


@dataclass
class _Kept:
    """What a connection's id led to last, and the open connections there that nobody uses."""

    target: _Target
    at_rest: list[Any] = field(default_factory=list)


_known: dict[str, _Kept] = {}
_lock = threading.Lock()


@contextmanager
def opened(connection: Connection) -> Iterator[Any]:
    """A connection for one call: one that an earlier call has left, if it still answers, or a new one.

    It is kept for the next call unless it has died, or the block ends with an error that is nobody's known one.
    """
    target = _target(connection)
    host = _left(connection.id, target)
    if host is None:
        host = hosts.connected(connection)
    try:
        yield host
    except (hosts.library().libvirtError, PhoenixError):
        _keep(connection.id, target, host)
        raise
    except BaseException:  # what is still under way on it nobody knows
        hosts.close(host)
        raise
    _keep(connection.id, target, host)


def close_all() -> None:
    """Close every connection of this process that is at rest."""
    with _lock:
        _close_those_at_rest()


def _left(conn_id: str, target: _Target) -> Any:
    """One at rest that answers, or None; those that have died are closed."""
    while True:
        with _lock:
            _forget_others(conn_id, target)
            kept = _known.get(conn_id)
            host = kept.at_rest.pop() if kept and kept.at_rest else None
        if host is None or _answers(host):
            return host
        hosts.close(host)


def _keep(conn_id: str, target: _Target, host: Any) -> None:
    with _lock:
        kept = _known.setdefault(conn_id, _Kept(target))
        if kept.target == target and len(kept.at_rest) < MOST and _is_open(host):
            kept.at_rest.append(host)
            return
    hosts.close(host)


def _forget_others(conn_id: str, target: _Target) -> None:
    """Close what was opened when the connection of that id led elsewhere, or trusted another key."""
    kept = _known.get(conn_id)
    if kept is not None and kept.target != target:
        del _known[conn_id]
        for host in kept.at_rest:
            hosts.close(host)


def _answers(host: Any) -> bool:
    """Whether the other end is still there: what libvirt itself noticed may be older than its end."""
    try:
        return _is_open(host) and bool(host.getLibVersion())
    except hosts.library().libvirtError:
        return False


def _is_open(host: Any) -> bool:
    try:
        return bool(host.isAlive())
    except hosts.library().libvirtError:
        return False


def _target(connection: Connection) -> _Target:
    """All that decides where a connection leads, as whom, and whom it trusts there.

    :raises InvalidConfig: it leads nowhere.
    """
    target = where(connection)
    secret = hashlib.sha256(target.password.encode()).digest()
    files = [_state(str(connection.extra.get(name) or "")) for name in ("key_file", "known_hosts")]
    return (target.uri, target.login, secret, *files)


def _state(file: str) -> object:
    """Another value when the file has another content; None if there is none."""
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _close_those_at_rest() -> None:
    while _known:
        for host in _known.popitem()[1].at_rest:
            hosts.close(host)


def _before_fork() -> None:
    # The child's event loop would read what the host answers its parent, and its end would close the parent's login.
    _lock.acquire()
    _close_those_at_rest()


def _after_fork() -> None:
    _lock.release()


atexit.register(close_all)
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
