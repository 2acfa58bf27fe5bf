"""Which SSH host keys something answers with, without logging in: to compare with what the platform reports."""

from __future__ import annotations

import ipaddress
import re
import subprocess

from phoenix_fleet.domain.errors import InvalidSpec, Unavailable

_HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_KEY_LINE = re.compile(r"\S+ (?P<key>ssh-ed25519 [A-Za-z0-9+/]{20,400}={0,3})")


def scan(address: str, *, port: int = 22, timeout_seconds: int = 5) -> tuple[str, ...]:
    """The ed25519 host keys (``ssh-ed25519 AAAA…``) that answer at that address; none if nothing answers yet.

    :raises InvalidSpec: the address is neither an IP address nor a host name.
    :raises Unavailable: there is no ``ssh-keyscan`` here.
    """
    command = ["ssh-keyscan", "-T", str(timeout_seconds), "-p", str(port), "-t", "ed25519", "--", _checked(address)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout_seconds + 5, check=False
        )
    except subprocess.TimeoutExpired:
        return ()
    except FileNotFoundError:
        raise Unavailable("There is no ssh-keyscan on this machine.", remedy="Install openssh-client.") from None
    return tuple(match["key"] for line in done.stdout.splitlines() if (match := _KEY_LINE.fullmatch(line.strip())))


def _checked(address: str) -> str:
    if _HOST_NAME.fullmatch(address):
        return address
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        found = None
    if found is None or not _HOST_NAME.fullmatch(getattr(found, "scope_id", None) or "none"):
        raise InvalidSpec(
            f"{address!r} is neither an IP address nor a host name.", remedy="See what the platform reports."
        )
    return str(found)
