"""A libvirt host behind the ``libvirt`` platform: how it is connected to, and libvirt's errors in our words."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import (
    AuthenticationFailed,
    CapacityExhausted,
    InvalidConfig,
    InvalidSpec,
    NotFound,
    NotSupported,
    PhoenixError,
    Unavailable,
)
from phoenix_fleet.platforms._libvirt_uri import Where, where

TIMEOUT = 60.0
"""Seconds that opening a connection may take."""
KEEPALIVE = (5, 4)
"""Seconds between two questions whether the host still answers, and how many may stay without an answer."""

Opener = Callable[[Connection], AbstractContextManager[Any]]
"""How a driver comes to a connection: an object like ``libvirt.virConnect``, closed when the context ends."""

_AUTH = ("AUTH_FAILED", "AUTH_CANCELLED", "AUTH_UNAVAILABLE", "ACCESS_DENIED")
# https://libvirt.org/html/libvirt-virterror.html#virErrorNumber
_KINDS: tuple[tuple[tuple[str, ...], type[PhoenixError]], ...] = (
    (_AUTH, AuthenticationFailed),
    (("NO_DOMAIN", "NO_STORAGE_VOL"), NotFound),
    (("NO_STORAGE_POOL", "NO_NETWORK"), InvalidSpec),
    (("INVALID_ARG", "XML_ERROR", "XML_DETAIL", "CONFIG_UNSUPPORTED", "XML_INVALID_SCHEMA", "OS_TYPE"), InvalidSpec),
    (("NO_SUPPORT", "ARGUMENT_UNSUPPORTED", "OPERATION_UNSUPPORTED"), NotSupported),
    (("NO_MEMORY",), CapacityExhausted),
)
_NO_ROOM = ("no space left", "cannot allocate memory", "not enough free memory", "disk quota exceeded", "out of memory")
_REFUSED = (
    "permission denied",
    "host key verification failed",
    "host key for",
    "no match for host key",
    "failed to authenticate",
    "authentication failed",
    "publickey",
)
_NEVER = ("process exited while connecting", "unexpectedly closed the monitor", "no connection driver available")

_GIVEN_UP = "SSH session handshake failed: Timeout connecting"
_HANDSHAKE = 10.0
"""Seconds in which libssh wants a handshake to be done; no URI says otherwise."""

_loop_lock = threading.Lock()
_loop_of = 0


def library() -> Any:
    """The ``libvirt`` module, which prints nothing by itself.

    :raises InvalidConfig: it is not installed.
    """
    try:
        import libvirt
    except ImportError as error:
        raise InvalidConfig(
            f"The platform libvirt needs libvirt-python: {error}", remedy="Install it; building it needs libvirt-dev."
        ) from None
    libvirt.registerErrorHandler(_silence, None)
    return libvirt


def _silence(_context: object, _error: object) -> None:
    """Take libvirt's own line for standard error: the exception says the same, and goes where errors belong."""


def is_code(error: Any, *names: str) -> bool:
    """Whether an error of libvirt has one of those codes (``NO_DOMAIN``)."""
    lib = library()
    return error.get_error_code() in {getattr(lib, f"VIR_ERR_{name}", None) for name in names}


@contextmanager
def unless(*names: str) -> Iterator[None]:
    """Take no notice of errors with those codes."""
    try:
        yield
    except library().libvirtError as error:
        if not is_code(error, *names):
            raise


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn libvirt's errors into ours; ``what`` begins their messages."""
    lib = library()
    try:
        yield
    except lib.libvirtError as error:
        raise failure(what, error) from error


def failure(what: str, error: Any) -> PhoenixError:
    """Our error for one of libvirt's."""
    text = f"{what}: {str(error).strip()[:500]}"
    lowered = text.lower()
    if any(words in lowered for words in _NO_ROOM):
        return CapacityExhausted(text, remedy="Free memory or disk space on the host, or give the fleet another one.")
    for names, kind in _KINDS:
        if is_code(error, *names):
            return kind(text, remedy=_remedy(kind))
    # First what a guest was refused: its words may be those of a refused login.
    if any(words in lowered for words in _NEVER):
        return InvalidSpec(text, remedy=_remedy(InvalidSpec))
    if any(words in lowered for words in _REFUSED):
        return AuthenticationFailed(text, remedy=_remedy(AuthenticationFailed))
    return Unavailable(text, remedy="See that libvirtd runs there and can be reached.")


def _remedy(kind: type[PhoenixError]) -> str:
    if kind is AuthenticationFailed:
        return "See docs/platforms/libvirt.md: who may use the socket, the key file, the known hosts."
    if kind is InvalidSpec:
        return "Correct the platform's settings in the fleet file."
    return ""


