"""What is legitimate in an image is left alone, and what is hidden is found."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from phoenix_fleet.gates import _leftovers
from phoenix_fleet.gates._layers import Entry
from phoenix_fleet.gates._leftovers import Seen

PEM = (
    b"-----BEGIN RSA PRIVATE KEY-----\n"
    + b"MIIEpAIBAAKCAQEA0123456789abcdefghij" * 3
    + b"\n-----END RSA PRIVATE KEY-----\n"
)


def findings(path: str, data: bytes, kind: str = "file", target: str = "") -> list[str]:
    seen = Seen.of(iter([data] if data else []))
    entry = Entry(1, path, kind, len(data), target, False)
    empty = seen.blank if kind == "file" else kind != "hardlink"
    found = (_leftovers.by_place(entry, empty=empty), _leftovers.by_file(path, 1, seen))
    return [one.rule for one in found if one]


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("/etc/ssh/ssh_config", b"Host *\n"),
        ("/etc/ssh/sshd_config", b"AuthorizedKeysFile .ssh/authorized_keys\n"),
        ("/usr/share/man/man5/authorized_keys.5.gz", b"x"),
        ("/usr/share/man/man5/authorized_keys.5", b"x"),
        ("/usr/share/doc/openssh-client/examples/known_hosts", b"x"),
        ("/root/.ssh/authorized_keys", b""),
        ("/root/.ssh/id_ed25519.pub", b"ssh-ed25519 AAAA\n"),
        ("/etc/ssl/certs/ca-certificates.crt", b"-----BEGIN CERTIFICATE-----\nMIID\n"),
        ("/usr/lib/x86_64-linux-gnu/libcrypto.so.3", b"\x7fELF\x02-----BEGIN RSA PRIVATE KEY-----\0-----END"),
        ("/usr/lib/x86_64-linux-gnu/libgnutls.so.30.34.3", b"\x7fELF\x02" + PEM),
        ("/usr/lib/python3/x.py", b'HEADER = "-----BEGIN PRIVATE KEY-----"\nFOOTER = "-----END"\n'),
        ("/usr/bin/core", b"#!/bin/sh\n"),
        ("/usr/lib/libx.so", b"\x7fELF\x02\x01\x01" + b"\0" * 9 + b"\x03\x00"),
        ("/var/log/lastlog", b"\0" * 292),
        ("/var/log/faillog", b"\0" * 32),
        ("/var/log/btmp", b""),
        ("/etc/shadow", b"root:*:1::::::\nsshd:!:1::::::\ndaemon:!*:1::::::\nold:!!:1::::::\n"),
        ("/etc/passwd", b"root:x:0:0:root:/root:/bin/bash\n_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n"),
        ("/etc/gshadow", b"root:*::\nusers:!::\nadm:::\n"),
        ("/etc/sudoers", b"#user ALL=(ALL) NOPASSWD: ALL\n%sudo ALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n"),
        ("/etc/apt/sources.list", b"deb https://deb.example.org/debian bookworm main\n# https://u:p@x/\n"),
        ("/etc/apt/apt.conf.d/70debconf", b'DPkg::Pre-Install-Pkgs {"/usr/sbin/dpkg-preconfigure --apt || true";};\n'),
        ("/etc/environment", b'PATH="/bin"\nDB_PASSWORD_FILE=/run/secrets/db\nTOKEN=$OTHER\n'),
        ("/etc/default/ssh", b"SSHD_OPTS=\n"),
        ("/root/.profile", b"export PATH\n"),
        (
            "/usr/share/doc/x/README",
            b"AKIAIOSFODNN7EXAMPLE and aws_secret_access_key = wJalrXUtnFEMI/bPxRfiCYEXAMPLEKEY\n",
        ),
        ("/usr/share/x.yaml", b"ca: " + base64.b64encode(b"-----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgI\n")),
        ("/var/lib/dpkg/status", b"Package: x\n"),
    ],
)
def test_the_legitimate_is_left_alone(path: str, data: bytes) -> None:
    assert findings(path, data) == []


@pytest.mark.parametrize("border", range(-40, 41, 8))
def test_a_key_on_the_border_of_two_chunks_is_found(border: int) -> None:
    data = b"x" * 5000 + PEM + b"y" * 5000
    cut = 5000 + border
    assert Seen.of(iter([data[:cut], data[cut:]])).secret == "a private key"


@pytest.mark.parametrize(
    "data",
    [
        PEM.replace(b"\n", b"\r\n"),
        PEM.replace(b"\n", b"\\n"),
        PEM.replace(b"RSA ", b""),
        PEM.replace(b"RSA ", b"EC "),
        PEM.replace(b"RSA ", b"ENCRYPTED "),
        b"\x7fELF" + PEM,
        base64.b64encode(PEM),
        base64.b64encode(PEM.replace(b"RSA", b"OPENSSH")),
    ],
)
def test_private_keys_in_every_guise(data: bytes) -> None:
    assert findings("/opt/app/data", b"before " + data + b" after") == ["secret"]


@pytest.mark.parametrize(
    ("path", "kind", "target", "rules"),
    [
        ("/root/.ssh/authorized_keys", "symlink", "/opt/keys", ["ssh-authorized-keys"]),
        ("/root/.bash_history", "symlink", "/dev/null", []),
        ("/var/log/nginx/access.log", "symlink", "/dev/stdout", []),
        ("/var/lib/dbus/machine-id", "symlink", "/etc/machine-id", []),
        ("/root/.netrc", "hardlink", "/opt/innocent", ["credentials"]),
        ("/dev/shm/socket", "other", "", ["temporary"]),  # noqa: S108
        ("/dev/shm/folder", "folder", "", []),  # noqa: S108
    ],
)
def test_links_and_other_kinds(path: str, kind: str, target: str, rules: list[str]) -> None:
    assert findings(path, b"", kind, target) == rules


def test_a_file_too_long_to_be_judged_is_not_honest() -> None:
    padding = b"#" * (_leftovers.HEAD + 10)
    assert findings("/etc/sudoers.d/x", padding + b"\nx ALL=(ALL) NOPASSWD: ALL\n") == ["sudoers"]


@pytest.mark.parametrize("config", [{}, {"config": None, "history": "x"}, {"config": {"Env": "A=b", "Labels": []}}])
def test_odd_configurations_do_no_harm(config: dict[str, Any]) -> None:
    assert list(_leftovers.by_configuration(config)) == []
