"""SSH that trusts one instance by the host keys which its platform reports, and nothing else on this machine.

Everything is said in one ``ssh_config`` of our own, passed with ``-F``: no file of the user's or the system's is
read, no agent is asked, no key is learned on first contact.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import AuthenticationFailed, InvalidConfig

_HOST_KEY = re.compile(
    r"(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
    r" [A-Za-z0-9+/]{20,}={0,3}"
)
_ALIAS = "phoenix-instance"
"""Name in known_hosts: keys belong to the instance, whatever address or port it is reached by."""
_LONGEST_SOCKET = 80
"""A UNIX socket's path may have 107 bytes, and ssh adds 17 of its own while it makes one."""


def identity_file(connection: Connection) -> Path:
    """The private key that ``extra.key_file`` of the connection names.

    :raises InvalidConfig: none is named, or the file is not there.
    """
    named = str(connection.extra.get("key_file") or "")
    if not named or not Path(named).is_file():
        raise InvalidConfig(
            f"Connection '{connection.id}': extra.key_file is '{named}', and there is no such file.",
            remedy="Let it name the private key whose public half instances get at birth.",
        )
    return Path(named)


def trusting_config(
    folder: Path, *, whose: str, host_keys: Sequence[str], identity: Path, connect_timeout: int = 10
) -> Path:
    """Write ``known_hosts`` and ``ssh_config`` into a private folder and give the path of the latter.

    ``whose`` names the instance in messages. Connections share one master that ends 30 s after the last of them.

    :raises AuthenticationFailed: the platform reports no host key, or something that is none.
    """
    lines = []
    for key in host_keys:
        match = _HOST_KEY.match(key.strip())
        if not match or "\n" in key.strip():
            raise AuthenticationFailed(
                f"{whose}: the platform reports '{key[:60]!r}', which is not a public SSH host key.",
                remedy="Look at the instance's console before anything else.",
            )
        lines.append(f"{_ALIAS} {match[0]}\n")
    if not lines:
        raise AuthenticationFailed(
            f"{whose}: the platform reports no SSH host key, so nobody who answers can be believed.",
            remedy="Wait until it has started, or see why its keys cannot be read.",
        )
    known_hosts = _write(folder / "known_hosts", "".join(lines))
    options = {
        "User": "root",
        "HostKeyAlias": _ALIAS,
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": _quoted(known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "CheckHostIP": "no",
        "UpdateHostKeys": "no",
        "VerifyHostKeyDNS": "no",
        "IdentityFile": _quoted(identity),
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "BatchMode": "yes",
        "PreferredAuthentications": "publickey",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "ClearAllForwardings": "yes",
        "PermitLocalCommand": "no",
        "ConnectTimeout": str(connect_timeout),
        "ServerAliveInterval": "10",
        "ServerAliveCountMax": "3",
        "LogLevel": "ERROR",
    }
    socket = folder / "cm"
    if len(str(socket)) <= _LONGEST_SOCKET:
        options |= {"ControlMaster": "auto", "ControlPersist": "30s", "ControlPath": _quoted(socket)}
    body = "".join(f"  {name} {value}\n" for name, value in options.items())
    return _write(folder / "ssh_config", f"Host *\n{body}")


def hang_up(config: Path) -> None:
    """End the connection that is shared under that ssh_config, if there is one; before the folder is removed.

    It would end by itself half a minute later. It cannot be found by its environment: ssh writes its title over it.
    """
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        argv = ["ssh", "-F", str(config), "-O", "exit", _ALIAS]
        subprocess.run(argv, capture_output=True, timeout=10, check=False)


def _quoted(path: Path) -> str:
    text = str(path)
    if re.search(r'["\n\r$]', text):
        raise InvalidConfig(f"The path {text!r} cannot be written into an ssh_config.", remedy="Rename it.")
    return '"' + text.replace("%", "%%") + '"'


def _write(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    return path
