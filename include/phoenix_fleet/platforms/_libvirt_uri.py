"""Where a connection leads: libvirt's URI, from which nothing that trusts anybody or runs a program gets through."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import InvalidConfig

_DEFAULT = "qemu:///system"
_PATHS = {"qemu": ("/system", "/session"), "xen": ("/system", "/", "")}
_TRANSPORTS = ("", "unix", "ssh", "tls", "tcp")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_QUERY = {"": ("socket",), "unix": ("socket",), "ssh": ("socket",), "tls": ("pkipath",), "tcp": ()}
"""What a URI may ask for. Not ``no_verify``, ``known_hosts_verify``, ``command`` or ``netcat``: they switch off the
check of who answers, or run a program (https://libvirt.org/uri.html#transport-configuration)."""
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]*")
_LOGIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Where:
    """A host to connect to."""

    uri: str
    shown: str
    """The URI for messages, without what only libvirt needs to know."""
    login: str = ""
    password: str = field(default="", repr=False)


def where(connection: Connection) -> Where:
    """The host that the connection names in ``extra.uri``, or in its host and login (over SSH).

    :raises InvalidConfig: the URI is none, or asks for something that is not trusted.
    """
    text = str(connection.extra.get("uri") or "") or _from_parts(connection)
    try:
        uri = urlsplit(text)
        port = f":{uri.port}" if uri.port else ""
        asked = parse_qsl(uri.query, keep_blank_values=True, strict_parsing=bool(uri.query))
    except ValueError:
        raise _wrong(connection, "it is no URI") from None
    driver, _, transport = uri.scheme.partition("+")
    host, login = uri.hostname or "", uri.username or ""
    if complaint := _complaint(driver, transport, uri.path, host) or _odd(
        uri.password, login, host, uri.fragment, text
    ):
        raise _wrong(connection, complaint)
    for name, _value in asked:
        if name not in _QUERY[transport]:
            raise _wrong(connection, f"'{name}' may not be asked for here")
    netloc = f"{login}@" * bool(login) + (f"[{host}]" if ":" in host else host) + port
    shown = f"{uri.scheme}://{netloc}{uri.path}"
    query = dict(asked)
    scheme = uri.scheme
    if transport == "ssh":
        # libvirt's own SSH takes a file of known hosts; the ssh program would read this user's configuration.
        scheme = f"{driver}+libssh"
        query |= _identity(connection)
    full = f"{scheme}://{netloc}{uri.path}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")
    if transport in ("tls", "tcp"):
        return Where(full, shown, connection.login, connection.password)
    return Where(full, shown)


def _from_parts(connection: Connection) -> str:
    if not connection.host:
        return _DEFAULT
    login = f"{connection.login}@" if connection.login else ""
    host = f"[{connection.host}]" if ":" in connection.host else connection.host
    return f"qemu+ssh://{login}{host}{f':{connection.port}' if connection.port else ''}/system"


def _complaint(driver: str, transport: str, path: str, host: str) -> str:
    if driver not in _PATHS or transport not in _TRANSPORTS:
        return "it is none of qemu and xen, alone or with +ssh, +tls, +unix or +tcp"
    if path not in _PATHS[driver]:
        return f"its path is '{path[:40]}' and not one of {', '.join(each for each in _PATHS[driver] if each)}"
    if bool(host) != (transport in ("ssh", "tls", "tcp")):
        return "a host belongs to +ssh, +tls and +tcp, and only there"
    if transport == "tcp" and host not in _LOOPBACK:
        return "+tcp is read and changed by whoever is in between"
    return ""


def _odd(password: str | None, login: str, host: str, fragment: str, text: str) -> str:
    if password is not None:
        return "a password does not belong into it"
    if (login and not _LOGIN.fullmatch(login)) or (host and not _HOST.fullmatch(host)) or fragment:
        return "its host or login cannot be one"
    return "" if text.isprintable() and text.isascii() else "it has characters that no URI has"


def _identity(connection: Connection) -> dict[str, str]:
    files = {}
    for name, key in (("keyfile", "key_file"), ("known_hosts", "known_hosts")):
        named = str(connection.extra.get(key) or "")
        if not named.startswith("/") or not Path(named).is_file():
            raise InvalidConfig(
                f"Connection '{connection.id}': extra.{key} is '{named[:200]}', and there is no such file.",
                remedy="Over SSH both key_file and known_hosts are needed; whoever answers must be in the latter.",
            )
        files[name] = named
    return {**files, "known_hosts_verify": "normal", "sshauth": "privkey"}


def _wrong(connection: Connection, why: str) -> InvalidConfig:
    return InvalidConfig(
        f"Connection '{connection.id}': extra.uri cannot be used: {why}.",
        remedy="Write it as qemu:///system, qemu+ssh://login@host/system, xen:///system or xen+ssh://login@host/system.",
    )
