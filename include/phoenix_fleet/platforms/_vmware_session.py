"""One login to a vCenter for this process and connection, made again when it has expired."""

from __future__ import annotations

import atexit
import hashlib
import hmac
import http.client
import os
import re
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.platforms._vmware_errors import retried, translated

Given = TypeVar("Given")

TIMEOUT = 90
"""Seconds without an answer after which vCenter counts as not answering; more than any wait that we ask of it."""
_IDLE = 60
"""Seconds after which a connection at rest is not used again: the other side may have closed it."""
VERSION = "vim.version.version10"
"""The API of vSphere 6.0, which every later vCenter speaks as well."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1_DIGITS = 40
"""Of the thumbprints that vCenter gives of its hosts; it gives no others."""
_known: dict[tuple[object, ...], Session] = {}
_lock = threading.Lock()


class Session:
    """A vCenter, logged in once it is first asked. Safe from any thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._logins = 0
        self._stub: Any = None
        self._content: Any = None
        self.where = f"{connection.host}:{connection.port or 443}"

    def run(self, what: str, do: Callable[[Any], Given]) -> Given:
        """What ``do`` gives, called with the logged-in vCenter's ``ServiceContent``; begun again if that had expired.

        So ``do`` must be safe to begin again. Errors come out in our words, with ``what`` in front.
        """
        with translated(what, self.where):
            content, login = self._logged_in()
            found: list[Any] = [content]

            def again() -> None:
                found[0] = self._logged_in(expired=login)[0]

            given: Given = retried(lambda: do(found[0]), again)
            return given

    def _logged_in(self, expired: int = 0) -> tuple[Any, int]:
        """VCenter and the number of the login; a new one if that with the number ``expired`` is the current one."""
        with self._lock:
            if self._content is None or self._logins == expired:
                self._content = self._login()
                self._logins += 1
            return self._content, self._logins

    def _login(self) -> Any:
        from pyVmomi import vim

        # A stub for each login: it takes its cookie from every answer, also from one to a session that has expired.
        if self._stub is not None:
            _retire(self._stub)
        self._stub = _stub(self._connection)
        content = vim.ServiceInstance("ServiceInstance", self._stub).RetrieveContent()
        content.sessionManager.Login(self._connection.login, self._connection.password)
        return content

    def close(self) -> None:
        """End the login, at the process's end: vCenter keeps idle ones for half an hour and has a limited number."""
        with self._lock:
            content, stub = self._content, self._stub
            self._content = self._stub = None
        if content is not None:
            with suppress(Exception):  # at the very end nobody is left to be told
                content.sessionManager.Logout()
        if stub is not None:
            _retire(stub)


def session(connection: Connection) -> Session:
    """The session of this process for that connection; none of another process is used after a fork.

    :raises InvalidConfig: the connection lacks something.
    """
    _check(connection)
    secret = hashlib.sha256(connection.password.encode()).digest()
    extra = (connection.extra.get("ca_cert"), connection.extra.get("thumbprint"))
    key = (os.getpid(), connection.id, connection.host, connection.port, connection.login, secret, extra)
    with _lock:
        if key not in _known:
            _known[key] = Session(connection)
        return _known[key]


@atexit.register
def close_all() -> None:
    """End every login of this process."""
    with _lock:
        mine = [key for key in _known if key[0] == os.getpid()]
        found = [_known.pop(key) for key in mine]
    for each in found:
        each.close()


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()


# Another thread of the parent may have held it when this process was forked.
os.register_at_fork(after_in_child=_new_lock)


def _check(connection: Connection) -> None:
    for name in ("host", "login", "password"):
        if not getattr(connection, name):
            raise InvalidConfig(f"The connection '{connection.id}' has no {name}.", remedy=f"Set its {name}.")
    ca_cert = str(connection.extra.get("ca_cert") or "")
    if ca_cert and not Path(ca_cert).is_file():
        raise InvalidConfig(
            f"Connection '{connection.id}': extra.ca_cert is '{ca_cert}', and there is no such file.",
            remedy="Let it name the certificate of the authority that signed vCenter's.",
        )
    if connection.extra.get("thumbprint") and not _SHA256.fullmatch(_pin(connection)):
        raise InvalidConfig(
            f"Connection '{connection.id}': extra.thumbprint is no SHA-256.",
            remedy="Give 64 hexadecimal digits: openssl x509 -noout -fingerprint -sha256.",
        )


def _pin(connection: Connection) -> str:
    return str(connection.extra.get("thumbprint") or "").replace(":", "").lower()


def _stub(connection: Connection) -> Any:
    from pyVmomi import SoapStubAdapter

    # Never without a context: pyvmomi then trusts whoever answers on loopback. And never with its own ``thumbprint``:
    # after the first connection its shared context verifies nothing, so later ones are not looked at (9.1, _Connect).
    pin = _pin(connection)
    context = _context(connection, pinned=bool(pin))
    stub = SoapStubAdapter(
        connection.host,
        connection.port or 443,
        version=VERSION,
        path="/sdk",
        sslContext=context,
        httpConnectionTimeout=TIMEOUT,
        poolSize=4,
        connectionPoolTimeout=_IDLE,
    )
    if pin:
        stub.scheme = partial(_Pinned, pin=pin)
    return stub


def _context(connection: Connection, *, pinned: bool) -> ssl.SSLContext:
    if not pinned:
        return ssl.create_default_context(cafile=str(connection.extra.get("ca_cert") or "") or None)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def https(connection: Connection, host: str, port: int | None, *, thumbprint: str) -> http.client.HTTPSConnection:
    """A connection to vCenter, or to another host that shows the certificate with that SHA-1, as vCenter says.

    Without one the other host's must be of the authority that vCenter's own is of: the pin is vCenter's alone.
    """
    pin = thumbprint.replace(":", "").lower() if host else _pin(connection)
    context = _context(connection, pinned=bool(pin))
    where, port = (host, port) if host else (connection.host, connection.port)
    if pin:
        return _Pinned(where, port or 443, timeout=TIMEOUT, context=context, pin=pin)
    return http.client.HTTPSConnection(where, port or 443, timeout=TIMEOUT, context=context)


def _retire(stub: Any) -> None:
    """Close its connections: those at rest now, those in use when they come back."""
    stub.poolSize = 0
    stub.DropConnections()


class _Pinned(http.client.HTTPSConnection):
    """Goes on only with the server whose certificate has the pinned SHA-256 (or SHA-1), on every new connection."""

    def __init__(self, *args: Any, pin: str, **more: Any) -> None:
        super().__init__(*args, **more)
        self._pin = pin

    def connect(self) -> None:
        super().connect()
        shown: bytes = self.sock.getpeercert(True) or b""
        kind = "SHA-1" if len(self._pin) == _SHA1_DIGITS else "SHA-256"
        digest = hashlib.new(kind.replace("-", ""), shown).hexdigest()
        if not hmac.compare_digest(digest, self._pin):
            self.close()
            raise ssl.SSLCertVerificationError(f"its {kind} is {digest}, and {self._pin} is pinned")