@contextmanager
def opened(connection: Connection, *, keepalive: tuple[int, int] | None = KEEPALIVE) -> Iterator[Any]:
    """A new connection, closed when the block ends; ``keepalive`` as for ``connected``."""
    host = connected(connection, keepalive=keepalive)
    try:
        yield host
    finally:
        close(host)


def connected(connection: Connection, *, keepalive: tuple[int, int] | None = KEEPALIVE) -> Any:
    """A new connection, which is the caller's to close.

    Without ``keepalive`` for what sends so much that the host cannot answer in between.

    :raises InvalidConfig: the connection leads nowhere.
    :raises AuthenticationFailed: the host is not the one that is known, or does not let us in.
    :raises Unavailable: it does not answer.
    """
    lib = library()
    target = where(connection)
    _keep_alive_loop(lib)
    try:
        host = _open_in_time(lib, target)
    except lib.libvirtError as error:
        raise _unreachable(connection, target, error) from error
    if keepalive:
        with suppress(lib.libvirtError):  # a driver inside this process has nothing to keep alive
            host.setKeepAlive(*keepalive)
    return host


def close(host: Any) -> None:
    """Close a connection, also one whose other end has gone."""
    with suppress(library().libvirtError):
        host.close()


def _open_in_time(lib: Any, target: Where) -> Any:
    # Only an open connection is kept alive; one that is being opened to a host that hangs would hang for ever.
    answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
    abandoned = threading.Event()

    end = time.monotonic() + TIMEOUT

    def run() -> None:
        try:
            found = _open_until(lib, target, end)
        except Exception as error:  # it belongs to whoever waits for it
            answer.put(error)
            return
        answer.put(found)
        if abandoned.is_set():
            found.close()

    threading.Thread(target=run, daemon=True, name="libvirt-open").start()
    try:
        found = answer.get(timeout=TIMEOUT)
    except queue.Empty:
        abandoned.set()
        raise Unavailable(
            f"{target.shown} does not answer within {TIMEOUT:.0f} s.",
            remedy="See that libvirtd runs and is not stopped.",
        ) from None
    if isinstance(found, Exception):
        raise found
    return found


def _open_until(lib: Any, target: Where, end: float) -> Any:
    """Open it; what libssh gives up after ten seconds of its own (a host that is busy) is begun again until the end."""
    while True:
        try:
            return _open(lib, target)
        except lib.libvirtError as error:
            if _GIVEN_UP not in str(error) or time.monotonic() > end - _HANDSHAKE:
                raise


def _open(lib: Any, target: Where) -> Any:
    if not target.login:
        return lib.open(target.uri)
    known = {lib.VIR_CRED_AUTHNAME: target.login, lib.VIR_CRED_USERNAME: target.login}
    secret = {lib.VIR_CRED_PASSPHRASE: target.password, lib.VIR_CRED_NOECHOPROMPT: target.password}

    def answer(wanted: list[Any], _data: object) -> int:
        for entry in wanted:
            entry[4] = {**known, **secret}.get(entry[0], "")
        return 0

    return lib.openAuth(target.uri, [[*known, *secret], answer, None], 0)


def _unreachable(connection: Connection, target: Where, error: Any) -> PhoenixError:
    found = failure(f"Connection '{connection.id}' ({target.shown})", error)
    if isinstance(found, AuthenticationFailed):
        return found
    # "no connection driver available for" also begins what libssh says of a host that is slow or not there.
    told = str(error).lower()
    of_the_way = any(words in told for words in ("ssh session", "timeout connecting", "connection refused", "no route"))
    if is_code(error, "NO_CONNECT", "INVALID_ARG", "CONFIG_UNSUPPORTED") and "driver" in told and not of_the_way:
        return InvalidConfig(str(found.args[0]), remedy="Correct extra.uri, or install that driver of libvirt.")
    return Unavailable(str(found.args[0]), remedy="See that libvirtd runs there, and that extra.uri names it.")


def _keep_alive_loop(lib: Any) -> None:
    """Run libvirt's event loop in this process: without one it does not notice that a host is gone."""
    global _loop_of
    with _loop_lock:
        if _loop_of == os.getpid():  # threads do not come along into a fork
            return
        if not _loop_of:
            lib.virEventRegisterDefaultImpl()
        _loop_of = os.getpid()
        threading.Thread(target=_turn, args=(lib,), daemon=True, name="libvirt-events").start()


def _turn(lib: Any) -> None:
    while True:
        try:
            lib.virEventRunDefaultImpl()
        except lib.libvirtError:
            return
