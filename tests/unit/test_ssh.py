"""The ssh_config trusts one instance and nothing else; ssh itself says how it reads it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from phoenix_fleet import ssh
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import AuthenticationFailed, InvalidConfig

KEY = "ssh-ed25519 " + "A" * 68


def read_by_ssh(config: Path) -> dict[str, str]:
    done = subprocess.run(
        ["ssh", "-G", "-F", str(config), "192.0.2.1"], check=True, capture_output=True, text=True, timeout=20
    )
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


def test_ssh_reads_it_as_meant(tmp_path: Path) -> None:
    identity = tmp_path / "key with % and space"
    identity.touch()
    config = ssh.trusting_config(tmp_path, whose="web-01", host_keys=[KEY, f"{KEY} root@host"], identity=identity)
    seen = read_by_ssh(config)

    assert seen["stricthostkeychecking"] == "true"
    assert seen["userknownhostsfile"] == str(tmp_path / "known_hosts")
    assert seen["globalknownhostsfile"] == "/dev/null"
    assert seen["batchmode"] == "yes"
    assert seen["identitiesonly"] == "yes"
    assert seen["identityagent"] == "none"
    assert seen["forwardagent"] == "no"
    assert seen["updatehostkeys"] == "false"
    assert seen["hostkeyalias"] == "phoenix-instance"
    assert (tmp_path / "known_hosts").read_text() == f"phoenix-instance {KEY}\n" * 2
    assert (tmp_path / "known_hosts").stat().st_mode & 0o77 == 0


def test_a_long_path_does_without_a_shared_connection(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    config = ssh.trusting_config(folder, whose="web-01", host_keys=[KEY], identity=tmp_path)
    assert "ControlPath" not in config.read_text()


@pytest.mark.parametrize(
    "keys",
    [
        [],
        [""],
        ["ssh-ed25519"],
        [f"{KEY}\n* {KEY}"],
        [f"@cert-authority * {KEY}"],
        [f"* {KEY}"],
        ["ssh-dss " + "A" * 60],
        [KEY, "garbage"],
    ],
)  # fmt: skip
def test_what_is_no_host_key_is_refused(tmp_path: Path, keys: list[str]) -> None:
    with pytest.raises(AuthenticationFailed, match="web-01"):
        ssh.trusting_config(tmp_path, whose="web-01", host_keys=keys, identity=tmp_path)
    assert not (tmp_path / "ssh_config").exists()


def test_a_path_that_would_break_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig):
        ssh.trusting_config(tmp_path, whose="web-01", host_keys=[KEY], identity=Path('/x"\nProxyCommand id'))


def test_the_identity_file_must_be_there(tmp_path: Path) -> None:
    for extra in ({}, {"key_file": str(tmp_path / "nowhere")}):
        with pytest.raises(InvalidConfig, match="key_file"):
            ssh.identity_file(Connection("phoenix_ssh", extra=extra))
