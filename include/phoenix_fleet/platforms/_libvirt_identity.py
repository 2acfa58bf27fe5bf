"""The host key that a machine is born with, where nobody can read its console (decision 0071)."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import InvalidConfig

_SHORTEST = 32
_FIELD = "host_key_secret"


@dataclass(frozen=True)
class HostKey:
    """An SSH host key."""

    public: str
    """``ssh-ed25519 AAAA…``."""
    private: str = field(repr=False)
    """In OpenSSH's own form."""


def injected(connection: Connection, uuid: str) -> HostKey | None:
    """The key of that domain, always the same one, from ``extra.host_key_secret``; None without a secret.

    It follows from the secret and the UUID, so that callers who race for one launch give it the same key.

    :raises InvalidConfig: the secret is so short that it could be guessed.
    """
    secret = str(connection.extra.get(_FIELD) or "")
    if not secret:
        return None
    if len(secret) < _SHORTEST:
        raise InvalidConfig(
            f"Connection '{connection.id}': extra.{_FIELD} has fewer than {_SHORTEST} characters.",
            remedy="Draw a long one: whoever guesses it can pass for every machine of that host.",
        )
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    drawn = hmac.new(secret.encode(), f"phoenix-fleet ssh host key {uuid}".encode(), hashlib.sha256).digest()
    key = Ed25519PrivateKey.from_private_bytes(drawn)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    return HostKey(public.decode(), private.decode())
