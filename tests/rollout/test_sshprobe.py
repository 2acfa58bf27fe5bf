"""The program that asks for host keys is stood in for, so that its words can be hostile; a real one is met in e2e."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from phoenix_fleet.domain.errors import InvalidSpec, Unavailable
from phoenix_fleet.rollout import sshprobe

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGxBGxvUNQJ1W2mGvZ1Hk5mF5hJmCjQ7m8uJk2m5D1aB"


@pytest.fixture
def keyscan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a program named ssh-keyscan first on PATH that prints this; the file that comes back has its arguments."""
    told = tmp_path / "argv.json"

    def install(output: str) -> Path:
        program = tmp_path / "bin" / "ssh-keyscan"
        program.parent.mkdir(exist_ok=True)
        program.write_text(
            f"#!{sys.executable}\nimport json, sys\n"
            f"json.dump(sys.argv[1:], open({str(told)!r}, 'w'))\nsys.stdout.write({output!r})\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        return told

    return install


def test_it_gives_what_answers(keyscan: Callable[[str], Path]) -> None:
    told = keyscan(f"# 10.0.0.7:22 SSH-2.0-OpenSSH_9.2\n10.0.0.7 {KEY}\n")
    assert sshprobe.scan("10.0.0.7") == (KEY,)
    assert json.loads(told.read_text())[-2:] == ["--", "10.0.0.7"]


@pytest.mark.parametrize(
    "output",
    [
        "",
        "10.0.0.7 ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC7\n",
        f"{KEY}\n",
        f"10.0.0.7 {KEY} and more\n",
        "10.0.0.7 ssh-ed25519 $(reboot)\n",
        "10.0.0.7 ssh-ed25519 " + "A" * 5000 + "\n",
        "\x1b[2J\x00\xff\n",
    ],
)
def test_what_is_no_key_is_nobody(keyscan: Callable[[str], Path], output: str) -> None:
    keyscan(output)
    assert sshprobe.scan("10.0.0.7") == ()


@pytest.mark.parametrize(
    "address",
    ["", "-oProxyCommand=reboot", "--help", "a b", "a;reboot", "$(reboot)", "a\nb", "a/b", "::1%;x", "a" * 300],
)
def test_an_address_that_is_none_reaches_no_program(keyscan: Callable[[str], Path], address: str) -> None:
    told = keyscan("")
    with pytest.raises(InvalidSpec, match="neither an IP address nor a host name"):
        sshprobe.scan(address)
    assert not told.exists()


@pytest.mark.parametrize("address", ["10.0.0.7", "fe80::1", "web-01.example.com", "localhost"])
def test_addresses_of_all_kinds(keyscan: Callable[[str], Path], address: str) -> None:
    keyscan(f"{address} {KEY}\n")
    assert sshprobe.scan(address) == (KEY,)


def test_nothing_answers_on_a_closed_port() -> None:
    assert sshprobe.scan("127.0.0.1", port=1, timeout_seconds=1) == ()


def test_without_the_program_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unavailable, match="openssh-client"):
        sshprobe.scan("10.0.0.7")
