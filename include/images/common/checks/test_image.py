"""What every instance of a family must be, bare or configured. Each check is one question to the instance."""

from __future__ import annotations

import re
from typing import Any

import pytest

PACKAGES = {"ca-certificates", "nginx-light", "openssh-server", "python3", "runit"}

SSHD = {
    "permitrootlogin": "without-password",
    "authenticationmethods": "publickey",
    "passwordauthentication": "no",
    "kbdinteractiveauthentication": "no",
    "hostbasedauthentication": "no",
    "permitemptypasswords": "no",
    "allowusers": "root",
    "allowtcpforwarding": "no",
    "allowagentforwarding": "no",
    "x11forwarding": "no",
    "permittunnel": "no",
    "permituserenvironment": "no",
    "maxauthtries": "3",
    "hostkey": "/etc/ssh/ssh_host_ed25519_key",
}

SELF_UPDATES = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "unattended-upgrades.service",
    "snapd.service",
    "snapd.socket",
)
LEFTOVERS = (
    "/tmp/phoenix",  # noqa: S108
    "/packer-files",
    "/usr/sbin/policy-rc.d",
    "/root/.bash_history",
    "/root/.ssh/known_hosts",
    "/etc/ssh/ssh_host_rsa_key",
    "/etc/ssh/ssh_host_ecdsa_key",
    "/etc/passwd-",
    "/etc/shadow-",
)


def is_container(host: Any) -> bool:
    """Whether it is one, or else a machine with an init of its own."""
    return bool(host.file("/usr/local/sbin/phoenix-init").exists)


def test_it_was_born_from_the_image_that_it_should(host: Any, facts: dict[str, Any]) -> None:
    release = host.file("/etc/phoenix-release").content_string
    assert release == f"FAMILY={facts['family']}\nVERSION={facts['version']}\n"


def test_packages_are_installed_whole(host: Any) -> None:
    listed = host.check_output("dpkg-query --show --showformat '${binary:Package} ${db:Status-Abbrev}\\n'")
    status = {name.partition(":")[0]: rest for name, _, rest in (line.partition(" ") for line in listed.splitlines())}
    assert set(status) >= PACKAGES
    assert {name: state for name, state in status.items() if state.strip() != "ii"} == {}


def test_security_updates_are_among_its_sources(host: Any) -> None:
    # One line per source (Debian 12), or a paragraph (Ubuntu 24.04): https://manpages.debian.org/bookworm/apt/sources.list.5.
    found = host.check_output(
        "cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null; true"
    )
    assert re.search(r"^(deb\S* .*|Suites:.* )\S+-security\b", found, re.M)


@pytest.mark.parametrize(
    "command",
    [
        "python3 -c 'import http.server, sqlite3, ssl; ssl.create_default_context()'",
        "nginx -V",
        "runsv; test $? -eq 1",
        "test -s /etc/ssl/certs/ca-certificates.crt",
    ],
    ids=["python", "nginx", "runit", "certificates"],
)
def test_what_the_product_builds_on_works(host: Any, command: str) -> None:
    assert host.run(command).rc == 0


def test_ssh_lets_root_in_by_key_and_nobody_else(host: Any) -> None:
    effective = dict(line.split(" ", 1) for line in host.check_output("sshd -T").splitlines() if " " in line)
    assert {name: effective.get(name) for name in SSHD} == SSHD


def test_its_identity_is_its_own(host: Any) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}\n", host.file("/etc/machine-id").content_string)
    key = host.check_output("stat -c '%a %U %s' /etc/ssh/ssh_host_ed25519_key").split()
    assert key[:2] == ["600", "root"]
    assert int(key[2]) > 0


def test_runit_supervises_every_service(host: Any) -> None:
    states = host.check_output("for service in $(ls /etc/service); do sv status /etc/service/$service; done")
    lines = states.splitlines()
    assert any("/etc/service/sshd:" in line for line in lines)
    assert [line for line in lines if not line.startswith("run: ")] == []


def test_nobody_has_a_password_and_only_root_is_root(host: Any) -> None:
    passwords = dict(line.split(":")[:2] for line in host.check_output("cat /etc/shadow").splitlines())
    assert {name: text for name, text in passwords.items() if text not in ("*", "!", "!*")} == {}
    accounts = [line.split(":") for line in host.check_output("cat /etc/passwd").splitlines()]
    assert [account[0] for account in accounts if account[2] == "0"] == ["root"]


def test_no_program_raises_rights(host: Any) -> None:
    assert host.check_output("find / -xdev -type f -perm /6000") == ""


def test_only_what_should_be_reached_listens(host: Any) -> None:
    listening = [line.split()[3] for line in host.check_output("ss -Hltn").splitlines()]
    open_ports = {address.rsplit(":", 1)[1] for address in listening if not re.match(r"127\.|\[::1\]", address)}
    assert "22" in open_ports
    assert open_ports <= {"22", "8080"}


def test_nothing_of_the_build_is_left(host: Any) -> None:
    places = " ".join(LEFTOVERS)
    found = host.check_output(
        f"ls -d {places} 2>/dev/null; ls -A /mnt; find /var/cache/apt/archives /var/lib/apt/lists -type f ! -name lock"
    )
    assert found == ""


def test_no_key_of_the_build_lets_anybody_in(host: Any) -> None:
    """Packer's own key is named after the build; nobody but root has keys at all."""
    found = host.check_output("cat /root/.ssh/authorized_keys* /home/*/.ssh/authorized_keys* 2>/dev/null; true")
    assert [line for line in found.splitlines() if re.search(r"phoenix-build|packer", line)] == []
    assert host.check_output("ls -d /home/*/.ssh/authorized_keys* 2>/dev/null; true") == ""


def test_nothing_patches_it_in_place(host: Any) -> None:
    if is_container(host):
        return
    states = host.check_output(f"systemctl is-enabled {' '.join(SELF_UPDATES)} 2>/dev/null; true").splitlines()
    assert [state for state in states if state != "masked"] == []
    assert len(states) == len(SELF_UPDATES)


def test_reboot_is_the_one_that_works_here(host: Any) -> None:
    if not is_container(host):
        assert host.check_output("cat /proc/1/comm") == "systemd"
        assert host.exists("reboot")
        return
    assert host.check_output("command -v reboot") == "/usr/local/sbin/reboot"
    assert host.check_output("tr '\\0' ' ' </proc/1/cmdline").split()[-1] == "/usr/local/sbin/phoenix-init"
